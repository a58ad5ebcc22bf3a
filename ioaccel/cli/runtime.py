"""The file that says which directories ``ioaccel serve`` serves, for ``connect()`` to find."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Self

import msgspec

from ioaccel.config import Served, runtime_file
from ioaccel.errors import CacheBusyError, EngineError

_ADVICE = "set XDG_RUNTIME_DIR to a directory of your own"


class RuntimeFile:
    """This user's one daemon's file. Made by `claim`, written when the engine serves, removed at the end.

    What tells a daemon from what a killed one left behind is a lock beside the file, which the kernel
    drops with the process; a process id alone may have been given to another process.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self._path = path
        self._lock_fd = lock_fd  # held until the process ends

    @classmethod
    def claim(cls) -> Self:
        """Makes this process the daemon. CacheBusyError if there is one, EngineError if it cannot be told."""
        path = runtime_file()
        try:
            _own(path.parent)
            fd = os.open(
                path.parent / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except EngineError:
            raise
        except OSError as error:
            raise EngineError(
                f"cannot use {path.parent}, where clients find the daemon: {error.strerror}; {_ADVICE}",
                url=str(path.parent),
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise CacheBusyError(_already(path), url=str(path)) from None
        return cls(path, fd)

    def write(self, directories: list[str]) -> None:
        """Says that this process serves the directories, at once and as a whole."""
        scratch = self._path.with_suffix(".tmp")
        scratch.unlink(missing_ok=True)
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(Served(os.getpid(), directories)) + b"\n")
        scratch.replace(self._path)

    def remove(self) -> None:
        """Says that it no longer does."""
        self._path.unlink(missing_ok=True)


def _own(directory: Path) -> None:
    """Makes a directory that is this user's alone, or sees to it that it is. EngineError if it cannot be."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise EngineError(
            f"{directory}, where clients find the daemon, does not belong to user {os.getuid()}; {_ADVICE}",
            url=str(directory),
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        directory.chmod(0o700)


def _already(path: Path) -> str:
    try:
        served = msgspec.json.decode(path.read_bytes(), type=Served)
    except (OSError, msgspec.MsgspecError):
        return "another ioaccel serve is starting; stop it first, or use it: connect() finds it"
    return (
        f"ioaccel serve runs already, as process {served.pid}, for {', '.join(served.directories)}; stop it "
        "first, or use it: connect() finds it"
    )
