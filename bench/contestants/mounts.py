"""File systems over a store, mounted with FUSE: rclone and JuiceFS, each with a cache on the disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sysconfig
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.contestants.contract import Figures
from bench.contestants.mapped import Mapped

MOUNTED_S = 30.0  # that a mount has to appear
LEAVE_S = 10.0


class _Mount(Mapped):
    program = ""
    _process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What mounts at `point` and stays in the foreground."""
        raise NotImplementedError

    @property
    def point(self) -> Path:
        return Path(f"{self.settings['cache_dir']}.mount")

    def binary(self) -> str:
        """The program's path, beside this Python. RuntimeError if it is not there."""
        beside = Path(sysconfig.get_path("scripts")) / self.program
        found = str(beside) if beside.exists() else shutil.which(self.program)
        if found is None:
            raise RuntimeError(f"{self.program} is not installed here; `make peers` installs it")
        return found

    def run(self, *arguments: str, **more: Any) -> str:
        """Runs the program to its end. RuntimeError with its last words if it fails."""
        command = [self.binary(), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, **more)
        if done.returncode:
            raise RuntimeError(f"{self.program} {arguments[0]}: {(done.stderr or done.stdout)[-400:]}")
        return done.stdout

    def open(self) -> None:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise RuntimeError("there is no /dev/fuse that can be used")
        self.point.mkdir(parents=True, exist_ok=True)
        with open(f"{self.settings['cache_dir']}.log", "ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + MOUNTED_S
        while not os.path.ismount(self.point):
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = Path(f"{self.settings['cache_dir']}.log").read_text(errors="replace")[-400:]
                raise RuntimeError(f"{self.program} did not mount: {words}")
            time.sleep(0.05)
        super().open()

    def close(self) -> None:
        self.loader = None  # its workers have files open
        if os.path.ismount(self.point):
            unmount = shutil.which("fusermount3") or "fusermount"
            with suppress(subprocess.SubprocessError):
                subprocess.run([unmount, "-u", "-z", str(self.point)], check=False, timeout=LEAVE_S)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def path(self, key: str) -> str:
        """Where an object is a file."""
        return f"{self.point}/{key}"

    def read(self, number: int) -> bytes:
        key, offset, length = self.piece(number)
        with open(self.path(key), "rb", buffering=0) as file:
            if offset:
                file.seek(offset)
            data = file.read(length)
            while len(data) < length and (more := file.read(length - len(data))):
                data += more
            return data

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_process": None}


class Rclone(_Mount):
    """``rclone mount --vfs-cache-mode full``.

    https://rclone.org/commands/rclone_mount/#vfs-file-caching, "VFS Performance": no modification times,
    no checksums, fast fingerprints, and directories and attributes that are believed.
    """

    program = "rclone"

    def version(self) -> Figures:
        return {"version": self.run("version").split()[1].removeprefix("v")}

    def command(self) -> list[str]:
        settings = self.settings
        remote = ":s3,provider=Other,env_auth=true,region=us-east-1,list_version=2"
        remote += f",endpoint='{settings['endpoint']}':"
        size = max(1, settings["cache_size"] >> 10)
        return [
            *(self.binary(), "mount", remote + settings["bucket"], str(self.point)),
            *("--vfs-cache-mode", "full", "--vfs-cache-max-size", f"{size}K"),
            *("--cache-dir", settings["cache_dir"], "--config", os.devnull),
            *("--dir-cache-time", "24h", "--attr-timeout", "24h", "--vfs-cache-max-age", "24h"),
            *("--read-only", "--no-modtime", "--no-checksum", "--vfs-fast-fingerprint"),
        ]


class JuiceFS(_Mount):
    """JuiceFS with metadata in SQLite. Its data are blocks of its own: the files are copied in.

    https://juicefs.com/docs/community/guide/cache: open files and attributes are believed, and the kernel
    caches what it has read.
    """

    program = "juicefs"

    def version(self) -> Figures:
        return {"version": self.run("--version").split()[2].partition("+")[0]}

    def convert(self, directory: Path) -> None:
        # A volume's objects lie below its name: written as files, and from then on read with S3.
        meta = f"sqlite3://{directory}.db"
        self.run("format", "--storage", "file", "--bucket", f"{directory.parent}/", meta, directory.name)
        source = f"{self.settings['files']}/{self.settings['prefix']}"
        self.run("sync", "--threads", "4", source, "jfs://META/", env=os.environ | {"META": meta})
        settings = self.settings
        bucket = f"{settings['endpoint']}/{settings['bucket']}"
        keys = ("--access-key", settings["key"], "--secret-key", settings["secret"])
        self.run("config", meta, "--storage", "s3", "--bucket", bucket, *keys, "--force", "--yes")

    def command(self) -> list[str]:
        meta = Path(f"{self.settings['cache_dir']}.meta.db")
        if not meta.exists():
            _copy(Path(f"{Path(self.settings['converted'])}.db"), meta)
        size = max(1, self.settings["cache_size"] >> 20)
        return [
            *(self.binary(), "mount", f"sqlite3://{meta}", str(self.point)),
            *("--cache-dir", self.settings["cache_dir"], "--cache-size", f"{size}M"),
            *("--attr-cache", "1h", "--entry-cache", "1h", "--dir-entry-cache", "1h", "--open-cache", "1h"),
            *("--no-usage-report", "--no-bgjob", "--backup-meta", "0", "--read-only", "--no-syslog"),
        ]

    def path(self, key: str) -> str:
        return f"{self.point}/{key.removeprefix(self.settings['prefix'])}"


def _copy(database: Path, to: Path) -> None:
    """A mount writes its metadata: each has its own. What JuiceFS wrote last is still in SQLite's log."""
    source, target = sqlite3.connect(database), sqlite3.connect(to)
    source.backup(target)
    target.close()
    source.close()
