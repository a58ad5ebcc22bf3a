"""The check of instruction counts: what fails, what only says so, and what is not compared at all."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench import instructions

MACHINE = {"architecture": "x86_64", "compiler": "gcc 12 of Debian", "crc32c": "sse4.2+pclmul"}
RECORD: dict[str, Any] = {"machine": MACHINE, "instructions": {"find": 100, "copy": 1000}}


@pytest.mark.parametrize(
    ("now", "code", "said"),
    [
        ({"find": 100, "copy": 1000}, 0, "no path takes over 10% more"),
        ({"find": 110, "copy": 1000}, 0, "+10.0%"),
        ({"find": 111, "copy": 1000}, 1, "+11.0%  GREW"),
        ({"find": 89, "copy": 1000}, 0, "-11.0%  shrank: record it with --update"),
        ({"find": 100}, 1, "GONE"),
        ({"find": 100, "copy": 1000, "hint": 7}, 0, "new: record it with --update"),
    ],
)
def test_verdicts(now: dict[str, int], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert instructions.compare({"machine": MACHINE, "instructions": now}, RECORD) == code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("what", sorted(MACHINE))
def test_other_machine_code_is_not_compared(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = copy.deepcopy(RECORD)
    found["machine"][what] = "another"
    found["instructions"]["find"] = 10_000
    assert instructions.compare(found, RECORD) == 0
    assert "NOT CHECKED" in capsys.readouterr().out


def test_without_valgrind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert instructions.run() == ({}, 2)
    assert "apt-get install valgrind" in capsys.readouterr().out


def test_what_is_counted() -> None:
    """Functions of the program alone; neither the driver's nor, a second time, what is called."""
    text = "\n".join(
        (
            "desc: Trigger: Client Request: find a block",
            *("ob=/x/hot-paths", "fl=/r/csrc/ia_index.c", "fn=ia_index_find", "10 7", "fi=/r/csrc/ia_base.h"),
            *("11 5", "cob=/lib/libc.so.6", "cfi=memcpy.S", "cfn=memcpy", "calls=1 0", "12 900", "13 1"),
            *("", "fl=/r/bench/instructions.c", "fn=reading", "20 300"),
            *("", "ob=/lib/libc.so.6", "fl=memcpy.S", "fn=memcpy", "1 900"),
        )
    )
    assert instructions.read_dump(text, "/x/hot-paths") == ("find a block", 13)


def test_the_record_and_the_flags() -> None:
    """What is compared with: whole, and of a release."""
    record = json.loads(instructions.RECORD.read_text())
    assert record["machine"].keys() == MACHINE.keys()
    assert all(isinstance(count, int) and count > 0 for count in record["instructions"].values())
    assert "-O3" in instructions.release_flags()
