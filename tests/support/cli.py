"""The command line as a person has it: the installed program, in a process and an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ioaccel.testing.seaweed import SeaweedS3
from support.processes import wait_for

PROGRAM = Path(sys.executable).with_name("ioaccel")


class Ended(NamedTuple):
    """How a run of the program ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line that a failed run has for a person; what it said while it went on is left out."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("ioaccel: ")]
        assert len(lines) == 1, self.err
        assert self.err.endswith(lines[0] + "\n"), self.err
        return lines[0].removeprefix("ioaccel: ")


class Cli:
    """Runs ``ioaccel`` with everything of the user's below ``home``."""

    def __init__(self, home: Path, s3: SeaweedS3 | None = None) -> None:
        self.home = home
        self.cache_dir = home / "cache"
        self.runtime = home / "run"
        self.runtime.mkdir()
        self.environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CACHE_HOME": str(home / "xdg-cache"),
            "XDG_CONFIG_HOME": str(home / "xdg-config"),
            "PYTHONWARNINGS": "error",
            # What a terminal would be is the tests' business.
            "TERM": "dumb",
        }
        if s3 is not None:
            self.environ |= {
                "AWS_ACCESS_KEY_ID": s3.key,
                "AWS_SECRET_ACCESS_KEY": s3.secret,
                "AWS_ENDPOINT_URL": s3.endpoint,
            }

    def run(self, *arguments: object, input: str = "", seconds: float = 50.0, **environ: str) -> Ended:
        """Runs the program to its end, with ``environ`` beside its own."""
        begun = time.monotonic()
        done = subprocess.run(
            [PROGRAM, *map(str, arguments)],
            check=False,
            env=self.environ | environ,
            cwd=self.home,
            input=input,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)

    def cached(self, verb: str, *arguments: object, **environ: str) -> Ended:
        """`run`, with the cache directory of this test."""
        return self.run(verb, *arguments, "--cache-dir", self.cache_dir, **environ)

    @property
    def served(self) -> Path:
        """The file by which a daemon is found."""
        return self.runtime / "ioaccel" / "daemon.json"

    @property
    def serve_log(self) -> str:
        """What the daemons of this home wrote to stderr."""
        return (self.home / "serve.log").read_text()

    @contextmanager
    def serve(self, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
        """``ioaccel serve`` for as long as the block lasts, if it is not ended in there."""
        with (
            open(self.home / "serve.log", "ab") as log,
            subprocess.Popen(
                [PROGRAM, "serve", *map(str, arguments)], env=self.environ, cwd=self.home, stderr=log
            ) as process,
        ):
            try:
                wait_for(lambda: process.poll() is not None or self._serves(process.pid), 20)
                assert process.poll() is None, self.serve_log
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(10)
                finally:
                    process.kill()

    def _serves(self, pid: int) -> bool:
        return self.served.exists() and json.loads(self.served.read_text())["pid"] == pid


def facts(text: str) -> dict[str, str]:
    """What is told as ``name   what about it``, line by line."""
    return {name: rest.strip() for name, _, rest in (line.partition("  ") for line in text.splitlines())}
