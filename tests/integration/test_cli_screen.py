"""What a person sees meanwhile: a bar on a terminal, lines elsewhere; and what the doctor says."""

from __future__ import annotations

import os
import pty
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from support.cli import PROGRAM, Cli
from support.data import DataSet
from support.processes import started

import ioaccel
from ioaccel.cli import progress
from ioaccel.cli.progress import Pace, shown
from ioaccel.testing.seaweed import SeaweedS3

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def cli(tmp_path: Path, s3: SeaweedS3) -> Cli:
    return Cli(tmp_path, s3)


def on_terminal(cli: Cli, *arguments: object) -> tuple[int, str]:
    """The exit code, and what a terminal was sent."""
    ours, theirs = pty.openpty()
    pieces: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                pieces.append(piece)
        except OSError:  # the other side is closed
            pass

    reader = threading.Thread(target=read)
    environ = cli.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    command = [PROGRAM, *arguments]
    with started(command, env=environ, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        reader.start()
        code = process.wait(50)
    reader.join(10)
    os.close(ours)
    return code, b"".join(pieces).decode()


def test_a_bar_on_a_terminal(cli: Cli, s3: SeaweedS3, bucket: str) -> None:
    data = DataSet.fill(s3, bucket, [100_000] * 300)
    code, text = on_terminal(
        cli, "warm", data.url("data"), "--cache-dir", cli.cache_dir, "--cache-size", "100MB"
    )
    assert code == 0
    assert f"Warming {data.url('data')}" in text
    assert ANSI.search(text), "no bar was drawn"
    plain = ANSI.sub("", text)
    assert "of 300 objects" in plain
    assert "300 of 300 objects, 30 MB of 30 MB" in plain


def test_lines_elsewhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)
    pace = Pace("objects", 100, 1000)
    with shown("Warming x", pace):
        pace.add(50, 500)
        threading.Event().wait(0.35)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4
    told = r"Warming x: 50 of 100 objects, 500 B, \S+ k?B/s, [\d,]+ objects/s, \S+ s left"
    assert all(re.fullmatch(told, line) for line in lines)


def test_nothing_is_said_of_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("Warming x", Pace("objects", 100)):
        pass
    assert capsys.readouterr().err == ""


# ---- doctor -------------------------------------------------------------------------------------


def test_doctor(cli: Cli) -> None:
    done = cli.process("doctor", "--cache-dir", cli.cache_dir)
    assert (done.code, done.err) == (0, "")
    assert done.seconds < 20
    found, _, conclusion = done.out.rstrip().rpartition("\n")
    assert conclusion.startswith("ioaccel works here; ")
    levels = [line.split()[0] for line in found.splitlines() if line and line != str(cli.cache_dir)]
    assert set(levels) <= {"OK", "note"}
    assert not cli.cache_dir.exists(), "it made a cache"
    assert {p.name for p in cli.home.iterdir()} == {"run"}, "it left something behind"


def test_doctor_json(cli: Cli) -> None:
    found = cli.cached("doctor", "--json").json
    assert (found["ok"], found["version"]) == (True, ioaccel.__version__)
    assert all(
        f.keys() == {"level", "topic", "directory", "text", "advice", "facts"} for f in found["findings"]
    )
    by_topic = {f["topic"]: f for f in found["findings"]}
    assert {"kernel", "cores", "memory", "open files", "clock", "packages", "/dev/shm"} <= set(by_topic)
    assert by_topic["engine"]["level"] == by_topic["robust futex"]["level"] == "ok"
    speed = by_topic["speed"]
    assert speed["directory"] == str(cli.cache_dir)
    assert speed["facts"]["write_bytes_per_s"] > 0
    assert speed["facts"]["file_bytes"] <= 256 << 20


def test_doctor_beside_a_running_engine(cli: Cli) -> None:
    with cli.serve("--cache-dir", cli.cache_dir, "--cache-size", "100MB") as daemon:
        found = {f["topic"]: f for f in cli.run("doctor", "--json").json["findings"]}
        assert found["cache"]["facts"]["engine_pid"] == daemon.pid


def test_doctor_finds_a_problem(cli: Cli) -> None:
    cli.cache_dir.write_text("")
    done = cli.cached("doctor", "--json")
    assert (done.code, done.json["ok"]) == (1, False)
    assert [f["topic"] for f in done.json["findings"] if f["level"] == "problem"] == ["cache"]


# ---- doctor --dataset ---------------------------------------------------------------------------

MODULE = """
import socket
from pathlib import Path

class Files:
    def __init__(self):
        self.paths = sorted(Path(__file__).parent.glob("*.bin"))
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, i):
        return self.paths[i].read_bytes()

class Noisy(Files):
    def __getitem__(self, i):
        import torch
        settings = Path.home() / ".aws" / "config"
        settings.parent.mkdir(exist_ok=True)
        settings.touch()
        package = next(Path(torch.__file__).parent.rglob("*.h"))
        certificates = Path(__file__).parent / "certificates" / "mine.pem"
        certificates.parent.mkdir(exist_ok=True)
        certificates.touch()
        for path in ("/etc/hosts", "/proc/self/status", settings, certificates, package):
            Path(path).read_bytes()
        (Path.home() / "logs").mkdir(exist_ok=True)
        (Path.home() / "logs" / "mine").write_text("written")
        return super().__getitem__(i)

class Client(Files):
    def __getitem__(self, i):
        with socket.socket() as sock:
            sock.connect_ex(("127.0.0.1", 9))
        return super().__getitem__(i)

def broken():
    raise RuntimeError("no data here")

class Raising(Files):
    def __getitem__(self, i):
        raise LookupError(f"no sample {i}")
"""


def test_doctor_of_a_data_set(cli: Cli, tmp_path: Path) -> None:
    """What `accelerate` serves of it, and what it cannot meet; no traceback for what is wrong with it."""
    (tmp_path / "mine.py").write_text(MODULE)
    for number in range(5):
        (tmp_path / f"{number}.bin").write_bytes(bytes(1000))

    def doctor(name: str, *arguments: str) -> Any:
        return cli.process(
            "doctor", "--dataset", name, "--cache-dir", cli.cache_dir, "--cache-size", "10MB", *arguments,
            PYTHONPATH=str(tmp_path),
        )  # fmt: skip

    served = doctor("mine:Files", "--path", str(tmp_path))
    assert (served.code, served.err) == (0, "")
    assert "3 samples of mine:Files read 3 objects through the cache" in served.out
    assert "the data set tells what each sample reads, in .paths" in served.out
    left = doctor("mine:Files").out
    assert "can be served by the cache" in left
    assert f"it opens files in {tmp_path} itself" in left
    noisy = doctor("mine:Noisy").out
    assert [line for line in noisy.splitlines() if "opens files in" in line] == [
        line for line in left.splitlines() if "opens files in" in line
    ]
    assert "it connects to 127.0.0.1:9 itself" in doctor("mine:Client").out
    raising = doctor("mine:Raising")
    assert raising.code == 1
    assert "mine:Raising raises LookupError: no sample 0" in raising.out
    for name, said in (
        ("mine", "takes module:name"),
        ("mine:Nothing", "no attribute"),
        ("nothing:at_all", "No module"),
        ("mine:broken", "no data here"),
    ):
        done = doctor(name)
        assert done.code == 2
        assert said in done.err
        assert "Traceback" not in done.err
