"""A contestant's process: what it is told, who watches it, and that nothing of it is left."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.arm import ROOT, Arm, ArmFailedError
from bench.contestants import Entry
from bench.processes import Processes

PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
ABSENT = ("ModuleNotFoundError", "PackageNotFoundError")
START_S = 90.0  # that imports, listings, mounts and engines have
LEAVE_S = 20.0  # that an engine or a mount has to leave after its last client


@dataclass(frozen=True)
class Setting:
    """What an adapter is told: see `bench.contestants.contract.Contestant`."""

    options: dict[str, Any]  # of the store, in fsspec's names
    endpoint: str
    key: str
    secret: str
    bucket: str
    prefix: str  # of the objects' keys
    files: str  # the directory in which prefix + key is a file with the same bytes
    samples_per_file: int
    kept: int  # bytes of a sample that become a tensor
    batch: int
    workers: int
    shard: int  # bytes of a file of those who convert
    truth: str = ""  # a numpy file: file, offset, length, CRC of each sample of an epoch
    converted: str = ""  # the directory for data in the contestant's own format
    converted_prefix: str = ""  # their keys
    cache_dir: str = ""
    cache_size: int = 0
    flag: str = ""  # a file of one byte: see `bench.contestants.contract.Take`


@contextmanager
def watched() -> Iterator[Processes]:
    """Who watches the processes of a contestant; they and their temporary files are gone at the end."""
    # A short path: sockets lie below it.
    with (
        tempfile.TemporaryDirectory(prefix="ib-", ignore_cleanup_errors=True) as temporary,
        Processes(secrets.token_hex(8)) as processes,
    ):
        processes.environment["TMPDIR"] = temporary
        try:
            yield processes
        except (KeyboardInterrupt, SystemExit):
            leave(processes, 0)
            raise
        finally:
            leave(processes)


def leave(processes: Processes, patience: float = LEAVE_S) -> None:
    """Waits until engines and mounts have left, after their last client, and ends those that stay."""
    for pid in processes.wait(patience):
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    processes.wait(LEAVE_S)  # what is killed may still write for a moment


def start(entry: Entry, setting: Setting, processes: Processes) -> Arm:
    """A process of a contestant."""
    python = sys.executable if entry.ours or not PEERS_PYTHON.exists() else str(PEERS_PYTHON)
    return Arm(entry.kind, asdict(setting), python, processes.environment | _credentials(setting))


def advice(entry: Entry, reason: str) -> str:
    """What to do where the environment of the peers is not there, or older than their list."""
    absent = not entry.ours and reason.startswith(ABSENT)
    return "; `make peers` installs the peers" if absent else ""


class Job:
    """A contestant's process, ready to read. It can be entered again: another process, the same cache.

    ``right``: how many samples and how many bytes an epoch has. ``deadline``: its seconds.
    """

    def __init__(
        self, entry: Entry, setting: Setting, processes: Processes, right: tuple[int, int], deadline: float
    ) -> None:
        self.setting = setting
        self.version = ""
        self.setup_s = 0.0
        self._entry, self._processes, self._right, self._deadline = entry, processes, right, deadline

    def __enter__(self) -> Self:
        self._arm = start(self._entry, self.setting, self._processes).__enter__()
        try:
            self.version = self.ask("version", START_S)["version"]
            self.setup_s = self.ask("prepare", START_S)["seconds"]
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arm.__exit__(kind, error, trace)

    def kill(self) -> None:
        """Ends it at once; whoever waits for an answer gets an ArmFailedError."""
        self._arm.kill()

    def ask(self, method: str, patience: float | None = None, **arguments: Any) -> dict[str, Any]:
        """As `Arm.ask`; an epoch that does not bring all there is is a failure."""
        answer = self._arm.ask(method, patience=patience or self._deadline, **arguments)
        if method == "epoch" and (answer["samples"], answer["bytes"]) != self._right:
            came = f"{answer['samples']} samples of {answer['bytes']} bytes came"
            raise ArmFailedError(f"{came}, not {self._right[0]} of {self._right[1]}")
        return answer


def disk_usage(directory: str) -> int:
    """Bytes that the files below it take of the disk; they may go away meanwhile."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.lstat(f"{place}/{name}").st_blocks * 512
    return total


def unmount(directory: Path) -> None:
    """What a contestant that was killed has left mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        if (point := line.split()[1]).startswith(f"{directory}/"):
            with suppress(subprocess.SubprocessError):  # it hangs; the other rows are worth more
                subprocess.run([shutil.which("umount") or "umount", "-l", point], check=False, timeout=10)


def _credentials(setting: Setting) -> dict[str, str]:
    """The usual variables, for those who take nothing else."""
    return {
        "AWS_ACCESS_KEY_ID": setting.key,
        "AWS_SECRET_ACCESS_KEY": setting.secret,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": setting.endpoint,
        "S3_ENDPOINT_URL": setting.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ALLOW_HTTP": "true",  # for obstore inside LitData
    }
