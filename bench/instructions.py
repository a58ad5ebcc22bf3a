"""How many instructions the hot paths in C take, against what is recorded in ``instructions.json``.

``bench/instructions.c`` runs each path once under valgrind's callgrind. What is counted are instructions
of csrc alone: those of the C library depend on its version and on the CPU, the kernel's are not seen. So
the counts are the same wherever one compiler makes the same code, and a change of them is one of csrc.

They are compared only where that holds: same architecture, same major version of the compiler from the
same vendor (who sets defaults), same implementation of CRC32C. Elsewhere they are printed, and it is said
that nothing was compared.
"""

from __future__ import annotations

import ast
import json
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
RECORD = HERE / "instructions.json"
ALLOWED = 0.10  # a path that takes so much more than recorded fails
TIMEOUT = 120.0  # seconds for a step; all together take 5
DRIVER = HERE / "instructions.c"
MISSING = "python -m bench instructions needs {what}. On Debian or Ubuntu: apt-get install {package}"

Counts = dict[str, int]


class NotInstalledError(Exception):
    """A tool is not there; the message says what to install."""


@dataclass(frozen=True)
class Change:
    """A path, and how its count relates to the recorded one. None: not there."""

    path: str
    recorded: int | None
    now: int | None

    @property
    def share(self) -> float:
        """+0.1: a tenth more."""
        if self.recorded is None or self.now is None:
            return 0.0
        return (self.now - self.recorded) / self.recorded

    @property
    def verdict(self) -> str:
        """What to do about it; empty if nothing."""
        if self.now is None:
            return "GONE: if that is meant, record it with --update"
        if self.recorded is None:
            return "new: record it with --update"
        if self.share > ALLOWED:
            return "GREW"
        return "shrank: record it with --update" if self.share < -ALLOWED else ""

    @property
    def fails(self) -> bool:
        return self.now is None or self.share > ALLOWED


def run(update: bool = False, directory: Path | None = None) -> tuple[dict[str, Any], int]:
    """Counts, prints and compares; what was counted, and the exit code: 1 if a path grew, 2 without tools."""
    try:
        machine, counts = count(directory)
    except NotInstalledError as error:
        print(error)
        return {}, 2
    found = {"machine": machine, "instructions": counts}
    if update:
        RECORD.write_text(json.dumps(found, indent=2) + "\n")
        print(f"{len(counts)} paths recorded in bench/{RECORD.name}")
        return found, 0
    return found, compare(found, json.loads(RECORD.read_text()))


def compare(found: dict[str, Any], record: dict[str, Any]) -> int:
    """Prints the table; the exit code."""
    counts, recorded = found["instructions"], record["instructions"]
    if found["machine"] != record["machine"]:
        for path, number in counts.items():
            print(f"{path:48} {number:>12,}")
        print(
            f"\nNOT CHECKED: this is {_told(found['machine'])}; recorded are counts of "
            f"{_told(record['machine'])}, and other machine code has other counts"
        )
        return 0
    changes = [Change(path, recorded.get(path), counts.get(path)) for path in {**recorded, **counts}]
    print(f"{'path':48} {'recorded':>12} {'now':>12} {'change':>8}")
    for one in changes:
        line = f"{one.path:48} {_number(one.recorded)} {_number(one.now)} {one.share:>+8.1%}  {one.verdict}"
        print(line.rstrip())
    failed = sum(one.fails for one in changes)
    if failed:
        print(f"\n{failed} of {len(changes)} paths take over {ALLOWED:.0%} more instructions, or are gone")
        print("make them shorter; or, if it is worth it: python -m bench instructions --update, and say why")
        return 1
    print(f"\nno path takes over {ALLOWED:.0%} more instructions than recorded")
    return 0


def count(directory: Path | None = None) -> tuple[dict[str, str], Counts]:
    """Builds and runs the driver: what the counts hold for, and the counts by path."""
    if shutil.which("valgrind") is None:
        raise NotInstalledError(MISSING.format(what="valgrind", package="valgrind"))
    if shutil.which("cc") is None:
        raise NotInstalledError(MISSING.format(what="a C compiler", package="build-essential"))
    with tempfile.TemporaryDirectory(prefix="ioaccel-instructions-", dir=directory) as name:
        scratch = Path(name)
        program = scratch / "hot-paths"
        sources = [str(DRIVER), *map(str, sorted((ROOT / "csrc").glob("*.c")))]
        # -g changes no instruction, and tells whose function is whose.
        _call(["cc", *release_flags(), "-g", f"-I{ROOT / 'csrc'}", *sources, "-o", str(program)])
        plainly = ["--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={scratch / 'out'}"]
        _call(["valgrind", "--tool=callgrind", "--collect-atstart=no", *plainly, str(program)])
        counts: Counts = {}
        for dump in sorted(scratch.glob("out.*"), key=lambda path: int(path.suffix[1:])):
            path, instructions = read_dump(dump.read_text(), str(program))
            counts[path] = instructions
    if not counts:
        raise RuntimeError("callgrind wrote no counts; look at what `valgrind --version` says")
    return _machine(counts), counts


def read_dump(text: str, program: str) -> tuple[str, int]:
    """The name of a path, and the instructions of the functions of ``program`` that are not the driver's."""
    trigger = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    if trigger is None:
        raise RuntimeError("callgrind's output has no mark; its format has changed")
    total, ours, driver, called = 0, False, False, False
    for line in text.splitlines():
        if line.startswith("ob="):
            ours = line[3:] == program
        elif line.startswith("fl="):  # the file of a function; what is inlined into it has `fi=`
            driver = line.endswith(DRIVER.name)
        elif line.startswith("calls="):
            called = True  # the next line is what the callee took, which stands under its own name, too
        elif line[:1].isdigit():
            if ours and not driver and not called:
                total += int(line.split()[1])
            called = False
    return trigger[1], total


def release_flags() -> list[str]:
    """The compiler flags of csrc in a release, as setup.py has them."""
    flags: dict[str, list[str]] = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == "COMMON":
                flags["common"] = ast.literal_eval(node.value)
            elif node.targets[0].id == "COMPILE" and isinstance(node.value, ast.Dict):
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "release":
                        flags["release"] = ast.literal_eval(value)
    return flags["common"] + flags["release"]


def _machine(counts: Counts) -> dict[str, str]:
    version = _call(["cc", "--version"]).splitlines()[0]  # gcc (Debian 12.2.0-14) 12.2.0
    vendor = (re.findall(r"\((\w+)", version) or ["nobody"])[0]
    family = "clang" if "clang" in version else "gcc"
    major = _call(["cc", "-dumpversion"]).strip().partition(".")[0]
    fastest = next(path for path in counts if path.startswith("crc32c")).rpartition(", ")[2]
    return {
        "architecture": platform.machine(),
        "compiler": f"{family} {major} of {vendor}",
        "crc32c": fastest,
    }


def _told(machine: dict[str, str]) -> str:
    return f"{machine['compiler']} on {machine['architecture']} with crc32c by {machine['crc32c']}"


def _number(count: int | None) -> str:
    return f"{'-' if count is None else format(count, ',d'):>12}"


def _call(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-3000:]}")
    return done.stdout
