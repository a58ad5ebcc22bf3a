"""What all tests share: one S3 server, an environment without credentials, and no leftovers."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioaccel.client import shared
from ioaccel.testing.seaweed import SeaweedS3

PRIVATE_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "S3_", "STORAGE_EMULATOR_HOST")
LEFTOVER_PATIENCE = 10.0  # seconds for the engines of the last test to leave

_bucket_number = itertools.count(1)


def pytest_configure() -> None:
    """Ctrl-C ends what tests start, also if these run in the background of a shell, where it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What the test modules have imported stays: a test that collects garbage need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def s3() -> Iterator[SeaweedS3]:
    """An S3 server for the whole session; with `pytest -n 2`, one in each of the two processes."""
    with SeaweedS3() as server:
        yield server


@pytest.fixture
def bucket(s3: SeaweedS3) -> str:
    """The name of a bucket that only this test uses."""
    name = f"test-{next(_bucket_number):04d}"
    s3.create_bucket(name)
    return name


@pytest.fixture(scope="session", autouse=True)
def no_credentials() -> Iterator[None]:
    """Hide the developer's own credentials, so that no test depends on them or spends them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(PRIVATE_VARIABLES):
                patch.delenv(name)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the session if an engine that a test started in its temporary directory outlives its clients."""
    yield
    # What lives as long as the process does: fsspec's file systems, and what only a collection finds.
    for key in list(shared._caches):
        shared.close_shared(key)
    gc.collect()
    base = str(tmp_path_factory.getbasetemp())
    deadline = time.monotonic() + LEFTOVER_PATIENCE
    while (left := engines_below(base)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"engines are still running: {left}"


def engines_below(directory: str) -> dict[int, str]:
    """The command lines, by process id, of ioaccel daemons that have to do with ``directory``."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = command + str((process / "cwd").readlink())
        except OSError:  # it has left meanwhile, or is another user's
            continue
        if "ioaccel.daemon" in command and directory in where:
            found[int(process.name)] = command
    return found
