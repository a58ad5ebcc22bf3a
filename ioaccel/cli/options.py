"""Options that several verbs have, and what becomes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ioaccel.errors import CacheDirectoryError, ConfigError

if TYPE_CHECKING:
    from ioaccel import Cache
    from ioaccel.config import CacheConfig

Directories = Annotated[
    list[str] | None,
    typer.Option("--cache-dir", metavar="DIR", help="Cache directory; repeat it for several disks."),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--cache-size",
        metavar="SIZE",
        help="Size of the cache: 100GB, 64MiB, 80%; one for all directories, or one for each.",
    ),
]
StoreOptions = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--option",
        metavar="KEY=VALUE",
        help="How to reach the store, in fsspec's names, such as endpoint_url=http://host:port or "
        "anon=true; KEY:=JSON for what is no string. Repeat it.",
    ),
]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE", help="Read this file instead of the ioaccel.toml that is found."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class CacheArguments:
    """What the command line says about the cache and the stores."""

    cache_dir: Sequence[str] | None = None
    cache_size: Sequence[str] | None = None
    option: Sequence[str] | None = None
    config: str | None = None

    def __post_init__(self) -> None:
        if self.config is not None:
            if not os.path.isfile(self.config):
                raise ConfigError(f"--config {self.config}: there is no such file", url=self.config)
            # The engine that may be started has to read the same file.
            os.environ["IOACCEL_CONFIG"] = os.path.abspath(self.config)

    @property
    def size(self) -> str | list[str] | None:
        """As `ioaccel.connect` takes it: one for all directories, or one for each."""
        sizes = list(self.cache_size or [])
        return sizes[0] if len(sizes) == 1 else sizes or None

    @property
    def storage_options(self) -> dict[str, Any] | None:
        """The ``-o`` options; None if there are none, so that those of ioaccel.toml hold."""
        return parse_options(self.option) if self.option else None

    def load(self, *, ask_daemon: bool = True) -> CacheConfig:
        """The configuration that is in force; ``ask_daemon`` as in `ioaccel.config.load`."""
        from ioaccel.config import load

        given = list(self.cache_dir or []) or None
        return load(given, self.size, self.storage_options, ask_daemon=ask_daemon)

    def connect(self, *, existing: bool = False, timeout: float = 60.0) -> Cache:
        """The cache, as `ioaccel.connect` opens it.

        ``existing``: CacheDirectoryError if there is none yet, instead of an empty one.
        """
        from ioaccel.client.cache import connect

        if existing:
            directories = [Path(d) for d in self.load().directories]
            if all(d.is_dir() or not d.exists() for d in directories) and not any(
                (d / "shard.data").exists() for d in directories
            ):
                raise CacheDirectoryError(
                    f"there is no cache in {', '.join(map(str, directories))}; name its directory with "
                    "--cache-dir or IOACCEL_CACHE_DIR",
                    url=str(directories[0]),
                )
        return connect(list(self.cache_dir or []) or None, self.size, self.storage_options, timeout=timeout)


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """``["key=x", "headers:={...}"]`` as a dictionary. ConfigError for what is neither."""
    options: dict[str, Any] = {}
    for text in given:
        name, separator, value = text.partition("=")
        is_json = name.endswith(":")
        name = name.removesuffix(":").strip()
        if not separator or not name:
            raise ConfigError(f"-o {_hidden(text)} is not KEY=VALUE; write, say, -o anon=true")
        try:
            options[name] = json.loads(value) if is_json else value
        except ValueError as error:
            raise ConfigError(f"-o {name}:= is followed by what is not JSON: {error}") from error
    return options


def _hidden(text: str) -> str:
    """The beginning of an argument that may be a secret in the wrong place."""
    return repr(text if len(text) <= 4 else f"{text[:4]}...")
