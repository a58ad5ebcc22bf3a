"""What ``ioaccel demo`` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The options of ``ioaccel demo``; the defaults take half a minute on two cores."""

    url: str | None = None
    """Train on the objects below this URL; None: on photographs, in a server that the demo starts."""

    samples: int = 1000
    """Objects an epoch; of a URL that holds more, these many are picked evenly."""

    epochs: int = 3
    """Epochs of each of the two runs."""

    batch_size: int = 64
    """Samples a batch."""

    workers: int = 2
    """``DataLoader(num_workers=...)``; 0 reads in the training process itself."""

    latency_ms: float = 10.0
    """No answer of the demo's own server begins sooner than this, in milliseconds; 0: no delay.

    An object store takes 10-40 ms to the first byte, a server on the same machine takes 1 ms. The
    default is the quick end of that range, which flatters ioaccel least. Not used with ``url``.
    """

    json: Path | None = None
    """Write the figures to this file."""

    picture: Path = Path("ioaccel-demo.png")
    """Write the chart to this file."""

    cache_dir: Path | None = None
    """Directory of the cache; None: a temporary one that is removed at the end."""

    cache_size: str = "2GB"
    """Size of the cache."""

    storage_options: Mapping[str, object] | None = None
    """How to reach ``url``, in fsspec's names (key, secret, endpoint_url); None: as the environment says."""
