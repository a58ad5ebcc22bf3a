"""Servers that do not outlive the process that started them."""

from __future__ import annotations

import signal
import sys

# prctl(PR_SET_PDEATHSIG, ...), which exec keeps, and then the command. Not as a preexec_fn: that runs
# Python after a fork, which is unsafe in a process with threads.
_CODE = "import ctypes, os, sys; _, number, *command = sys.argv\n"
_CODE += "ctypes.CDLL(None).prctl(1, int(number)); os.execv(command[0], command)"


def dying_with_parent(number: signal.Signals = signal.SIGKILL) -> list[str]:
    """What to put before a command so that it gets this signal when the thread that starts it ends.

    The command's first word is a path. Its own children get no signal: a program that has some is
    sent one that it can pass on to them, SIGTERM.
    """
    return [sys.executable, "-I", "-S", "-c", _CODE, str(int(number))]
