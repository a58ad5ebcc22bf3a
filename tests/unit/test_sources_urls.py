"""URLs: one spelling an object, and nothing that obstore would read as another object."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioaccel.errors import UnsupportedURLError
from ioaccel.sources import canonical, split, split_object_url
from ioaccel.sources.urls import why_unaddressable


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b/k", "s3://b/k"),
        ("s3://b/a b%20c+d?e#f", "s3://b/a b%20c+d?e#f"),
        ("s3a://b/k", "s3://b/k"),
        ("S3://b/K", "s3://b/K"),
        ("gcs://b/k", "gs://b/k"),
        ("azure://c/k", "az://c/k"),
        ("abfs://c/k", "az://c/k"),
        ("https://h:8/p?q=1", "https://h:8/p?q=1"),
        ("memory://a/b", "memory://a/b"),
        ("hf://datasets/a/b", "hf://datasets/a/b"),
        ("/a/b c%20d", "file:///a/b c%20d"),
        ("/a//b/../c/./d/", "file:///a/c/d"),
        ("//a/b", "file:///a/b"),
        ("file:///a/b", "file:///a/b"),
        ("file:///a/../b", "file:///b"),
        ("file:///a/..b", "file:///a/..b"),
        ("file:/a", "file:///a"),
        ("local:///a", "file:///a"),
        ("file:////a", "file:///a"),
        ("/", "file:///"),
    ],
)
def test_canonical(url: str, expected: str) -> None:
    assert canonical(url) == expected
    assert canonical(expected) == expected


def test_a_canonical_url_is_returned_as_the_same_string() -> None:
    for url in ("s3://b/k", "gs://b/k", "file:///a/b.c/d..e", "https://h/k"):
        assert canonical(url) is url


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert canonical("a/b") == canonical("file://a/b") == f"file://{tmp_path}/a/b"
    assert canonical(Path("a")) == f"file://{tmp_path}/a"
    assert canonical("a/s3://b") == f"file://{tmp_path}/a/s3:/b"
    assert canonical("~/x") == "file:///home/me/x"
    assert canonical("~x") == f"file://{tmp_path}/~x"


@pytest.mark.parametrize(
    "url",
    ["", "file://", "/a\0b", "abfs://c@account.dfs.core.windows.net/k", "ioaccel://s3://b/k", "/a\udc80"],
)
def test_urls_that_name_nothing(url: str) -> None:
    with pytest.raises(UnsupportedURLError) as caught:
        canonical(url)
    assert caught.value.url == url
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), UnsupportedURLError)


def test_split() -> None:
    assert split("s3a://b/k") == ("s3", "b/k")
    assert split("/a") == ("file", "/a")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b/k", ("s3", "b", "k")),
        ("s3://b/a b%20c+d?e#f", ("s3", "b", "a b%20c+d?e#f")),
        ("s3://my.bucket_1/a/b::c", ("s3", "my.bucket_1", "a/b::c")),
        ("az://$web/k", ("az", "$web", "k")),
        ("https://h:80/a//b?x=/../", ("https", "h:80", "a//b?x=/../")),
        ("http://[::1]:9/k", ("http", "[::1]:9", "k")),
        ("/a/b", ("file", "", "/a/b")),
        ("memory://a/b", ("memory", "", "a/b")),
    ],
)
def test_split_object_url(url: str, expected: tuple[str, str, str]) -> None:
    assert split_object_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://b",
        "s3://b/",
        "s3:///k",
        "s3://../k",
        "s3://a b/k",
        "s3://a#b/k",
        "s3://a?b/k",
        "s3://b//k",
        "s3://b/k/",
        "s3://b/x//y",
        "s3://b/x/../y",
        "s3://b/.",
        "s3://b/a\nb",
        "s3://b/a\x7fb",
        "gs://b/./k",
        "https:///k",
        "https://h",
        "https://user:password@h/k",
        "memory://",
        "zip://a.jpg::s3://b/x.zip",
    ],
)
def test_objects_that_cannot_be_asked_for(url: str) -> None:
    with pytest.raises(UnsupportedURLError) as caught:
        split_object_url(url)
    assert caught.value.url == url
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("url", ["s3://b", "s3://b/", "s3://b/k/", "az://c/a/b/"])
def test_a_prefix_is_told_from_a_key_that_cannot_be_asked_for(url: str) -> None:
    with pytest.raises(UnsupportedURLError, match=r"pass the URL of an object; manifest\(url\)"):
        split_object_url(url)


@given(st.text(max_size=20))
def test_a_key_is_addressable_if_obstore_keeps_it_as_it_is(key: str) -> None:
    import obstore
    from obstore.store import MemoryStore

    store = MemoryStore()
    try:
        obstore.put(store, key, b"")
        kept = obstore.head(store, key)["path"] == key
    except (ValueError, UnicodeError):
        kept = False
    assert (why_unaddressable(key) is None) == (kept and key != "")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_canonical_paths_stay_what_they_are(path: str) -> None:
    once = canonical("/" + path)
    assert canonical(once) == once
    assert split_object_url(once)[2] == "/" + os.path.abspath("/" + path).lstrip("/")
