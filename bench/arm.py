"""An arm of a benchmark in a process of its own.

So arms cannot help or hinder each other (obstore forbids to fork after it, a patched ``open`` would
slow whoever shares it), and yet their epochs can take turns: the process does what it is told, and
waits without work in between. It may run another Python, that of the peers: nothing here that the
child runs needs more than the standard library.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Far above what anything here takes; an arm that hangs must not take the others along.
PATIENCE = 900.0
ROOT = Path(__file__).parents[1]


class ArmFailedError(Exception):
    """An arm has no figure; the message says why."""


class Arm:
    """An object of class ``kind`` ("bench.torch_arms:Plain") in a child process, made with ``settings``.

    `ask` calls its methods. It stays silent and without cost otherwise, until the ``with`` block ends.
    ``python`` is the interpreter and ``environment`` is added to its variables.
    """

    def __init__(
        self,
        kind: str,
        settings: dict[str, Any],
        python: str = sys.executable,
        environment: dict[str, str] | None = None,
    ) -> None:
        from ioaccel.testing.lifetime import dying_with_parent  # not in the child: peers have no ioaccel

        self.kind = kind
        command = [*dying_with_parent(), python, "-m", __name__, kind, json.dumps(settings)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | (environment or {}) | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            if isinstance(error, KeyboardInterrupt | SystemExit):
                self.kill()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def ask(self, method: str, *, patience: float = PATIENCE, **arguments: Any) -> dict[str, Any]:
        """What the method returns. ArmFailedError if it raises, hangs or takes its process along."""
        pipe = self._process.stdin, self._process.stdout
        assert pipe[0] is not None
        assert pipe[1] is not None
        try:
            pipe[0].write(f"{json.dumps([method, arguments])}\n".encode())
            pipe[0].flush()
        except BrokenPipeError:
            raise ArmFailedError(f"{self.kind}: the process has ended") from None
        if not select.select([pipe[1]], [], [], patience)[0]:
            self.kill()
            raise ArmFailedError(f"{self.kind}.{method} took more than {patience:.0f} s")
        line = pipe[1].readline()
        if not line:
            raise ArmFailedError(f"{self.kind}.{method}: the process has ended")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise ArmFailedError(f"{self.kind}: {answer['failed']}")
        return answer

    def kill(self) -> None:
        """Ends the process and its workers, which are in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _serve(kind: str, settings: dict[str, Any]) -> None:
    """The child: methods and arguments on standard input, a line of JSON for each on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    module, _, name = kind.partition(":")
    arm, failed = None, ""
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            if arm is None and not failed:
                arm = getattr(importlib.import_module(module), name)(settings)
            answer = getattr(arm, method)(**arguments) if arm else {"failed": failed}
        except BaseException as error:  # noqa: BLE001  # whatever it is, the other arms have figures
            if arm:
                traceback.print_exc()
            answer = {"failed": _in_a_line(error)}
            failed = failed if arm else answer["failed"]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if arm and hasattr(arm, "close"):
        arm.close()


def _in_a_line(error: BaseException) -> str:
    """What went wrong; of an error in a worker, whose message is a traceback, the last of its errors."""
    text = str(error)
    if "Traceback (most recent call last)" in text:
        found = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
        text = found[-1] if found else text
    else:
        text = f"{type(error).__name__}: {text}"
    return " ".join(text.split())[:400]


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
