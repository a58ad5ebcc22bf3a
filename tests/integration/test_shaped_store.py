"""The shaped store is an S3 store to its clients, and has the shape that was asked for."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from support.data import payload
from support.processes import gone, python, run_python, wait_for

import ioaccel
from ioaccel.testing import shaped
from ioaccel.testing.shaped import ShapedStore, find_nginx

try:
    find_nginx()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)

STRANGE = "d/a b+é%41&<1>.txt"  # a key that every encoding on the way could spoil


@pytest.fixture(scope="module")
def store() -> Iterator[ShapedStore]:
    """Without delay: what is true of every shape."""
    with ShapedStore() as store:
        store.create_bucket("b")
        store.put("b", STRANGE, payload(STRANGE, 10_000))
        store.put("b", "empty", b"")
        store.put_many("b", ((f"many/{n // 500}/{n:04d}", b"%04d" % n) for n in range(2500)))
        store.put("b", "many-more", b"not below many/")
        yield store


def ask(
    store: ShapedStore, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request."""
    request = urllib.request.Request(
        f"{store.endpoint}/b/{urllib.parse.quote(path)}",
        method=method,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


# ---- what S3 answers ----------------------------------------------------------------------------


def test_whole_objects_and_ranges(store: ShapedStore) -> None:
    data = payload(STRANGE, 10_000)
    status, headers, body = ask(store, STRANGE)
    assert (status, body, headers["Content-Length"]) == (200, data, "10000")
    assert "Last-Modified" in headers
    for asked, start, stop in (("10-19", 10, 20), ("9990-", 9990, 10_000), ("-7", 9993, 10_000)):
        status, headers, body = ask(store, STRANGE, Range=f"bytes={asked}")
        assert (status, body) == (206, data[start:stop])
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/10000"
    assert ask(store, STRANGE, "HEAD")[1]["Content-Length"] == "10000"
    assert ask(store, "empty")[::2] == (200, b"")


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("absent", {}, 404, "NoSuchKey"),
        ("many", {}, 404, "NoSuchKey"),  # a directory, which S3 does not have
        ("many/", {}, 404, "NoSuchKey"),
        ("many-more", {"Range": "bytes=15-"}, 416, "InvalidRange"),
        ("many-more", {"If_Match": '"another"'}, 412, "PreconditionFailed"),
    ],
)
def test_errors_are_worded_as_s3_does(
    store: ShapedStore, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    found, sent, body = ask(store, path, **headers)
    assert (found, sent["Content-Type"]) == (status, "application/xml")
    assert f"<Code>{code}</Code>".encode() in body
    assert ask(store, path, "HEAD", **headers)[::2] == (status, b"")


def test_a_new_version_has_a_new_etag(store: ShapedStore) -> None:
    first = store.put("b", "version", b"one")
    second = store.put("b", "version", b"two")
    assert first != second
    assert ask(store, "version", If_Match=first)[0] == 412
    status, headers, body = ask(store, "version", If_Match=second)
    assert (status, body, headers["ETag"]) == (200, b"two", second)
    store.delete("b", "version")
    assert ask(store, "version")[0] == 404


def test_a_listing_has_the_etags_of_answers(store: ShapedStore) -> None:
    store.put("b", "late/x", b"at the end of a second")
    os.utime(store.directory / "b/late/x", ns=(0, 1_700_000_000_999_999_999))
    _, headers, _ = ask(store, "late/x")
    with urllib.request.urlopen(f"{store.endpoint}/b?list-type=2&prefix=late/", timeout=30) as answer:
        assert f"<ETag>{escape(headers['ETag'])}</ETag>".encode() in answer.read()


def test_counts(store: ShapedStore) -> None:
    store.reset()
    ask(store, STRANGE)
    ask(store, STRANGE, Range="bytes=0-99")
    ask(store, STRANGE, "HEAD")
    counts = store.reset()
    assert counts.requests == {("GET", 200): 1, ("GET", 206): 1, ("HEAD", 200): 1}
    assert counts.bytes == 10_100
    assert not store.counts().requests


# ---- through the clients, each in a process of its own: obstore is not safe to fork after ----------

WITH_OBSTORE = """
import sys, obstore
from obstore.exceptions import PreconditionError
from obstore.store import S3Store
endpoint, key = sys.argv[1:]
store = S3Store("b", endpoint=endpoint, access_key_id="k", secret_access_key="s", region="us-east-1",
                virtual_hosted_style_request=False, client_options={"allow_http": True})
got = obstore.get(store, key)
data = bytes(got.bytes())
assert bytes(obstore.get_range(store, key, start=5, end=25)) == data[5:25]
etag = obstore.head(store, key)["e_tag"]
assert etag == got.meta["e_tag"]
options = {"range": (0, 10), "if_match": etag}
assert bytes(obstore.get(store, key, options=options).bytes()) == data[:10]
refusals = [({"if_match": '"x"'}, key, PreconditionError), ({}, "absent", FileNotFoundError)]
for options, path, error in refusals:
    try:
        obstore.get(store, path, options=options)
    except error:
        continue
    raise AssertionError(error)
listed = [meta for page in obstore.list(store, "many", chunk_size=700) for meta in page]
assert [meta["path"] for meta in listed] == [f"many/{n // 500}/{n:04d}" for n in range(2500)]
assert listed[0]["e_tag"] == obstore.head(store, listed[0]["path"])["e_tag"]
after = [m["path"] for page in obstore.list(store, "many", offset="many/4/2498") for m in page]
assert after == ["many/4/2499"], after
found = obstore.list_with_delimiter(store, "many")
assert sorted(found["common_prefixes"]) == [f"many/{n}" for n in range(5)], found
assert key in [m["path"] for page in obstore.list(store) for m in page]
sys.stdout.write(data.hex())
"""

WITH_S3FS = """
import sys, fsspec
endpoint, key = sys.argv[1:]
options = {"key": "k", "secret": "s", "endpoint_url": endpoint, "skip_instance_cache": True}
with fsspec.open(f"s3://b/{key}", "rb", **options) as file:
    data = file.read()
fs = fsspec.filesystem("s3", **options)
assert fs.cat_file(f"b/{key}", start=5, end=25) == data[5:25]
assert len(fs.find("b/many")) == 2500
assert sorted(fs.ls("b/many", detail=False)) == [f"b/many/{n}" for n in range(5)]
assert fs.info(f"b/{key}")["ETag"] == fs.ls("b/d", detail=True)[0]["ETag"]
assert f"b/{key}" in fs.ls("b/d", detail=False)
assert not fs.exists("b/absent") and fs.isdir("b/many") and fs.exists("b") and "b" in fs.ls("")
sys.stdout.write(data.hex())
"""


@pytest.mark.parametrize("code", [WITH_OBSTORE, WITH_S3FS], ids=["obstore", "s3fs"])
def test_clients(store: ShapedStore, code: str) -> None:
    # Without warnings as errors: s3fs leaves its event loop behind when the process ends.
    output = run_python(f"import warnings; warnings.simplefilter('default')\n{code}", store.endpoint, STRANGE)
    assert bytes.fromhex(output) == payload(STRANGE, 10_000)


def test_ioaccel(store: ShapedStore, tmp_path: Path) -> None:
    store.reset()
    with ioaccel.connect(tmp_path / "cache", "100MB", store.storage_options) as cache:
        table = cache.manifest("s3://b/many/")
        keys = table["key"].to_pylist()
        assert keys == [f"many/{n // 500}/{n:04d}" for n in range(2500)]
        assert store.reset().requests["LIST", 200] == 3  # a page a thousand
        for _ in range(2):
            batch = cache.read_many([f"s3://b/{key}" for key in keys[:500]])
            assert [bytes(each) for each in batch] == [b"%04d" % n for n in range(500)]
        counts = store.reset()
        # The version is that of the listing: were its etag not the one of GET, reads would be refused.
        assert set(counts.requests) <= {("GET", 206), ("LIST", 200)}
        assert 500 <= counts.requests["GET", 206] <= 520  # a slow request may be asked twice: hedging
        assert cache.read(f"s3://b/{STRANGE}") == payload(STRANGE, 10_000)


# ---- the shape ----------------------------------------------------------------------------------


def seconds(store: ShapedStore, path: str) -> float:
    begun = time.perf_counter()
    assert ask(store, path)[0] == 200
    return time.perf_counter() - begun


def test_delay_and_rate() -> None:
    with ShapedStore(delay_ms=40, rate=10_000_000) as store:
        store.create_bucket("b")
        store.put("b", "empty", b"")
        store.put("b", "small", b"x" * 200_000)
        store.put("b", "large", b"x" * 5_000_000)
        # Never sooner; later if the machine is busy, but not each time.
        for path, least in (("empty", 0.04), ("small", 0.06), ("large", 0.54)):
            fastest = min(seconds(store, path) for _ in range(5))
            assert least * 0.97 < fastest < least * 1.2 + 0.02, path


def test_throttling(tmp_path: Path) -> None:
    with ShapedStore(throttled=0.2, workers=2) as store:
        store.create_bucket("b")
        store.put_many("b", ((f"{n:03d}", b"%d" % n) for n in range(200)))
        answers = [ask(store, "007") for _ in range(200)]
        refused = [body for status, _, body in answers if status == 503]
        assert all(b"<Code>SlowDown</Code>" in body for body in refused)
        assert 10 < len(refused) < 90  # 40 are expected
        assert store.reset().throttled == len(refused)
        with ioaccel.connect(tmp_path / "cache", "100MB", store.storage_options) as cache:
            batch = cache.read_many([f"s3://b/{n:03d}" for n in range(200)])
            assert [int(bytes(each)) for each in batch] == list(range(200))
        counts = store.counts()
        assert counts.throttled > 0
        assert 200 <= counts.requests["GET", 206] <= 210


# ---- its life -----------------------------------------------------------------------------------

STARTER = """
import sys, tempfile, time
from ioaccel.testing.shaped import ShapedStore
tempfile.tempdir = sys.argv[1]  # a process that is killed leaves its files
with ShapedStore(workers=2) as store:
    print(store.pid, flush=True)
    time.sleep(60)
"""


def test_it_does_not_outlive_its_starter(tmp_path: Path) -> None:
    with python(STARTER, tmp_path) as starter:
        assert starter.stdout is not None
        master = int(starter.stdout.readline())
        workers = list(map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()))
        assert len(workers) == 2
        os.kill(starter.pid, signal.SIGKILL)
        wait_for(lambda: all(map(gone, (master, *workers))))


def test_it_leaves_no_files_and_keeps_given_ones(tmp_path: Path) -> None:
    with ShapedStore(tmp_path / "a b") as store:  # a space, which nginx's configuration must stand
        store.create_bucket("b")
        store.put("b", "key", b"data")
        assert ask(store, "key")[2] == b"data"
        run = store._run
    assert not run.exists()
    assert (tmp_path / "a b" / "b" / "key").read_bytes() == b"data"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaped.shutil, "which", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match=re.escape("apt-get install nginx libnginx-mod-http-lua")):
        ShapedStore().__enter__()
