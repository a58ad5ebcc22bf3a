"""A user's data set: which of its reads ``accelerate`` would serve, and which it cannot meet."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ioaccel.cli.checks.finding import Finding, note, ok, problem
from ioaccel.errors import ConfigError

if TYPE_CHECKING:
    from ioaccel.cli.options import CacheArguments

# What Python and its libraries open for themselves is no data: modules, certificates, settings, locales.
_NO_DATA = (".py", ".pyc", ".so", ".pth", ".json.gz", ".pem", ".crt", ".mo")
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/", "/usr/share/")
_PACKAGES = ("site-packages", "dist-packages")
_OF_PYTHON = ("lib/", "share/", "ssl/")  # below its prefix
_SETTINGS = (".aws/", ".azure/", ".config/", ".boto", ".netrc")  # below the home directory
_WRITES = os.O_WRONLY | os.O_CREAT


class _Watch:
    """What happens in this process while samples are read, as Python's audit events tell."""

    def __init__(self, own: Sequence[str]) -> None:
        """``own`` are directories in which nothing is data: those of the cache."""
        home = os.path.expanduser("~")
        self._no_data = (
            *_SYSTEM,
            *(f"{directory}/" for directory in own),
            *(f"{prefix}/{name}" for prefix in (sys.prefix, sys.base_prefix) for name in _OF_PYTHON),
            *(f"{home}/{name}" for name in _SETTINGS),
        )
        self.on = False
        self.opened: list[str] = []
        self.connected: list[str] = []
        sys.addaudithook(self._event)  # for the rest of the process: it is the command's own

    def _event(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if name == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if self._is_data(path) and not arguments[2] & _WRITES:
                self.opened.append(path)
        elif name == "socket.connect" and isinstance(arguments[1], tuple):
            self.connected.append(":".join(map(str, arguments[1][:2])))

    def _is_data(self, path: str) -> bool:
        return not (
            path.endswith(_NO_DATA)
            or path.startswith(self._no_data)
            or any(part in _PACKAGES for part in path.split("/"))
        )


def check_dataset(name: str, paths: Sequence[str], arguments: CacheArguments) -> Iterator[Finding]:
    """Reads three samples of ``module:name``, through the cache that the arguments name."""
    dataset = load_dataset(name)
    try:
        from ioaccel.torch import accelerate
        from ioaccel.torch.dataset import worker_of
    except ImportError as error:
        yield problem("dataset", f"torch cannot be imported: {error}", "pip install 'ioaccel[torch]'")
        return
    with arguments.connect() as cache:
        worker = worker_of(accelerate(dataset, cache=cache, paths=paths))
        watch = _Watch(cache.directories)
        reads: set[str] = set()
        indices = _some_indices(dataset)
        try:
            for index in indices:
                with worker.scope:
                    watch.on = True
                    dataset[index]
                    watch.on = False
                reads.update(read.url for read in worker.scope.reads)
                worker.take(index)
        except Exception as error:  # noqa: BLE001  # the user's own code
            said = f"{name} raises {type(error).__name__}: {error}"
            yield problem("dataset", said, "mend it: a plain loader raises it, too")
            return
        finally:
            watch.on = False
        yield from _served(name, len(indices), sorted(reads), worker.reads.source())
        yield from _not_served(watch, worker.scope.refused)


def _served(name: str, samples: int, objects: Sequence[str], source: str) -> Iterator[Finding]:
    if objects:
        text = f"{samples} samples of {name} read {len(objects)} objects through the cache: {objects[0]} ..."
        yield ok("dataset", text, objects=list(objects))
        yield ok("dataset", source)
        return
    yield note(
        "dataset",
        f"no read of {samples} samples of {name} can be served by the cache",
        "read with fsspec, ioaccel.open, or open() below a directory that is named with --path",
    )


def _not_served(watch: _Watch, refused: dict[str, str]) -> Iterator[Finding]:
    for what, why in refused.items():
        yield note("dataset", f"{what} is read without the cache: {why}", "see ioaccel config")
    for directory in sorted({str(Path(path).parent) for path in watch.opened}):
        yield note(
            "dataset",
            f"it opens files in {directory} itself",
            f"if that is a slow mount, accelerate(..., paths=[{directory!r}])",
        )
    for address in sorted(set(watch.connected)):
        yield note(
            "dataset",
            f"it connects to {address} itself, as boto3 does: those reads work, and are not accelerated",
            "read with fsspec or ioaccel.open instead",
        )


def load_dataset(name: str) -> Any:
    """The data set ``module:name``: an object, or what a call without arguments returns."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f"--dataset takes module:name, such as train:dataset, not {name!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--dataset {name}: {error}; name a module that can be imported here") from error
    if isinstance(found, type) or not hasattr(found, "__getitem__"):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(
                f"--dataset {name} cannot be made without arguments ({error}); name a function that makes it"
            ) from error
    if not hasattr(found, "__getitem__"):
        raise ConfigError(f"--dataset {name} is a {type(found).__name__}, which has no samples")
    return found


def _some_indices(dataset: Any) -> list[int]:
    count = len(dataset)
    return sorted({0, count // 2, count - 1}) if count else []
