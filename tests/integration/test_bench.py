"""The benchmark itself: what it counts, whom it believes, and what it writes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("webdataset")

from support.bench_fakes import Hangs
from support.processes import started

from bench import __main__ as bench_main
from bench import data, job, report, runner, suite, tables, workload
from bench.contestants import CONTESTANTS, Entry
from bench.processes import MARK, Processes
from bench.records import BEYOND, FIGURES, Record
from ioaccel.testing.shaped import find_nginx

try:
    find_nginx()
except RuntimeError as error:
    pytestmark = [pytest.mark.skip(reason=str(error))]
else:
    # Each contestant is a process that imports torch.
    pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

COUNT, SLOW = 50, 20
KEYS = {"workload", "contestant", "version", "epoch", *FIGURES}
FAKES = "support.bench_fakes"
OUR_MARK = f"test-{os.getpid()}"  # tests run in two processes, and one must not see what the other starts
TINY = replace(
    workload.load("small-images"),
    name="tiny",
    files=COUNT,
    size=20_000,
    size_sd=2_000,
    batch=8,
    epochs=2,
    repeats=1,
    slow_samples=SLOW,
    delay_ms=1.0,
    deadline_s=30.0,
)


@pytest.fixture(scope="module", autouse=True)
def this_environment() -> Any:
    """Contestants run under this Python, also where there is an environment of the peers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "PEERS_PYTHON", Path("nowhere"))
        tests = Path(__file__).parents[1]
        patch.setenv("PYTHONPATH", str(tests))
        yield


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Those of contestants that need nothing beside what tests need anyhow."""
    names = ("local", "s3fs", "obstore-threads", "ioaccel", "ioaccel-loader")
    taking_part = {name: CONTESTANTS[name] for name in names}
    return runner.run(TINY, taking_part, tmp_path_factory.mktemp("bench"))


def by_epoch(records: list[Record], contestant: str) -> dict[int, Record]:
    return {record["epoch"]: record for record in records if record["contestant"] == contestant}


def test_a_record_for_each_contestant_and_epoch(records: list[Record]) -> None:
    assert not [record["reason"] for record in records if record["failed"]]
    found = {(record["contestant"], record["epoch"]) for record in records}
    cached = {(name, epoch) for name in ("local", "ioaccel", "ioaccel-loader") for epoch in (1, 2)}
    assert found == cached | {("s3fs", 1), ("obstore-threads", 1)}
    for record in records:
        assert record.keys() >= KEYS
        assert record["samples_per_s"] > 0
        assert record["cpu_s_per_gb"] >= 0
        assert record["peak_pss_mb"] > 50  # torch alone is that large
        assert record["version"] != "-" or record["contestant"] == "local"


def test_requests_and_bytes_are_those_of_the_store(records: list[Record]) -> None:
    once = by_epoch(records, "obstore-threads")[1]
    assert (once["store_requests"], once["samples"]) == (COUNT, COUNT)
    slow = by_epoch(records, "s3fs")[1]
    assert slow["samples"] == SLOW
    assert SLOW * 10_000 < slow["store_bytes"] < once["store_bytes"]
    ours = by_epoch(records, "ioaccel")
    assert ours[1]["store_bytes"] == once["store_bytes"]
    assert (ours[2]["store_requests"], ours[2]["store_bytes"]) == (0, 0)
    assert by_epoch(records, "local")[1]["store_requests"] == 0


def test_caches_of_fsspec_fetch_whole_batches_and_keep_them(tmp_path: Path) -> None:
    names = ("fsspec-simplecache", "fsspec-filecache")
    found = runner.run(TINY, {name: CONTESTANTS[name] for name in names}, tmp_path)
    assert [record["reason"] for record in found if record["failed"]] == []
    assert {record["samples"] for record in found} == {COUNT}
    simple, recorded = (by_epoch(found, name) for name in names)
    assert (simple[1]["store_requests"], simple[2]["store_requests"]) == (COUNT, 0)
    assert recorded[1]["store_requests"] <= COUNT + 2 * TINY.workers, "a listing, and no version of each file"
    assert recorded[2]["store_requests"] < COUNT / 2, "what its record has lost"


def test_a_cache_is_seen_to_write(records: list[Record]) -> None:
    """What the engine writes counts, though it is no child of the contestant."""
    ours = by_epoch(records, "ioaccel")[1]
    assert ours["disk_written_bytes"] >= ours["store_bytes"]


def test_who_converts_says_how_long_it_took(tmp_path: Path) -> None:
    twice = replace(TINY, repeats=2)
    found = runner.run(twice, {"webdataset": CONTESTANTS["webdataset"]}, tmp_path)
    assert [record["reason"] for record in found if record["failed"]] == []
    assert [record["epoch"] for record in found] == [1, 2]
    assert found[0]["conversion_s"] > 0
    assert len(found[0]["rounds"]) == found[0]["repeats"] == 2
    low, high = found[0]["spread"]["samples_per_s"]
    assert low <= found[0]["samples_per_s"] <= high
    assert found[0]["store_bytes"] > COUNT * 18_000
    assert found[1]["store_bytes"] == 0


def test_who_fails_is_a_row_that_says_why(tmp_path: Path) -> None:
    fakes = {
        "wrong": Entry(f"{FAKES}:WrongByte", "one byte is wrong"),
        "short": Entry(f"{FAKES}:TooFew", "a sample is missing"),
        "hangs": Entry(f"{FAKES}:Hangs", "never ends"),
        "absent": Entry("no_such_module:Nothing", "is not installed"),
        "local": CONTESTANTS["local"],
    }
    found = runner.run(replace(TINY, deadline_s=3.0), fakes, tmp_path)
    failed = {record["contestant"]: record for record in found if record["failed"]}
    assert failed.keys() == fakes.keys() - {"local"}
    assert "1 of 50 samples are wrong" in failed["wrong"]["reason"]
    assert "49 samples" in failed["short"]["reason"]
    assert "took more than 3 s" in failed["hangs"]["reason"]
    absent = "No module named 'no_such_module'; `make peers` installs the peers"
    assert failed["absent"]["reason"] == f"ModuleNotFoundError: {absent}"
    for record in failed.values():
        assert record.keys() >= KEYS
        assert record["samples_per_s"] is None
    assert sum(not record["failed"] for record in found) == 2, "the others go on"


def test_parts_of_objects(tmp_path: Path) -> None:
    pieces = replace(TINY, files=4, samples_per_file=10, size=65_536, size_sd=0)
    names = ("obstore-threads", "ioaccel", "webdataset")
    found = runner.run(pieces, {name: CONTESTANTS[name] for name in names}, tmp_path)
    reasons = {record["contestant"]: record["reason"] for record in found if record["failed"]}
    assert reasons == {"webdataset": "reads whole objects or shards only, no parts of them"}
    assert by_epoch(found, "obstore-threads")[1]["store_bytes"] == 40 * 65_536
    assert by_epoch(found, "ioaccel")[2]["store_bytes"] == 0


def test_who_is_slow_reads_samples_of_all_files(tmp_path: Path) -> None:
    pieces = replace(TINY, files=4, samples_per_file=10, size=65_536, size_sd=0, slow_samples=10)
    slow = {
        "s3fs": CONTESTANTS["s3fs"],
        "spread": Entry(f"{FAKES}:OfAllFiles", "fails if its samples are of one file", slow=True),
    }
    found = runner.run(pieces, slow, tmp_path)
    assert [record["reason"] for record in found if record["failed"]] == []
    assert {record["samples"] for record in found} == {10}
    assert by_epoch(found, "s3fs")[1]["store_bytes"] == 10 * 65_536


def test_some_samples_are_the_same_each_time() -> None:
    truth = np.arange(4_000).reshape(1_000, 4)
    some = data.some(truth, 100)
    assert some.tolist() == data.some(truth, 100).tolist()
    assert some[:, 0].tolist() == sorted({*some[:, 0].tolist()}), "each once, in their order"
    assert 400 < some[:, 0].mean() / 4 < 600, "of the whole data set"
    assert data.some(truth, 5_000).tolist() == truth.tolist()


def test_a_small_cache(tmp_path: Path) -> None:
    many = replace(TINY, files=400, batch=32, cache_ratios=(0.5,))
    _, second = runner.run(many, {"ioaccel": CONTESTANTS["ioaccel"]}, tmp_path)
    assert second["cache_ratio"] == 0.5
    assert 0.4 < second["store_requests"] / 400 < 0.7, "a cache of half the data hits half of it"
    assert second["cache_bytes"] >= second["store_bytes"] * 0.8, "the half that is kept"


def test_two_jobs_with_one_cache_that_start_again(tmp_path: Path) -> None:
    twice = replace(TINY, jobs=2, restart=True)
    first, second = runner.run(twice, {"ioaccel": CONTESTANTS["ioaccel"]}, tmp_path)
    assert [first["samples"], second["samples"]] == [2 * COUNT, 2 * COUNT]
    assert first["store_requests"] == COUNT, "two jobs, one fetch"
    assert second["store_bytes"] < first["store_bytes"] / 50, "a listing, to see whether it is current"


def test_of_two_jobs_both_are_checked(tmp_path: Path) -> None:
    fakes = {
        name: Entry(f"{FAKES}:{name}", "one byte is wrong", shares=False)
        for name in ("WrongSecondJob", "WrongSecondJobCold")
    }
    found = runner.run(replace(TINY, jobs=2, repeats=2), fakes, tmp_path)
    assert [record["contestant"] for record in found if record["failed"]] == list(fakes)
    assert all("1 of 50 samples are wrong" in record["reason"] for record in found)


def test_accelerators_are_counted(tmp_path: Path) -> None:
    paced = replace(TINY, step_s=0.02, utilisation=0.5)
    found = runner.run(paced, {"local": CONTESTANTS["local"]}, tmp_path)
    assert found[-1]["accelerators_kept"] >= 1
    assert found[-1]["utilisation"] >= 0.5


def test_the_report_is_written_from_records(records: list[Record], tmp_path: Path) -> None:
    failure = {**records[0], "contestant": "broken", "epoch": None, "failed": True, "reason": "it | broke"}
    file, readme = tmp_path / "full.json", tmp_path / "README.md"
    file.write_text(
        json.dumps([record | {"command": "python -m bench run tiny"} for record in [*records, failure]])
    )
    readme.write_text(f"before\n{report.BEGIN}\noutdated\n{report.END}\nafter\n")
    text = report.write([file], tmp_path, readme).read_text()
    assert "| ioaccel | " in text
    assert "**broken** has no figure: it | broke" in text
    assert "    python -m bench run tiny" in text
    assert (tmp_path / "tiny.png").stat().st_size > 1000
    told = readme.read_text()
    assert told.startswith("before\n")
    assert told.endswith("after\n")
    assert "outdated" not in told
    assert "| tiny | " in told
    assert "    python -m bench run WORKLOAD" in told


def test_a_report_of_other_records_leaves_ours_alone(records: list[Record], tmp_path: Path) -> None:
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    for place in (results, elsewhere):
        place.mkdir()
    readme, file = tmp_path / "README.md", elsewhere / "some.json"
    readme.write_text("")
    file.write_text(json.dumps([{**record, "command": "x"} for record in records]))
    assert report.write([file], results, readme) == elsewhere / "report-some.md"
    assert (elsewhere / "some-tiny.png").exists()
    assert not list(results.iterdir())
    assert readme.read_text() == ""


def test_temporary_files_of_contestants_are_removed() -> None:
    with job.watched() as processes:
        place = Path(processes.environment["TMPDIR"])
        (place / "left").mkdir()
    assert not place.exists()


def test_a_cache_beyond_its_limit_is_named(records: list[Record], tmp_path: Path) -> None:
    """More by a tenth, in any epoch, whoever it is."""
    mib = 1 << 20
    taken = {
        ("ioaccel", 11): 18,
        ("ioaccel", 100): 109,
        ("ioaccel", 200): 215,
        ("local", 11): 20,
        ("ioaccel-loader", 100): 111,
    }
    some = [
        record | {"cache_ratio": size / 400, "cache_size": size * mib, "cache_bytes": used * mib}
        for (name, size), used in taken.items()
        for record in by_epoch(records, name).values()
    ]
    rows = [line.split(" | ") for line in tables.table(some)[2:]]
    named = {(row[0].removeprefix("| "), row[2]) for row in rows if any(BEYOND in cell for cell in row)}
    assert named == {("ioaccel", "3%"), ("local", "3%"), ("ioaccel-loader", "25%")}
    assert BEYOND in report.NOTES


def test_an_absent_store_is_said_and_nothing_faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise RuntimeError("the shaped store needs nginx")

    monkeypatch.setattr("ioaccel.testing.shaped.find_nginx", absent)
    monkeypatch.setattr(workload, "load", lambda name: TINY)
    file = tmp_path / "records.json"
    assert suite.run(["tiny"], False, ["local"], tmp_path, file) == 1, "nobody has figures"
    (record,) = json.loads(file.read_text())
    assert record["failed"]
    assert record["reason"] == "skipped: the shaped store needs nginx"


def one_record(each: workload.Workload, *_: object) -> list[Record]:
    """Instead of a run."""
    return [{"workload": each.name, "contestant": "local", "failed": False}]


def never(*_: object) -> list[Record]:
    """Instead of a run that must not begin."""
    raise AssertionError("it has begun to measure")


def test_a_workload_that_runs_again_takes_the_place_of_its_own_records_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    monkeypatch.setattr(workload, "load", lambda name: replace(TINY, name=name))
    monkeypatch.setattr(suite, "_one", one_record)
    file = tmp_path / "full.json"
    file.write_text(json.dumps([{"workload": name, "contestant": "old"} for name in ("a", "b", "b")]))
    assert suite.run(["b", "c"], False, None, tmp_path, None) == 0
    assert sorted((r["workload"], r["contestant"]) for r in json.loads(file.read_text())) == [
        ("a", "old"),
        ("b", "local"),
        ("c", "local"),
    ]
    file.write_text(json.dumps([{"workload": "b", "contestant": name} for name in ("local", "boto3")]))
    suite.run(["b"], False, ["local"], tmp_path, None)  # it alone: the others' rows stay
    assert sorted(r["contestant"] for r in json.loads(file.read_text())) == ["boto3", "local"]
    own = tmp_path / "own.json"
    for _ in range(2):
        suite.run(["b"], False, None, tmp_path, own)
    assert len(json.loads(own.read_text())) == 1
    assert not (tmp_path / "quick.json").exists()


def test_who_takes_no_part_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "_one", one_record)
    file = tmp_path / "own.json"
    suite.run(["real-s3", "small-images"], True, ["ioaccel", "litdata"], tmp_path, file)
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if "no part" in line] == ["litdata takes no part in real-s3 (quick)"]
    suite.run(["real-s3", "small-images"], True, ["litdata"], tmp_path, file)
    assert [record["workload"] for record in json.loads(file.read_text())] == ["small-images"]
    monkeypatch.setattr(suite, "_one", never)
    with pytest.raises(ValueError, match="nobody takes part"):
        suite.run(["real-s3"], True, ["litdata"], tmp_path, file)


def test_a_second_run_into_a_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(directory: str) -> int:
        return suite.run(["restart"], True, None, tmp_path, tmp_path / directory / "own.json")

    def meanwhile(each: workload.Workload, *_: object) -> list[Record]:
        monkeypatch.setattr(suite, "_one", one_record)
        assert run("elsewhere") == 0
        with pytest.raises(ValueError, match=r"another run writes in .*here; wait for it, or say --json in"):
            run("here")
        return one_record(each)

    monkeypatch.setattr(suite, "_one", meanwhile)
    assert run("here") == 0
    assert run("here") == 0, "the first one has ended"


def test_a_broken_file_is_found_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "_one", never)
    (tmp_path / "quick.json").write_text("[{")
    with pytest.raises(ValueError, match=r"quick\.json is broken"):
        suite.run(["restart"], True, None, tmp_path, None)


@pytest.mark.parametrize("verb", ["run", "micro", "torch", "plan", "instructions"])
@pytest.mark.parametrize(
    ("file", "message"),
    [("{tmp}", "is no file; say one"), ("/proc/nb.json", "cannot be written"), ("/dev/null", "is no file")],
)
def test_where_figures_cannot_be_written_nothing_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    file: str,
    message: str,
) -> None:
    monkeypatch.setattr(bench_main, "VERBS", {verb: never})
    monkeypatch.setattr(sys, "argv", ["bench", verb, "--json", file.format(tmp=tmp_path)])
    with pytest.raises(SystemExit) as ended:
        bench_main.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_nothing_is_left_of_a_look_at_where_figures_go(tmp_path: Path) -> None:
    assert bench_main._file(str(tmp_path / "own.json")) == tmp_path / "own.json"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(suite, "_one", full)
    monkeypatch.setattr(sys, "argv", ["bench", "run", "restart", "--json", str(tmp_path / "own.json")])
    assert str(bench_main.main()).startswith("[Errno 28] No space left on device; it worked in ")


class HangsWithDaemon(Hangs):
    """What it has started is in no session of its own; a file says that it is there."""

    def epoch(self, step_s: float = 0.0) -> dict[str, Any]:
        subprocess.Popen(["sleep", "100"], start_new_session=True)
        (Path(os.environ["TMPDIR"]) / "hangs").touch()
        return super().epoch()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_run_that_is_ended(number: signal.Signals) -> None:
    """While a contestant is at work that would go on for minutes, with a daemon of its own."""
    code = "import sys, pathlib; from bench import __main__, job; from bench.contestants import *\n"
    code += "CONTESTANTS['daemon'] = Entry('integration.test_bench:HangsWithDaemon', '')\n"
    code += "job.PEERS_PYTHON = pathlib.Path('nowhere'); sys.exit(__main__.main())"
    with tempfile.TemporaryDirectory(prefix="t-") as name:  # a short path: sockets lie below it
        toml, work = Path(name) / "tiny.toml", Path(name) / "work"
        toml.write_text("about = 'x'\nfiles = 10\nsize = 1000\ncontestants = ['daemon']\nrepeats = 1\n")
        work.mkdir()
        command = [sys.executable, "-c", code, "run", toml, "--dir", work, "--json", f"{name}/own.json"]
        with started(command, stderr=subprocess.PIPE, env=os.environ | {"TMPDIR": str(work)}) as run:
            while not list(work.glob("ib-*/hangs")):
                assert run.poll() is None
                time.sleep(0.05)
            told = {path.name for path in work.iterdir()}
            assert {each.rpartition("-")[0] for each in told} == {"ib", "ioaccel-bench", "ioaccel-nginx"}
            run.send_signal(number)
            _, errors = run.communicate(timeout=20)
        assert run.returncode == 128 + number
        assert errors.strip() == ("interrupted" if number == signal.SIGINT else "")
        assert not list(work.iterdir())
        assert not [path for path in Path("/proc").glob("[0-9]*") if name.encode() in environment(path)]


def environment(process: Path) -> bytes:
    """Of a process, if it is there; none of one that has ended and nobody has waited for."""
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def test_every_workload_can_be_read_and_its_contestants_exist() -> None:
    for name in workload.names():
        for found in (workload.load(name), workload.load(name).quickly()):
            assert found.contestants == ("all",) or set(found.contestants) <= CONTESTANTS.keys()
            assert found.repeats >= 1
        assert workload.load(name).repeats >= 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('about = "x"\nfiles = 1\n', "lacks size"),
        ('about = "x"\nfiles = 1\nsize = 1\nfoo = 1\n', "unknown keys foo"),
        ('about = "x"\nfiles = 1\nsize = 1\nstore = "ftp"\n', "shaped or seaweed, not ftp"),
        ('about = "x"\nfiles = -5\nsize = 1\n', ">= 1 - at `files`"),
        ('about = "x"\nfiles = 1\nsize = 1\nbatch = "64"\n', "got `str` - at `batch`"),
        ('about = "x"\nfiles = 1\nsize = 1\ncache_ratios = [0]\n', "> 0.0 - at `cache_ratios"),
        ('about = "x"\nfiles = 1\nsize = 1\n[quick]\nworkers = 0\n', r"w, \[quick\]: .* >= 1 - at `workers`"),
        ('about = "x"\nfiles = 1\nsize = 1\nquick = 5\n', "Expected `object`, got `int` - at `quick`"),
        ('about = "x"\nfiles = 1\nsize = 1\ncontestants = []\n', "length >= 1 - at `contestants`"),
        ('about = "x"\nfiles = 1\nsize = 1\ncontestants = ["rsync"]\n', "no contestant rsync"),
        ("about = \n", "Invalid value"),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "w.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        workload.load(str(tmp_path / "w.toml"))


@pytest.mark.parametrize("mapped", [False, True])
def test_memory_that_nobody_maps_counts(mapped: bool) -> None:
    """Two processes have the file open, and it counts once; what is mapped is in their PSS."""
    code = "import os, mmap, time; fd = os.memfd_create('x'); os.ftruncate(fd, 50_000_000)\n"
    code += "m = mmap.mmap(fd, 0) if {mapped} else None\n"
    code += "for n in range(50):  # in pieces: all at once would be 50 MB more for a moment\n"
    code += " if m: m.write(b'x' * 1_000_000)\n"
    code += " else: os.pwrite(fd, b'x' * 1_000_000, n * 1_000_000)\n"
    code += "os.fork(); time.sleep(1)"
    with Processes(OUR_MARK) as processes:
        processes.begin()
        subprocess.run(
            [sys.executable, "-c", code.format(mapped=mapped)],
            check=True,
            env=os.environ | {MARK: OUR_MARK},
        )
        assert 50 < processes.peak() < 90


def test_processes_that_leave_the_tree_are_found(tmp_path: Path) -> None:
    code = "x = b'x' * 50_000_000; import time; s = time.process_time()\n"
    code += "while time.process_time() - s < 0.5: pass\n"
    command = [sys.executable, "-c", code]
    with Processes(OUR_MARK) as processes:
        before = processes.begin()
        # A daemon: nobody waits for it in the tree of whoever started it.
        subprocess.run(["setsid", "--fork", *command], check=True, env=os.environ | {MARK: OUR_MARK})
        assert processes.wait(20) == []
        used = processes.usage()
        assert used.cpu_s - before.cpu_s >= 0.3
        assert processes.peak() > 40
