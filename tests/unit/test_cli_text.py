"""Figures, options, errors and secrets as the command line writes and reads them."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest

import ioaccel
from ioaccel.cli.config import HIDDEN, without_secrets
from ioaccel.cli.errors import exit_code, one_line, reported
from ioaccel.cli.listing import Object, from_file
from ioaccel.cli.options import CacheArguments, parse_options
from ioaccel.cli.output import duration, number, print_facts, print_table, rate, size
from ioaccel.cli.progress import Pace
from ioaccel.errors import ConfigError, IOAccelError, ReadOnlyError, UnsupportedURLError


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1 kB"),
        (1000, "1 kB"),
        (1_050_000_000, "1.05 GB"),
        (999_600_000, "1 GB"),
        (123_456_789, "123 MB"),
        (2.5e18, "2,500 PB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (0.04, "40 ms"),
        (0.1, "0.1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (192, "3 min 12 s"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers() -> None:
    assert (number(1, "objects"), number(0, "objects"), number(1234, "blocks")) == (
        "1 object",
        "0 objects",
        "1,234 blocks",
    )
    assert rate(2.0, 100, 3_000_000) == "2.0 s, 1.5 MB/s, 50 objects/s"


def test_tables_are_plain_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    long = "/" + "x" * 300
    print_table(("name", "bytes>"), [(long, "1"), ("[b]", "23")])
    print_facts([("a", "b")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{long}      1"
    assert lines[2].split() == ["[b]", "23"]
    assert not any(line.endswith(" ") or "\x1b" in line for line in lines)


# ---- options ------------------------------------------------------------------------------------


def test_options() -> None:
    given = ["key=a=b", "anon=true", 'headers:={"X-A": "1"}', "timeout:=5", "token="]
    assert parse_options(given) == {
        "key": "a=b",
        "anon": "true",
        "headers": {"X-A": "1"},
        "timeout": 5,
        "token": "",
    }
    assert CacheArguments().storage_options is None


@pytest.mark.parametrize("given", ["supersecret", "=x", ":=1", "n:=", "n:={"])
def test_options_that_are_none(given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options([given])
    assert "supersecret" not in str(caught.value)


def test_one_size_or_one_for_each_directory() -> None:
    sizes = [CacheArguments(cache_size=given).size for given in (None, [], ["1GB"], ["1GB", "2GB"])]
    assert sizes == [None, None, "1GB", ["1GB", "2GB"]]


def test_secrets_are_hidden() -> None:
    options = {
        "key": "AKIA",
        "secret": "s",
        "SAS_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "s",
        "connection_string": "c",
        "future_password": "p",
        "endpoint_url": "https://user:pass@host:1/",
        "AWS_REGION": "eu-west-1",
        "anon": True,
        "client_kwargs": {"region_name": "r", "aws_session_token": "t"},
    }
    shown = without_secrets(options)
    assert [name for name, value in shown.items() if value == HIDDEN] == [
        "AWS_SECRET_ACCESS_KEY",
        "SAS_TOKEN",
        "connection_string",
        "future_password",
        "key",
        "secret",
    ]
    assert shown["endpoint_url"] == "https://host:1/"
    assert (shown["AWS_REGION"], shown["anon"]) == ("eu-west-1", True)
    assert shown["client_kwargs"] == {"region_name": "r", "aws_session_token": HIDDEN}


# ---- errors -------------------------------------------------------------------------------------

CODES = {
    ioaccel.ConfigError: 2,
    ioaccel.UnsupportedURLError: 2,
    ioaccel.RangeError: 2,
    ioaccel.ObjectNotFoundError: 3,
    ioaccel.AccessDeniedError: 4,
    ioaccel.StoreError: 5,
    ioaccel.StoreTimeoutError: 5,
    ioaccel.ObjectChangedError: 5,
    ioaccel.CacheDirectoryError: 6,
    ioaccel.CacheBusyError: 6,
    ioaccel.CacheFormatError: 6,
    ioaccel.EngineError: 6,
    ioaccel.IOAccelError: 1,
}


@pytest.mark.parametrize("kind", CODES)
def test_exit_codes(kind: type[IOAccelError], capsys: pytest.CaptureFixture[str]) -> None:
    error = kind("it\nis broken", url="s3://b/k")
    assert exit_code(error) == CODES[kind]
    with pytest.raises(SystemExit) as caught, reported():
        raise error
    assert caught.value.code == CODES[kind]
    assert capsys.readouterr().err == "ioaccel: it is broken\n"


def test_every_error_of_ours_has_a_code_on_purpose() -> None:
    out_of_reach = {ioaccel.CacheClosedError, ioaccel.FormatError, ReadOnlyError}  # no verb can raise them
    unnamed = set(IOAccelError.__subclasses__()) - set(CODES) - out_of_reach
    assert not unnamed, "give them a code, and a line in docs/CLI.md"


def test_an_error_of_the_system_is_one_line() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/x/y")
    assert (one_line(error), exit_code(error)) == ("/x/y: Permission denied", 6)


def test_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, reported():
        raise KeyboardInterrupt
    assert (caught.value.code, capsys.readouterr().err) == (130, "ioaccel: interrupted\n")


def test_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, reported():
        raise ZeroDivisionError
    assert caught.value.code == 70
    assert "Traceback" in capsys.readouterr().err


# ---- progress -----------------------------------------------------------------------------------


def test_pace() -> None:
    now = [100.0]
    pace = Pace("objects", 1000, 10_000_000, clock=lambda: now[0])
    assert str(pace) == "0 of 1,000 objects, 0 objects/s"
    now[0] += 2
    pace.add(100, 4_000_000)
    assert str(pace) == "100 of 1,000 objects, 4 MB, 2 MB/s, 50 objects/s, 3.0 s left"
    pace.add(900, 6_000_000)
    assert (pace.seconds_left(), str(pace)[-9:]) == (0.0, "objects/s")


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now = [0.0]
    pace = Pace("objects", 10**6, clock=lambda: now[0])
    pace.add(100_000)
    for _ in range(40):
        now[0] += 1
        pace.add(10)
    units, _ = pace.rates()
    assert units == pytest.approx(10, rel=0.1)
    assert pace.seconds_left() == pytest.approx(89_960, rel=0.1)


def test_a_wait_has_no_rate() -> None:
    now = [0.0]
    pace = Pace("steps", clock=lambda: now[0])
    now[0] = 12
    assert str(pace) == "12 s"


# ---- lists --------------------------------------------------------------------------------------


def test_a_list_of_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# objects\n\ns3a://b/k \n  s3://b/ä\n/tmp/x\n"
    (tmp_path / "list").write_text(text)
    listing = from_file(str(tmp_path / "list"))
    assert (listing.count, listing.size) == (3, None)
    assert list(listing.objects) == [Object(u, None) for u in ("s3://b/k", "s3://b/ä", "file:///tmp/x")]
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert from_file("-").count == 3


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "list"
    with pytest.raises(ConfigError, match="No such file"):
        from_file(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        from_file(str(path))
    path.write_text("\n# nothing\n")
    with pytest.raises(ConfigError, match="names no object"):
        from_file(str(path))
    path.write_text("s3://b/k\nioaccel://b/k\n")
    with pytest.raises(UnsupportedURLError, match="line 2"):
        from_file(str(path))
