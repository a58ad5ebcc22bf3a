"""``python -m ioaccel.daemon SETTINGS``: the private engine that ``connect()`` starts.

SETTINGS is the JSON of ``Settings``. What became of the start is written to ``report_fd`` as one
line of JSON, ``{"pid": ...}`` or the fields of ``wire.Failure``, so that the client can raise it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys

import msgspec

from ioaccel import wire
from ioaccel.daemon.process import Settings, run_engine
from ioaccel.errors import IOAccelError


def main() -> int:
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    if os.fork():  # before there is any thread; the client waits for this process only
        os._exit(0)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s"
    )
    # What the client can import (a file system of its own, say), this process can; after its own.
    sys.path += [p for p in settings.sys_path if p not in sys.path]

    def report(line: dict[str, object]) -> None:
        """BrokenPipeError if the client is gone."""
        if settings.report_fd is not None:
            with open(settings.report_fd, "wb", buffering=0) as pipe:
                pipe.write(json.dumps(line).encode() + b"\n")

    try:
        run_engine(settings, private=True, ready=lambda: report({"pid": os.getpid()}))
    except IOAccelError as error:
        with contextlib.suppress(BrokenPipeError):
            report(_named(error))
        return 1


def _named(error: IOAccelError) -> dict[str, object]:
    failure = wire.Failure.of(error)
    return {field: getattr(failure, field) for field in failure.__struct_fields__}


if __name__ == "__main__":
    sys.exit(main())
