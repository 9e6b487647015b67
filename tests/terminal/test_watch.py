"""``shmstats-dump`` over time: watched on a terminal, as CSV, the history, and changes between snapshots."""

import csv
import io
import json
from pathlib import Path
from time import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from shmstats.cli import commands
from shmstats.history.archive import Archive, archived
from shmstats.history.recorder import HistoryRecorder
from shmstats.series import Distribution, Kind, Name, Snapshot
from shmstats.snapshot import store as saved
from shmstats.terminal.watch import Repaint, TimedTable

COUNTER = Name("shop", "orders", Kind.COUNTER, monotonic=True)
TIMES = Name("shop", "query", Kind.HISTOGRAM, bounds=(10.0, 20.0))
SIZE = Name("shop", "\x1b[2Jcache", Kind.GAUGE, unit="bytes")


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(commands, list(map(str, arguments)), prog_name="shmstats")
    assert result.exit_code == code, result.output
    return result.output


def test_a_watched_table_has_rates_and_units_and_no_control_characters() -> None:
    clock = iter((10.0, 12.0))
    repaint = Repaint()
    first = repaint.content(
        Snapshot([COUNTER, TIMES, SIZE], [5, Distribution(0.0, 0.0, (0, 0, 0)), 0]), "t", lambda: next(clock)
    )
    values = [25, Distribution(30.0, 20.0, (0, 2, 0)), 3 * 2**20]
    second = repaint.content(Snapshot([COUNTER, TIMES, SIZE], values), "t", lambda: next(clock)).decode()
    assert first.startswith(b"\x1b[2J\x1b[H")
    assert second.startswith("\x1b[H")
    lines = [line.split("\x1b[K")[0].split() for line in second.removeprefix("\x1b[H").split("\r\n")]
    assert lines[2] == ["25", "10/s", "shop.orders"]
    assert lines[3] == ["2", "(15", "ms)", "1/s", "shop.query"]
    assert lines[4] == ["3", "MiB", r"shop.\x1b[2Jcache"]


def test_labels_are_columns_with_the_option(tmp_path: Path) -> None:
    names = [COUNTER._replace(labels=(("plan", "pro"), ("region", "eu"))), COUNTER._replace(labels=(("plan", "free"),))]
    content = Repaint(columns=["plan"]).content(Snapshot(names, [3, 4]), "t").decode()
    lines = [line.split("\x1b[K")[0].split() for line in content.removeprefix("\x1b[2J\x1b[H").split("\r\n")]
    assert lines[1:4] == [
        ["value", "rate", "plan", "metric"],
        ["3", "pro", 'shop.orders{region="eu"}'],
        ["4", "free", "shop.orders"],
    ]
    saved.save(tmp_path, Snapshot(names, [3, 4]))
    asked = ("dump", "--from", tmp_path / saved.FILE, "--label", "plan", "--label", "none", "--format")
    rows = list(csv.DictReader(io.StringIO(run(*asked, "csv"), newline="")))
    assert [(row["plan"], row["none"], row["labels"]) for row in rows] == [("pro", "", 'region="eu"'), ("free", "", "")]
    head, *rows = (line.split() for line in run(*asked, "table").splitlines())
    assert head == ["CATEGORY", "METRIC", "plan", "LABELS", "KIND", "VALUE"]
    run(*asked, "json", code=2)


def test_bytes_and_times_are_readable_in_a_table_except_with_raw(tmp_path: Path) -> None:
    size, taken = SIZE._replace(metric="cache"), Distribution(123_456.0, 70_000.0, (0, 0, 2))
    saved.save(tmp_path, Snapshot([TIMES, size], [taken, 3 * 2**20]))
    asked = ("dump", "--format", "table", "--from", tmp_path / saved.FILE)
    shown, raw = run(*asked), run(*asked, "--raw")
    assert "mean 1 min 1 s" in shown
    assert "3 MiB" in shown
    assert "mean 61728 ms" in raw
    assert str(3 * 2**20) in raw


@pytest.mark.parametrize("form", ["json", "csv", "prometheus"])
def test_a_dump_of_many_series_shows_its_progress(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saved.save(tmp_path, Snapshot([COUNTER, SIZE], [3, 4]))
    asked = ("dump", "--format", form, "--from", str(tmp_path / saved.FILE))
    plain = CliRunner().invoke(commands, asked)
    monkeypatch.setattr("shmstats.terminal.dump._MANY", 2)
    monkeypatch.setattr("shmstats.terminal.command.has_bar", lambda: True)
    watched = CliRunner().invoke(commands, asked)
    assert f"Writing {form}" in watched.stderr
    assert (plain.stderr, watched.stdout) == ("", plain.stdout)


def test_watched_csv_has_the_time_and_one_header() -> None:
    timed = TimedTable()
    content = timed.content(b"a,b\r\n1,2\r\n") + timed.content(b"a,b\r\n3,4\r\n")
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert [(row["a"], row["b"]) for row in rows] == [("1", "2"), ("3", "4")]
    assert all(row["time"].endswith("+00:00") for row in rows)


class Nobody(list[object]):
    """A table without workers."""

    def live(self) -> list[object]:
        return []


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A data directory with a history of some seconds, without an application."""
    recorder = HistoryRecorder(tmp_path)
    reader = SimpleNamespace(workers=Nobody(), served=lambda workers: [], uptime=1.0)
    now = int(time())
    for second in range(5):
        recorder.record(reader, Snapshot([COUNTER], [7 * second]), (now - 4 + second) * 10**9)
    recorder.close()
    return tmp_path


def test_the_history_is_written_as_csv_and_json_without_an_application(recorded: Path) -> None:
    table = run(
        "dump",
        "--history",
        "--since",
        "10s",
        "--step",
        "1s",
        "--format",
        "csv",
        "--category",
        "shop",
        "--data",
        recorded,
    )
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["shop.orders"] for row in rows if row["shop.orders"]] == ["7"] * 4
    document = json.loads(run("dump", "--history", "--since", "1h", "--format", "json", "--data", recorded))
    assert document["step"] == 60
    assert "shop.orders" in document["series"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--history", "--format", "table"], 2, "--history goes with --format csv or json"),
        (["--history", "--since", "-5"], 2, "found '-5'; allowed: a time above 0"),
        (["--history", "--since", "1 year"], 2, "allowed: a time above 0, as 90, 10s, 15m, 1h, 1d"),
        (["--history", "--format", "csv", "--category", "nothing"], 1, "no series in the history of"),
    ],
)
def test_a_query_that_the_history_cannot_answer_is_an_error(
    recorded: Path, arguments: list[str], code: int, message: str
) -> None:
    assert message in run("dump", *arguments, "--data", recorded, code=code)


def test_a_missing_history_is_an_error(tmp_path: Path) -> None:
    assert "there is no history for the data directory" in run("dump", "--history", "--data", tmp_path, code=1)


def test_a_category_without_a_match_is_reported(tmp_path: Path) -> None:
    saved.save(tmp_path / "stats", Snapshot([COUNTER], [5]))
    assert "no category matches 'shpo'" in run("dump", "--category", "shpo", "--data", tmp_path)


def test_the_changes_between_two_snapshots_are_shown(tmp_path: Path) -> None:
    gone, new = Name("shop", "gone", Kind.COUNTER, (), True), Name("shop", "new", Kind.GAUGE)
    old = Snapshot([COUNTER, TIMES, gone], [1000, Distribution(10.0, 10.0, (1, 0, 0)), 3])
    saved.save(tmp_path / "a", old)
    saved.save(tmp_path / "b", Snapshot([COUNTER, TIMES, new], [1500, Distribution(40.0, 20.0, (1, 2, 0)), 2.5]))
    shown = run("diff", tmp_path / "a" / saved.FILE, tmp_path / "b" / saved.FILE)
    assert shown.splitlines() == [
        "- shop.gone  3",
        "+ shop.new  2.5",
        "  shop.orders  1,000 -> 1,500  (+500)",
        "  shop.query  1 observation -> 3 observations  (+2, mean of these 15)",
    ]
    assert run("diff", tmp_path / "a" / saved.FILE, tmp_path / "a" / saved.FILE) == "nothing changed\n"


def test_dated_copies_are_made_at_intervals_and_the_oldest_are_removed(tmp_path: Path) -> None:
    archive = Archive(tmp_path, hours=2, kept=3)
    archive.rotate(0.0)  # no snapshot is saved
    for hour in range(10):
        saved.save(tmp_path / "stats", Snapshot([COUNTER], [hour]))
        archive.rotate(1_800_000_000.0 + 3600 * hour)
    kept = archived(tmp_path / "stats")
    assert [saved.load(file).values for file in kept] == [[4], [6], [8]]
    assert kept[-1].name == "archive-20270115T160000.json"
    assert json.loads(run("dump", "--from", kept[0]))["shop"]["orders"] == 4
    archive.rotate(4_000_000_000.0)  # the clock is wrong for once
    for hour in range(10, 14):
        saved.save(tmp_path / "stats", Snapshot([COUNTER], [hour]))
        archive.rotate(1_800_000_000.0 + 3600 * hour)
    assert [saved.load(file).values for file in archived(tmp_path / "stats")] == [[10], [12], [9]]
