"""Where a cache is and how large: arguments, environment, ``ioaccel.toml``, a daemon, defaults.

The first that says something wins, setting by setting.

=====================  ==========================  ==================================================
argument               environment                 ``ioaccel.toml``
=====================  ==========================  ==================================================
``cache_dir``          ``IOACCEL_CACHE_DIR``       ``cache_dir``: a string or a list
``cache_size``         ``IOACCEL_CACHE_SIZE``      ``cache_size``: ``"100GB"``, a number, or a list
``consistency``                                    ``consistency``
``max_age``                                        ``max_age``: seconds
``storage_options``                                ``[storage_options]``
=====================  ==========================  ==================================================

``ioaccel.toml`` is looked for in ``$IOACCEL_CONFIG``, the working directory,
``$XDG_CONFIG_HOME/ioaccel/`` (``~/.config/ioaccel/``) and ``/etc``; the first found is read. Several
directories in ``IOACCEL_CACHE_DIR`` are separated by ``:``.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ioaccel.errors import ConfigError

Size = int | float | str
PathLike = str | os.PathLike[str]

CONSISTENCIES = ("session", "immutable")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "pi": 2**50}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?i?)b?\s*\Z", re.IGNORECASE)

# More than any node has; a slip of the unit is likelier.
_LARGEST = 10**18


class ConfigFile(msgspec.Struct):
    """What ``ioaccel.toml`` may say."""

    cache_dir: str | list[str] | None = None
    cache_size: int | float | str | list[int | float | str] | None = None
    consistency: str | None = None
    max_age: float | None = None
    storage_options: dict[str, Any] = {}


@dataclass(frozen=True)
class CacheConfig:
    """Everything a ``connect()`` has settled. Picklable; holds secrets in ``storage_options`` only."""

    directories: tuple[str, ...]  # real paths, sorted: the first one holds the socket
    capacities: tuple[int | None, ...]  # payload bytes, one a directory; None: as it was made
    consistency: str = "session"
    max_age: float | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    # Who said so, setting by setting: "argument", the variable, the file, "ioaccel serve" or "default".
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


def load(
    cache_dir: PathLike | Sequence[PathLike] | None = None,
    cache_size: Size | Sequence[Size] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    consistency: str | None = None,
    max_age: float | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    ask_daemon: bool = True,
) -> CacheConfig:
    """Settles the configuration. ConfigError names what makes no sense, and where it was said.

    ``ask_daemon=False`` is for the daemon itself: what another one serves, or served, is not its concern.
    """
    path, file = read_file(environ)
    in_file = str(path)
    directories, dir_origin = _directories(cache_dir, file.cache_dir, in_file, environ, ask_daemon=ask_daemon)
    served = dir_origin == _SERVE  # then the size is what the daemon was started with: the cache says it
    size, size_origin = _first(
        (cache_size, "argument"),
        (None if served else environ.get("IOACCEL_CACHE_SIZE") or None, "IOACCEL_CACHE_SIZE"),
        (None if served else file.cache_size, in_file),
        (None, dir_origin if served else "default"),
    )
    age, age_origin = _first((max_age, "argument"), (file.max_age, in_file), (None, "default"))
    if age is not None and not (isinstance(age, (int, float)) and age >= 0):
        raise ConfigError(
            f"max_age is a number of seconds of at least 0, not {age!r}{_said_in(age_origin, path)}"
        )
    mode, mode_origin = _first(
        (consistency or None, "argument"), (file.consistency, in_file), ("session", "default")
    )
    if mode not in CONSISTENCIES:
        raise ConfigError(
            f"consistency is one of {', '.join(map(repr, CONSISTENCIES))}, not {mode!r}"
            f"{_said_in(mode_origin, path)}"
        )
    options, options_origin = _first(
        (storage_options, "argument"), (file.storage_options or None, in_file), ({}, "default")
    )
    if not isinstance(options, Mapping):
        raise ConfigError(f"storage_options is a dictionary, not {options!r}")
    try:
        capacities = split_size(size, directories)
    except ConfigError as error:
        if size_origin == "argument":
            raise
        raise ConfigError(f"{size_origin}: {error}") from error
    order = sorted(range(len(directories)), key=lambda i: directories[i])
    return CacheConfig(
        tuple(directories[i] for i in order),
        tuple(capacities[i] for i in order),
        mode,
        age,
        dict(options),
        {
            "cache_dir": dir_origin,
            "cache_size": size_origin,
            "consistency": mode_origin,
            "max_age": age_origin,
            "storage_options": options_origin,
        },
    )


_SERVE = "ioaccel serve"


def _first(*choices: tuple[Any, str]) -> tuple[Any, str]:
    """The first value that is not None, and who said it; the last one if all are."""
    return next((choice for choice in choices if choice[0] is not None), choices[-1])


def _said_in(origin: str, path: Path | None) -> str:
    return f" in {path}" if path is not None and origin == str(path) else ""


def read_file(environ: Mapping[str, str] = os.environ) -> tuple[Path | None, ConfigFile]:
    """The first ``ioaccel.toml`` found, and what it says."""
    named = environ.get("IOACCEL_CONFIG")
    home = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = [Path("ioaccel.toml"), home / "ioaccel" / "ioaccel.toml", Path("/etc/ioaccel.toml")]
    for path in [Path(named)] if named else places:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is no text in UTF-8: {error}", url=str(path)) from error
        except FileNotFoundError:
            if named:
                raise ConfigError(f"IOACCEL_CONFIG names {path}, which does not exist", url=named) from None
            continue
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}", url=str(path)) from error
        try:
            said = tomllib.loads(text)
            _check_names(said, path)
            return path.absolute(), msgspec.convert(said, ConfigFile)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ConfigError(f"{path}: {error}", url=str(path)) from error
    return None, ConfigFile()


def _check_names(said: Mapping[str, Any], path: Path) -> None:
    """ConfigError for a setting that there is not, with the one that was likely meant."""
    known = ConfigFile.__struct_fields__
    for name in said.keys() - set(known):
        import difflib

        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"{path}: there is no setting {name!r}; {hint}The settings are {', '.join(known)}", url=str(path)
        )


def _directories(
    given: PathLike | Sequence[PathLike] | None,
    in_file: str | list[str] | None,
    file: str,
    environ: Mapping[str, str],
    *,
    ask_daemon: bool,
) -> tuple[list[str], str]:
    """The real paths of the cache directories, and who said so."""
    listed = [p for p in environ.get("IOACCEL_CACHE_DIR", "").split(":") if p]
    chosen, origin = _first(
        (given, "argument"), (listed or None, "IOACCEL_CACHE_DIR"), (in_file, file), (None, _SERVE)
    )
    if chosen is None and ask_daemon:
        chosen = served_directories(environ)
    if chosen is None:
        origin = "default"
        chosen = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ioaccel"
    names = [chosen]
    if not isinstance(chosen, (str, os.PathLike)) and isinstance(chosen, Iterable):
        names = list(chosen)
    if not names or not all(isinstance(n, (str, os.PathLike)) and os.fspath(n) for n in names):
        raise ConfigError(f"cache_dir is a path or a list of paths, not {chosen!r}")
    paths = [os.path.realpath(os.path.expanduser(os.fspath(n))) for n in names]
    if len(set(paths)) < len(paths):
        raise ConfigError(f"cache_dir names one directory twice: {', '.join(map(str, names))}")
    return paths, origin


# ---- sizes --------------------------------------------------------------------------------------


def parse_size(value: Size) -> int | float:
    """Bytes of ``100``, ``"100GB"`` (10^9) or ``"64MiB"`` (2^20); ``0.8`` and ``"80%"`` are 0.8 (of a disk).

    ConfigError for anything that is not a positive size.
    """
    size = _fraction_or_bytes(value)
    if size is None or not math.isfinite(size) or size <= 0:
        raise ConfigError(
            "cache_size is a positive size such as '100GB', '64MiB', 10_000_000 or 0.8 (of the disk), "
            f"not {value!r}"
        )
    if isinstance(size, float) and size > 1:
        size = int(size)
    if size > _LARGEST:
        raise ConfigError(f"cache_size {value!r} is more than any disk holds; check its unit")
    return size


def _fraction_or_bytes(value: object) -> int | float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, str):
        return None
    if value.strip().endswith("%"):
        match = _SIZE.match(value.strip()[:-1])
        return float(match[1]) / 100 if match and not match[2] else None
    match = _SIZE.match(value)
    if match is None or match[2].lower() == "i":
        return None
    unit = match[2].lower()
    if not unit and "." in match[1]:
        return float(match[1])
    return int(float(match[1]) * (_UNITS.get(unit) or _BINARY[unit]))


def split_size(size: Any, directories: Sequence[str]) -> list[int | None]:
    """The bytes of each directory: as given one by one, or a total shared by the sizes of the disks."""
    if size is None:
        return [None] * len(directories)
    disks = [disk_of(d) for d in directories]
    if not isinstance(size, str) and isinstance(size, Iterable):
        sizes = list(size)
        if len(sizes) != len(directories):
            raise ConfigError(f"cache_size has {len(sizes)} entries for {len(directories)} directories")
        each = zip(sizes, directories, disks, strict=True)
        return [_bytes_of(parse_size(s), directory, total) for s, directory, (_, total) in each]
    parsed = parse_size(size)
    shares = [total / sum(d == device for d, _ in disks) for device, total in disks]
    if isinstance(parsed, float):
        return [max(1, int(parsed * share)) for share in shares]
    if parsed > sum(shares):
        raise ConfigError(
            f"cache_size {size!r} is more than the {_amount(sum(shares))} of the disks of "
            f"{', '.join(directories)}; choose less, or other disks"
        )
    return [max(1, int(parsed * share / sum(shares))) for share in shares]


def _bytes_of(parsed: int | float, directory: str, total: float) -> int:  # noqa: PYI041  # mypy tells them apart
    if isinstance(parsed, float):
        return max(1, int(parsed * total))
    if parsed > total:
        raise ConfigError(
            f"cache_size {parsed} is more than the {_amount(total)} of the disk of {directory}; choose less, "
            "or another disk"
        )
    return parsed


def _amount(count: float) -> str:
    return f"{count / 1e9:,.0f} GB" if count >= 1e10 else f"{count / 1e6:,.0f} MB"


def nearest(path: Path) -> Path:
    """A path, or the next one above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def disk_of(directory: str | os.PathLike[str]) -> tuple[int, float]:
    """The device of a directory, which may not exist yet, and its size in bytes."""
    path = nearest(Path(directory))
    stat = os.statvfs(path)
    return os.stat(path).st_dev, float(stat.f_blocks * stat.f_frsize)


# ---- the standalone daemon ----------------------------------------------------------------------


class Served(msgspec.Struct):
    """What ``ioaccel serve`` leaves for ``connect()`` to find."""

    pid: int
    directories: list[str]


def runtime_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the standalone daemon of this user says which directories it serves."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "ioaccel" if runtime else Path(f"/tmp/ioaccel-{os.getuid()}")  # noqa: S108  # its owner is checked
    return base / "daemon.json"


def served_directories(environ: Mapping[str, str] = os.environ) -> list[str] | None:
    """The directories of this user's daemon, or None if there is none.

    A daemon that was killed left its file, and counts while its cache is there: the jobs that read it go
    on with an engine of their own, and a new one must not begin elsewhere with nothing.
    """
    path = runtime_file(environ)
    try:
        if path.parent.stat().st_uid != os.getuid():
            return None
        served = msgspec.json.decode(path.read_bytes(), type=Served)
    except (OSError, msgspec.MsgspecError):
        return None
    # os.path, and not Path: that raises what a mount that has failed says.
    there = any(os.path.exists(f"{directory}/shard.data") for directory in served.directories)
    return served.directories if there else None
