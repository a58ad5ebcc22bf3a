"""Brace patterns, against the package that WebDataset uses."""

from __future__ import annotations

import braceexpand
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioaccel.errors import ConfigError, UnsupportedURLError
from ioaccel.formats.braces import expand_braces, expand_urls

PIECES = [
    "{",
    "}",
    ",",
    "..",
    "a",
    "c",
    "Z",
    "0",
    "1",
    "12",
    "007",
    "-",
    "\\",
    "/",
    "{0..3}",
    "{a,b}",
    "{01..3}",
    "{5..1..2}",
]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("s3://b/t-{0000..0002}.tar", ["s3://b/t-0000.tar", "s3://b/t-0001.tar", "s3://b/t-0002.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{0..9..4}", ["0", "4", "8"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{a..c}", ["a", "b", "c"]),
        ("{train,val}-{0..1}", ["train-0", "train-1", "val-0", "val-1"]),
        ("{a,b{1..2}}", ["a", "b1", "b2"]),
        ("x{,y}", ["x", "xy"]),
        ("plain", ["plain"]),
        ("{one}", ["{one}"]),
        (r"\{1..2\}", ["{1..2}"]),
    ],
)
def test_examples(pattern: str, expected: list[str]) -> None:
    assert expand_braces(pattern) == expected


# braceexpand takes escapes of escapes away twice.
PATTERNS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@given(PATTERNS.filter(lambda text: text.count("{") < 5 and r"\\" not in text))
def test_as_webdataset_does(pattern: str) -> None:
    try:
        ours = expand_braces(pattern)
    except ConfigError:
        return  # stricter: braceexpand takes "}{" for a pair
    assert ours == list(braceexpand.braceexpand(pattern))


@pytest.mark.parametrize("pattern", ["{", "a}", "{a,b", "}{", "{1..2}}"])
def test_an_open_brace_is_an_error(pattern: str) -> None:
    with pytest.raises(ConfigError, match="brace"):
        expand_braces(pattern)


def test_lists_of_patterns() -> None:
    assert expand_urls(["a-{0..1}", "b"]) == ["a-0", "a-1", "b"]
    with pytest.raises(ConfigError, match="empty"):
        expand_urls([])
    with pytest.raises(
        UnsupportedURLError, match=r"s3://b/train/ is a prefix, .*pass 's3://b/train/train-\{0000\.\."
    ):
        expand_urls("s3://b/{train,val}/")
