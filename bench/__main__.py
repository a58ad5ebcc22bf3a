"""``python -m bench micro|torch|plan|instructions [--json FILE] [--dir DIR]``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main() -> int | str:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    shared.add_argument("--dir", type=Path, help="where to work (default: the temporary directory)")
    verbs.add_parser("micro", parents=[shared], help="the hot paths, each against its limit")
    jobs = verbs.add_parser("torch", parents=[shared], help="PyTorch jobs over a store with a shape")
    jobs.add_argument("--samples", type=int, default=10_000, metavar="N", help="objects of ~110 KB (10000)")
    counted = verbs.add_parser("instructions", parents=[shared], help="what the hot paths in C take")
    counted.add_argument("--update", action="store_true", help="record the counts in bench/instructions.json")
    verbs.add_parser("plan", parents=[shared], help="what `ioaccel plan` predicts, against what happens")
    options = parser.parse_args()
    code = 0
    if options.verb in ("torch", "plan"):
        from bench import plan, torch
        from ioaccel.testing.shaped import find_nginx

        try:
            find_nginx()
        except RuntimeError as error:  # it says what to install
            return f"{error}"
        figures = plan.run(options.dir) if options.verb == "plan" else torch.run(options.dir, options.samples)
    elif options.verb == "instructions":
        from bench import instructions

        figures, code = instructions.run(options.update, options.dir)
    else:
        from bench import micro

        figures = micro.run(options.dir)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
