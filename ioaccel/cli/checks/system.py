"""The kernel, and what it lets a process do."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from ioaccel.cli.checks.finding import Finding, note, ok, problem

# memfd_create is of 3.17, preadv2 with RWF_NOWAIT of 4.14.
_OLDEST_KERNEL = (3, 17)
_GOOD_KERNEL = (4, 14)

# An engine has two descriptors for each client, and one for each request that it has under way; a
# client, one for each thread that reads.
_FEW_FILES, _ENOUGH_FILES = 128, 1024

# S3 refuses signatures that are 15 minutes off. Nobody runs this before it was written.
_WRITTEN = 1_763_000_000

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_IO_URING_SETUP = 425


def check_system() -> Iterator[Finding]:
    """Kernel, limits of a process, clock, and what is there and not needed."""
    yield _kernel()
    yield _python()
    yield _memfd()
    yield _open_files()
    yield _locked_memory()
    yield _clock()
    yield _extras()


def _kernel() -> Finding:
    release = platform.release()
    version = tuple(int(n) for n in re.findall(r"\d+", release)[:2])
    if version < _OLDEST_KERNEL:
        return problem("kernel", f"Linux {release}", "run 4.14 or newer", release=release)
    if version < _GOOD_KERNEL:
        return note("kernel", f"Linux {release}", "4.14 reads from the page cache faster", release=release)
    return ok("kernel", f"Linux {release}", release=release)


def _python() -> Finding:
    version = platform.python_version()
    return ok("python", f"{version}, {platform.machine()}", version=version, machine=platform.machine())


def _memfd() -> Finding:
    try:
        os.close(os.memfd_create("ioaccel-doctor"))
    except OSError as error:
        return problem(
            "shared memory", f"memfd_create: {error.strerror}", "allow it: a seccomp profile may forbid it"
        )
    return ok("shared memory", "memfd works")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft:,} a process, may be raised to {hard:,}"
    if soft < _ENOUGH_FILES:
        make = problem if soft < _FEW_FILES else note
        return make("open files", text, f"ulimit -n {min(hard, 65_536)}", soft=soft, hard=hard)
    return ok("open files", text, soft=soft, hard=hard)


def _locked_memory() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = soft == resource.RLIM_INFINITY
    text = "unlimited" if unlimited else f"{soft >> 10:,} KiB"
    return ok("locked memory", f"{text}; not needed", soft=None if unlimited else soft)


def _clock() -> Finding:
    now = time.time()
    date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    advice = "set it, with NTP: stores refuse requests that are 15 minutes off"
    if now < _WRITTEN:
        return problem("clock", f"{date}, which was before this was written", advice, now=now)
    with contextlib.suppress(OSError, AttributeError):
        # struct timex, which the kernel fills in; modes = 0 asks for nothing to be set.
        if ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == _TIME_ERROR:
            return note("clock", f"{date}, and the kernel does not know whether it is right", advice, now=now)
    return ok("clock", f"{date}, synchronised", now=now)


def _extras() -> Finding:
    uring, fuse = _io_uring(), Path("/dev/fuse").exists()
    return ok(
        "not needed",
        f"io_uring ({uring}), FUSE ({'there' if fuse else 'not there'}), user namespaces, root",
        io_uring=uring == "there",
        fuse=fuse,
    )


def _io_uring() -> str:
    """Whether io_uring may be used: asked with parameters that it refuses, so that nothing is made."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(_IO_URING_SETUP, 0, None)
        code = ctypes.get_errno()
        return {errno.ENOSYS: "not there", errno.EPERM: "not allowed"}.get(code, "there")
    return "not known"
