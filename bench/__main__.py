"""``python -m bench micro [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import micro


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("micro", help="the hot paths, each against its limit")
    verb.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    verb.add_argument("--dir", type=Path, help="where to work (default: the temporary directory)")
    options = parser.parse_args()
    figures = micro.run(options.dir)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
