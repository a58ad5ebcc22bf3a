"""A store with a shape: so many milliseconds to the first byte, so many bytes a second, some 503s.

nginx with its Lua module over plain files, so fast that the shape and not the server is what a client
meets: 2,000 and more requests a second of 2 cores that it shares with them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ioaccel.testing.lifetime import dying_with_parent
from ioaccel.testing.s3listing import ListingServer, etag
from ioaccel.testing.shaped_conf import write_configuration

START_DEADLINE = 20.0  # seconds; it takes 0.1 s on an idle machine, 3 s to find that a port is taken
STOP_DEADLINE = 5.0
ATTEMPTS = 5  # with other ports, where another process took one in between
# Below 32768: outgoing connections get no port there, so none is taken in between.
PORTS = range(22_800, 32_700)
MISSING = "the shaped store needs {what}. On Debian or Ubuntu: apt-get install nginx libnginx-mod-http-lua"


@dataclass
class ShapedCounts:
    """What clients got. ``requests`` by kind (GET, HEAD, LIST) and status: ``requests["GET", 206]``."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    bytes: int = 0  # of bodies

    @property
    def throttled(self) -> int:
        """How many were answered with 503."""
        return sum(count for (_, status), count in self.requests.items() if status == 503)


class ShapedStore:
    """An S3 endpoint on localhost for as long as the ``with`` block lasts. It can be read, not written.

    ``directory/bucket/key`` is the file of ``s3://bucket/key``: write there what clients shall see, or
    use `put`; without ``directory``, in a temporary one that goes at the end. Any credentials do.

    ``delay_ms``   before the first byte of each answer
    ``rate``       bytes a second of each connection
    ``throttled``  the share of requests, drawn at random, that get 503 SlowDown
    ``workers``    processes of nginx

    A version is known by the file's size and the whole seconds of its mtime: `put` sees to it that a
    new version differs. A key cannot be the directory of another. The server ends with the thread that
    started it, however that ends. RuntimeError if it does not start; it names what is not installed.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        delay_ms: float = 0.0,
        rate: int | None = None,
        throttled: float = 0.0,
        workers: int = 1,
    ) -> None:
        self._run = Path(tempfile.mkdtemp(prefix="ioaccel-nginx-"))
        self.directory = Path(directory or self._run / "objects").absolute()
        self._delay = delay_ms / 1000
        self._rate = rate or 0
        self._throttled = throttled
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._token = secrets.token_hex(16)
        self._listing = ListingServer(self.directory, self._run / "listing")

    @property
    def endpoint(self) -> str:
        """The URL of the store."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def storage_options(self) -> dict[str, Any]:
        """Endpoint and made-up keys under fsspec's names."""
        return {"key": "any", "secret": "any", "endpoint_url": self.endpoint}

    @property
    def pid(self) -> int | None:
        """nginx's process id; None unless it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        try:
            program, modules = find_nginx()
            self.directory.mkdir(parents=True, exist_ok=True)
            self._listing.__enter__()
        except BaseException:
            shutil.rmtree(self._run, ignore_errors=True)
            raise
        try:
            self._start_somewhere(program, modules)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._listing.__exit__(None, None, None)
        shutil.rmtree(self._run, ignore_errors=True)

    def create_bucket(self, name: str) -> None:
        """Make a bucket. FileExistsError if it exists."""
        (self.directory / name).mkdir()

    def put(self, bucket: str, key: str, data: bytes) -> str:
        """Store an object, at once and whole, and return its etag, which is not that of its last version."""
        path = self.directory / bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        part = self.directory / f".part-{secrets.token_hex(8)}"  # in no bucket
        part.write_bytes(data)
        now = part.stat().st_mtime
        with contextlib.suppress(FileNotFoundError):
            now = max(now, path.stat().st_mtime + 1)
        os.utime(part, (now, now))
        status = part.stat()
        part.replace(path)
        return etag(status)

    def put_many(self, bucket: str, objects: Iterable[tuple[str, bytes]]) -> int:
        """Store many objects and return how many."""
        return sum(1 for key, data in objects if self.put(bucket, key, data))

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object; it need not exist."""
        (self.directory / bucket / key).unlink(missing_ok=True)

    def counts(self) -> ShapedCounts:
        """What clients got so far."""
        return self._counts("GET")

    def reset(self) -> ShapedCounts:
        """Start counting from zero and return what was counted so far."""
        return self._counts("DELETE")

    def _counts(self, method: str) -> ShapedCounts:
        found = ShapedCounts()
        for line in self._ask(method, "/-/counts")[1].decode().splitlines():
            match line.split():
                case ["requests", kind, status, count]:
                    found.requests[kind, int(status)] = int(count)
                case ["bytes", count]:
                    found.bytes = int(count)
        return found

    def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_DEADLINE)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def _start_somewhere(self, program: str, modules: Path) -> None:
        for _ in range(ATTEMPTS):
            self._start(program, modules)
            if self._wait_until_ready():
                return
            self._stop()
            reason = (self._run / "error.log").read_text(errors="replace")[-2000:]
            if "Address already in use" not in reason:
                raise RuntimeError(f"nginx did not start. Its log ends:\n{reason}")
        raise RuntimeError(f"nginx found no free port in {ATTEMPTS} attempts")

    def _start(self, program: str, modules: Path) -> None:
        self._port = _free_port()
        conf = write_configuration(
            self._run,
            objects=self.directory,
            modules=modules,
            listing=self._run / "listing",
            port=self._port,
            token=self._token,
            delay=self._delay,
            rate=self._rate,
            throttled=self._throttled,
            workers=self._workers,
        )
        log = self._run / "error.log"
        log.touch()
        # SIGTERM, not SIGKILL: nginx passes it on to its workers.
        command = [*dying_with_parent(signal.SIGTERM), program]
        command += ["-p", str(self._run), "-c", str(conf), "-e", str(log)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # errors are also in the log
            start_new_session=True,
        )

    def _wait_until_ready(self) -> bool:
        """Whether our nginx answers before the deadline: another server may have taken the port."""
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._ask("GET", f"/-/{self._token}")[0] == 204:
                    return True
            time.sleep(0.02)
        return False

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too; there is nothing to save
        process.wait(STOP_DEADLINE)


def find_nginx() -> tuple[str, Path]:
    """The path of ``nginx`` and the directory of its modules. RuntimeError says how to get them."""
    # Where Debian puts it is not on everybody's PATH.
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        raise RuntimeError(MISSING.format(what="nginx"))
    asked = [program, "-V"]
    built = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=START_DEADLINE)
    found = re.search(r"--modules-path=(\S+)", built.stderr)
    modules = Path(found[1] if found else "/usr/lib/nginx/modules")
    for name in ("ndk_http_module.so", "ngx_http_lua_module.so"):
        if not (modules / name).exists():
            raise RuntimeError(MISSING.format(what=f"nginx's Lua module ({modules / name} is not there)"))
    return program, modules


def _free_port() -> int:
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"there is no free port from {PORTS.start} to {PORTS.stop}")
