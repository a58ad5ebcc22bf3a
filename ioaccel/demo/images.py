"""A few thousand real JPEGs, cut from the photographs that scikit-image ships in its wheel.

Only files that lie in the installed package are used; nothing is downloaded. The same count and
seed always give the same bytes (for one version of Pillow), so a run can be repeated.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""The photographs in the wheel that are large enough to cut from; each is one class of the data set."""

SIDE = 384
"""Pixels a side of a crop, where the photograph is that large: 54 KB on average at QUALITY."""

QUALITY = 95
"""JPEG quality: what cameras write."""


def crops(count: int, *, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` pairs of key and JPEG: ``coffee/00042.jpg`` is a crop of coffee.png."""
    rng = random.Random(seed)
    photographs = [(Path(name).stem, _load(name)) for name in PHOTOGRAPHS]
    for number in range(count):
        name, photograph = photographs[number % len(photographs)]
        yield f"{name}/{number:05d}.jpg", _cut(photograph, rng)


def _cut(photograph: Image, rng: random.Random) -> bytes:
    """A square at a random place of the photograph, as a JPEG."""
    side = min(SIDE, *photograph.size)
    left = rng.randint(0, photograph.width - side)
    top = rng.randint(0, photograph.height - side)
    jpeg = io.BytesIO()
    photograph.crop((left, top, left + side, top + side)).save(jpeg, "JPEG", quality=QUALITY)
    return jpeg.getvalue()


def _load(name: str) -> Image:
    import PIL.Image

    with PIL.Image.open(_folder() / name) as photograph:
        return photograph.convert("RGB")


def _folder() -> Path:
    """Where scikit-image keeps its data, found without importing it (which takes a second)."""
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("scikit-image is not installed: pip install 'ioaccel[demo]'")
    return Path(package.submodule_search_locations[0]) / "data"
