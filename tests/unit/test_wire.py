"""What goes over a connection, and what need not go twice."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import get_args

import pytest

import ioaccel
from ioaccel import wire
from ioaccel.sources import SourceSpec, resolve


def spec(scheme: str, key: str = "a") -> SourceSpec:
    return resolve(scheme, {"key": key, "secret": "b", "endpoint_url": "http://127.0.0.1:1"})


def test_a_source_is_told_once() -> None:
    one, other = spec("s3"), spec("s3", "c")
    here: dict[str, SourceSpec] = {}
    there: dict[str, SourceSpec] = {}

    def sent(sources: dict[str, SourceSpec]) -> tuple[wire.Sourced, wire.Sourced]:
        """A message as it goes over the connection, and as the engine has it."""
        short = wire.shorten(wire.Residency(sources, ["s3://b/k"]), here)
        here.update(sources)
        return short, wire.complete(short, there)

    short, whole = sent({"s3": one})
    assert short.sources == whole.sources == {"s3": one}
    short, whole = sent({"s3": one})
    assert short.sources == {}
    assert whole == wire.Residency({"s3": one}, ["s3://b/k"])
    short, whole = sent({"s3": one, "file": resolve("file")})
    assert short.sources.keys() == {"file"}
    assert whole.sources.keys() == {"s3", "file"}
    short, whole = sent({"s3": other})  # it is another one by now
    assert short.sources == {"s3": other}
    assert whole.sources["s3"] == other


def test_all_messages_that_name_sources_are_shortened() -> None:
    named = {each for each in get_args(wire.Request) if "sources" in each.__struct_fields__}
    assert named == set(get_args(wire.Sourced))


def test_a_bundle_of_certificates_goes_to_the_engine_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_CA_BUNDLE names one, in many environments: 220 KB with each message, and that for each batch."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("# a comment\n" * 20_000)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    sizes: list[int] = []
    send = wire.send

    def count(sock: socket.socket, message: wire.Message) -> None:
        sizes.append(len(wire._encoder.encode(message)))
        send(sock, message)

    monkeypatch.setattr(wire, "send", count)
    files = [tmp_path / f"{n}" for n in range(20)]
    for file in files:
        file.write_bytes(file.name.encode())
    with ioaccel.connect(tmp_path / "cache", "10MB") as cache:
        for file in files:
            assert cache.read(file) == file.name.encode()
            assert cache.resident([f"s3://bucket/{file.name}"]) == [0]
    assert sum(size > 100_000 for size in sizes) == 1
    assert sum(size < 1000 for size in sizes) >= 2 * len(files)
