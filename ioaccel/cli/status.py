"""``ioaccel status``: how the engine of a cache is doing."""

from __future__ import annotations

from typing import Any

import typer

from ioaccel.cli.errors import FOUND_SOMETHING
from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json


def status(cache_dir: Directories = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show hits, bytes and the health of the disks.

    Starts no engine. If none runs, says what is on disk, with exit code 1.
    """
    from ioaccel.cli.engine import left_on_disk, running_status
    from ioaccel.cli.output import print_json

    directories = CacheArguments(cache_dir, config=config).load().directories
    found = running_status(directories)
    if as_json:
        # One form for both: a script looks at "running" first.
        shards = [left_on_disk(d) for d in directories] if found is None else found["shards"]
        print_json(
            {"running": found is not None, "hit_ratio": _hit_ratio(found), **(found or {}), "shards": shards}
        )
    elif found is None:
        _print_disk([left_on_disk(d) for d in directories])
    else:
        _print_running(found)
    if found is None:
        raise typer.Exit(FOUND_SOMETHING)


def _hit_ratio(found: dict[str, Any] | None) -> float | None:
    """Hits among all reads of blocks; None if there were none."""
    reads = found["hits"] + found["misses"] if found else 0
    return found["hits"] / reads if found and reads else None


def _print_running(found: dict[str, Any]) -> None:
    from ioaccel.cli.output import print_facts, print_table, size

    print_facts(_facts(found))
    print()
    rows = []
    for shard in found["shards"]:
        cached, capacity = shard["cached_bytes"], shard["capacity_bytes"]
        full = f"{cached / capacity:.0%}" if capacity else ""
        health = f"{shard['health']}: {shard['trouble']}" if shard["trouble"] else shard["health"]
        rows.append((shard["directory"], size(cached), size(capacity), full, health))
    print_table(("directory", "cached>", "size>", "full>", "health"), rows)


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    from ioaccel.cli.output import duration, number, size

    def count(name: str, what: str) -> str:
        return number(found[name], what)

    def amount(name: str) -> str:
        return size(found[name])

    ratio = _hit_ratio(found)
    engine = f"process {found['engine_pid']}, ioaccel {found['version']}, up {duration(found['uptime_s'])}"
    reads = found["hits"] + found["misses"]
    hits = "no reads yet" if ratio is None else f"{ratio:.1%}: {found['hits']:,} of {number(reads, 'reads')}"
    read = f"{amount('hit_bytes')} from the cache, {amount('miss_bytes')} that had to be fetched"
    store = f"{count('store_requests', 'requests')}, {amount('store_bytes')}"
    retried = f"{found['store_retries']:,} retried, {found['store_hedged']:,} hedged"
    lost = f"{amount('evicted_bytes')} evicted, {amount('passed_bytes')} passed because it was full"
    return [
        ("engine", f"{engine}, {count('clients', 'clients')}"),
        ("hit ratio", hits),
        ("read", f"{read}, {amount('direct_bytes')} past the engine"),
        ("store", f"{store}; {retried}, {found['store_throttled']:,} throttled"),
        ("cached", f"{amount('cached_bytes')} of {amount('capacity_bytes')}, {count('blocks', 'blocks')}"),
        ("lost", f"{lost}, {count('corrupt_blocks', 'corrupt blocks')}"),
    ]


def _print_disk(shards: list[dict[str, Any]]) -> None:
    from ioaccel.cli.output import print_table, size

    # The first one holds the engine's socket.
    can_start = shards[0]["health"] != "unusable"
    print(
        f"no engine is running; {'the next client starts one' if can_start else 'none can be started here'}\n"
    )
    print_table(
        ("directory", "on disk>", "size>", "health"),
        [
            (
                shard["directory"],
                size(shard["file_bytes"]),
                size(shard["capacity_bytes"]) if shard["capacity_bytes"] is not None else "",
                shard["trouble"] or shard["health"],
            )
            for shard in shards
        ],
    )
