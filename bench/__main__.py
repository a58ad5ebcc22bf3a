"""``python -m bench list | run [WORKLOAD ...] | report [FILE ...] | micro | torch | plan | instructions``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path


def main() -> int | str:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", type=_file, metavar="FILE", help="write the figures there")
    shared.add_argument("--dir", type=_directory, help="where to work (default: the temporary directory)")
    verbs.add_parser("list", help="the workloads and the contestants")
    run = verbs.add_parser("run", parents=[shared], help="contestants side by side, and their records")
    run.add_argument("workload", nargs="*", help="names, or TOML files (default: all)")
    run.add_argument("--quick", action="store_true", help="small: minutes instead of hours")
    run.add_argument("--only", nargs="+", metavar="CONTESTANT", help="these contestants alone")
    report = verbs.add_parser("report", help="tables and pictures of records")
    report.add_argument("file", nargs="*", type=Path, help="what `run` wrote (default: the latest run's)")
    verbs.add_parser("micro", parents=[shared], help="the hot paths, each against its limit")
    jobs = verbs.add_parser("torch", parents=[shared], help="PyTorch jobs over a store with a shape")
    jobs.add_argument("--samples", type=int, default=10_000, metavar="N", help="objects of ~110 KB (10000)")
    counted = verbs.add_parser("instructions", parents=[shared], help="what the hot paths in C take")
    counted.add_argument("--update", action="store_true", help="record the counts in bench/instructions.json")
    verbs.add_parser("plan", parents=[shared], help="what `ioaccel plan` predicts, against what happens")
    options = parser.parse_args()
    # As Ctrl-C does it: whoever works here cleans up, and ends what it has started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return VERBS[options.verb](options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _directory(name: str) -> Path:
    """An argument that has to be a directory where files can be made."""
    if not os.path.isdir(name) or not os.access(name, os.W_OK):
        raise argparse.ArgumentTypeError(f"{name} is no directory to write in; make it first")
    return Path(name)


def _file(name: str) -> Path:
    """An argument that has to be a file, there or not, in a directory where files can be made."""
    path = Path(name)
    _directory(str(path.absolute().parent))
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{name} is no file; say one, {path / 'figures.json'}")
    try:  # a name of its own: another run may be writing its part
        tempfile.NamedTemporaryFile(prefix=path.name, suffix=".part", dir=path.absolute().parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be written: {error.strerror}") from None
    return path


def _list(options: argparse.Namespace) -> int:  # noqa: ARG001
    from bench import suite

    print(suite.listing())
    return 0


def _run(options: argparse.Namespace) -> int | str:
    from bench import suite

    try:
        return suite.run(options.workload, options.quick, options.only, options.dir, options.json)
    except ValueError as error:  # of names and of TOML files
        return f"{error}"
    except OSError as error:  # a full disk, a path that is too long for a socket
        return f"{error}; it worked in {options.dir or tempfile.gettempdir()}: see --dir, and TMPDIR"


def _report(options: argparse.Namespace) -> int | str:
    from bench import report

    try:
        report.write(options.file)
    except (OSError, ValueError) as error:
        return f"{error}"
    return 0


def _torch(options: argparse.Namespace) -> int | str:
    from bench import torch

    if missing := _missing_store():
        return missing
    return _written(torch.run(options.dir, options.samples), options)


def _plan(options: argparse.Namespace) -> int | str:
    from bench import plan, scale
    from bench.suite import RESULTS

    if missing := _missing_store():
        return missing
    figures = plan.run(options.dir)
    code = _written(figures, options)
    for path in scale.show(scale.extrapolate(**figures["node"]), RESULTS):
        print(f"{path}: drawn")
    return code


def _missing_store() -> str:
    """What to install where the shaped store cannot run."""
    from ioaccel.testing.shaped import find_nginx

    try:
        find_nginx()
    except RuntimeError as error:
        return f"{error}"
    return ""


def _instructions(options: argparse.Namespace) -> int | str:
    from bench import instructions

    figures, code = instructions.run(options.update, options.dir)
    return _written(figures, options) or code


def _micro(options: argparse.Namespace) -> int:
    from bench import micro

    return _written(micro.run(options.dir), options)


def _written(figures: dict[str, object], options: argparse.Namespace) -> int:
    from bench.records import put

    if options.json:
        put(options.json, json.dumps(figures, indent=2) + "\n")
    return 0


VERBS = {
    "list": _list,
    "run": _run,
    "report": _report,
    "micro": _micro,
    "torch": _torch,
    "plan": _plan,
    "instructions": _instructions,
}

if __name__ == "__main__":
    sys.exit(main())
