"""What tests of the cache share: data whose bytes are known, and processes that can be killed."""

from support.data import DataSet, payload
from support.processes import (
    gone,
    kill_engine,
    open_descriptors,
    python,
    resident_bytes,
    run_python,
    stop_engine,
    wait_for,
)

__all__ = [
    "DataSet",
    "gone",
    "kill_engine",
    "open_descriptors",
    "payload",
    "python",
    "resident_bytes",
    "run_python",
    "stop_engine",
    "wait_for",
]
