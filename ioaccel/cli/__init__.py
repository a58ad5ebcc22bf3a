"""The command line: one file a verb. What it promises to people and scripts stands in docs/CLI.md.

Nothing is imported here that a verb does not need: ``ioaccel --help`` answers in a tenth of a second.

``app``       the verbs, and what holds for all of them
``options``   options that several verbs have
``errors``    errors as one line and an exit code
``output``    figures as text, tables, JSON
``progress``  bars on a terminal, lines elsewhere
``checks``    what ``doctor`` looks at
"""

from __future__ import annotations


def main() -> None:
    """The console script ``ioaccel``. Ends the process with an exit code of `ioaccel.cli.errors`."""
    import signal

    from ioaccel.cli.app import app
    from ioaccel.cli.errors import terminated

    signal.signal(signal.SIGTERM, terminated)
    app(prog_name="ioaccel")
