"""The compiled core: one module for each concept of csrc."""

from importlib.util import find_spec

if find_spec("ioaccel._core._client") is None:
    raise ImportError(
        f"the core of ioaccel is not built in {__path__[0]}: run `make` in a clone, or go to another "
        "directory to use the one that is installed"
    )
