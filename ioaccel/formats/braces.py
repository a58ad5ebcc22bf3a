"""Brace patterns in URLs, with the meaning that WebDataset (the package ``braceexpand``) gives them."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterable, Sequence

from ioaccel.errors import ConfigError, UnsupportedURLError

_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\Z")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?\Z")
_ALPHABET = string.ascii_uppercase + string.ascii_lowercase


def expand_braces(pattern: str) -> list[str]:
    r"""All strings that a pattern stands for, in order.

    ``train-{0000..0146}.tar`` counts, with as many digits; ``{0..9..3}`` in steps; ``{a..e}`` spells;
    ``{train,val}`` lists. Groups combine, the last one fastest, and nest. Braces around anything else stay as
    they are, and so does what a backslash precedes (``\{``). ConfigError if a brace is not closed.
    """
    return [re.sub(r"\\(.)", r"\1", text) for text in _expand(pattern, pattern)]


def expand_urls(urls: str | Iterable[str]) -> list[str]:
    """The URLs that one pattern, or a list of patterns, stands for. ConfigError for none."""
    patterns = [urls] if isinstance(urls, str) else list(urls)
    found = [url for pattern in patterns for url in expand_braces(pattern)]
    if not found:
        raise ConfigError(
            "the list of shards is empty; pass a URL such as 's3://bucket/train-{0000..0146}.tar'"
        )
    for url in found:
        if url.endswith("/"):
            raise UnsupportedURLError(
                f"{url} is a prefix, and the shards below it are wanted by name: pass "
                f"'{url}train-{{0000..0146}}.tar', or a list of URLs",
                url=url,
            )
    return found


def _expand(text: str, whole: str) -> list[str]:
    parts: list[Sequence[str]] = []
    start = 0
    for begin, end in _groups(text, whole):
        parts += [[text[start:begin]], _group(text[begin + 1 : end], whole)]
        start = end + 1
    parts.append([text[start:]])
    return ["".join(choice) for choice in itertools.product(*parts)]


def _group(inner: str, whole: str) -> list[str]:
    """What stands for ``{inner}``."""
    if match := _NUMBERS.match(inner):
        first, last, step = match.groups()
        padded = any(
            number.removeprefix("-").startswith("0") for number in (first, last) if number not in ("0", "-0")
        )
        width = max(len(first), len(last)) if padded else 0
        return [f"{number:0{width}d}" for number in _range(int(first), int(last), step)]
    if match := _LETTERS.match(inner):
        first, last, step = match.groups()
        return [_ALPHABET[n] for n in _range(_ALPHABET.index(first), _ALPHABET.index(last), step)]
    commas = [-1]
    hidden = [range(begin, end) for begin, end in _groups(inner, whole)]
    commas += [
        m.end() - 1
        for m in re.finditer(r"\\.|,", inner)
        if m[0] == "," and not any(m.start() in h for h in hidden)
    ]
    if len(commas) == 1:  # neither a range nor a list
        return ["{" + text + "}" for text in _expand(inner, whole)]
    items = [inner[a + 1 : b] for a, b in itertools.pairwise([*commas, len(inner)])]
    return [text for item in items for text in _expand(item, whole)]


def _range(first: int, last: int, step: str | None) -> range:
    by = int(step or 1) or 1
    return range(first, last + 1, by) if first < last else range(first, last - 1, -by)


def _groups(text: str, whole: str) -> list[tuple[int, int]]:
    """Where the outermost braces of a text open and close."""
    found: list[tuple[int, int]] = []
    opened: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}":
            if not opened:
                break
            begin = opened.pop()
            if not opened:
                found.append((begin, match.start()))
    else:
        if not opened:
            return found
    raise ConfigError(f"{whole}: a brace is not closed, or was not opened; write \\{{ for a brace in a name")
