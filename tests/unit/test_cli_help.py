"""What the command line is before it does anything: help, version, and how fast they come."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Cli

import ioaccel

VERBS = ("demo", "bench", "warm", "status", "du", "verify", "evict", "serve", "config", "doctor", "plan")
# A quarter of a second each, or more.
HEAVY = ("numpy", "pyarrow", "obstore", "fsspec", "rich", "torch", "msgspec", "asyncio")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_help_names_every_verb(cli: Cli) -> None:
    done = cli.process("--help")
    assert (done.code, done.err) == (0, "")
    verbs = done.out.partition("Commands:")[2]
    assert [line.split()[0] for line in verbs.splitlines() if line.strip()] == list(VERBS)
    assert "..." not in verbs, "a summary is cut off"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(cli: Cli, verb: str) -> None:
    done = cli.run(verb, "--help")
    assert (done.code, done.err) == (0, "")
    assert "\n  " in done.out


def test_help_is_fast(cli: Cli) -> None:
    """A tenth of a second on an idle machine; the best of several, because this one may be busy."""
    assert min(cli.process("--help").seconds for _ in range(5)) < 0.3


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ioaccel.cli import main\nsys.argv = ['ioaccel', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    print('loaded:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.partition("loaded:")[2].split()}
    assert "ioaccel" in loaded
    assert not loaded.intersection(HEAVY)


def test_version(cli: Cli) -> None:
    done = cli.process("--version")
    assert (done.code, done.out, done.err) == (0, f"ioaccel {ioaccel.__version__}\n", "")


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ioaccel.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"ioaccel {ioaccel.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["warm", "--nonsense"], ["evict"], ["du", "--depth", "-1"]]
)
def test_a_wrong_command_line(cli: Cli, arguments: list[str]) -> None:
    done = cli.process(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("Error: ")


def test_no_arguments_show_the_help(cli: Cli) -> None:
    done = cli.process()
    assert "Commands:" in done.out + done.err
    assert "Traceback" not in done.err
