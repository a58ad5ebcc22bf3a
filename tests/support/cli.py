"""The command line as a person has it, in an environment of its own.

`Cli.run` calls it in the process of the tests: an interpreter and its imports take half a second for each
call. `Cli.process` starts the installed program. What only a process shows is left to that: what a user
waits for, signals, a terminal, a closed pipe, a verb that does not return.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from ioaccel.testing.seaweed import SeaweedS3
from support.processes import wait_for

PROGRAM = Path(sys.executable).with_name("ioaccel")

OWN_PROCESS = ("serve", "demo")
"""Verbs that change the process they run in, or end it."""


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

    def run(self, *arguments: object, input: str = "", **environ: str) -> Ended:
        """Runs the command line to its end, with ``environ`` beside its own; in this process where it can."""
        if arguments and arguments[0] in OWN_PROCESS and "--help" not in arguments:
            return self.process(*arguments, input=input, **environ)
        given = [str(PROGRAM), *map(str, arguments)]
        begun = time.monotonic()
        with inside(given, self.environ | environ, self.home, input) as (out, err):
            code = _exit_code()
        seconds = time.monotonic() - begun
        return Ended(code, out.getvalue().decode(), err.getvalue().decode(), seconds)

    def process(self, *arguments: object, input: str = "", seconds: float = 50.0, **environ: str) -> Ended:
        """The same, with the installed program."""
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


class _Bytes(io.BytesIO):
    """What was written to it can be read when the text stream above it is closed."""

    def close(self) -> None:
        pass


@contextmanager
def inside(
    arguments: list[str], environ: Mapping[str, str], directory: Path, given: str
) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Makes this process look like one that was started so; what it writes to stdout and stderr."""
    out, err = _Bytes(), _Bytes()
    with (
        mock.patch.object(sys, "argv", arguments),
        mock.patch.dict(os.environ, environ, clear=True),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode()))),
        io.TextIOWrapper(out, "utf-8") as stdout,
        io.TextIOWrapper(err, "utf-8") as stderr,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        contextlib.chdir(directory),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        yield out, err


def _exit_code() -> int:
    """What the process would end with."""
    from ioaccel.cli import main

    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def facts(text: str) -> dict[str, str]:
    """What is told as ``name   what about it``, line by line."""
    return {name: rest.strip() for name, _, rest in (line.partition("  ") for line in text.splitlines())}
