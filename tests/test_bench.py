"""The benchmarks: that they run, report their results, and fail if a target is missed; the figures are not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import BOUND

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package of the benchmarks, with the modules that these tests use."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import benchmarks.__main__
    import benchmarks.measure
    import benchmarks.rows
    import benchmarks.servers

    return benchmarks


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the benchmarks with hardly any work, as a command: ``bench("inc", "--json", "rows.json")``."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(SCRIPTS), str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return subprocess.run(
            [sys.executable, "-P", "-m", "benchmarks", "--tiny", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)} | environment,
            capture_output=True,
            text=True,
            timeout=4 * BOUND,
            check=False,
        )

    return run


def test_a_case_by_its_name_runs_alone_and_its_rows_are_written(
    bench: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = bench("buffered", "--json", "rows.json")
    document = json.loads((tmp_path / "rows.json").read_text())
    rows = document["rows"]
    assert {row["case"] for row in rows} == {"buffered"}, done.stderr
    assert rows[0]["ours"]["value"] > 0
    assert rows[0]["peers"]["real-time"]["value"] > 0
    assert rows[0]["ratio"] == pytest.approx(rows[0]["ours"]["value"] / rows[0]["peers"]["real-time"]["value"])
    assert done.returncode == any(row["verdict"] != "met" for row in rows)
    for row in rows:
        assert row["work"] in done.stdout
        assert row["target"] in done.stdout
        assert row["verdict"] in done.stdout
    assert document["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert document["versions"]["Python"] == sys.version.split()[0]


def test_a_missing_peer_is_not_measured_and_meets_no_target(
    bench: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = bench("inc", "--json", "rows.json", BENCH_MPMETRICS_PYTHON="", BENCH_MPMETRICS_WHY="it is not installed")
    rows = {row["target"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    missing = rows["≥ 5 × faster than mpmetrics"]
    assert missing["verdict"] == "not measured", done.stderr
    assert "it is not installed" in missing["note"]
    assert "it is not installed" in done.stdout
    assert rows["≥ 50 × faster than prometheus_client"]["peers"]["prometheus_client"]["value"] > 0
    assert done.returncode == 1


def test_workers_that_come_and_go_are_counted_exactly_and_end_with_the_run(
    bench: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = bench("churn", "--json", "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    # The case itself checks the sums; if they were wrong it would give one row with the reason.
    assert [row["verdict"] for row in rows if row["target"] == "unchanged"] == ["met"], done.stderr
    assert not [name for name in os.listdir(tmp_path) if name.startswith("shmstats-bench-")]


def test_an_unknown_case_is_an_error_that_lists_the_cases(
    benchmarks: Any, bench: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = bench("inc", "speed")
    assert done.returncode == 2
    assert done.stdout == ""
    for name in ("speed", *benchmarks.__main__.CASES):
        assert name in done.stderr


@pytest.mark.parametrize(
    ("ours", "target", "verdict", "status"),
    [(2.0, 3.0, "met", 0), (4.0, 3.0, "missed", 1), (None, 3.0, "not measured", 1)],
)
def test_the_exit_status_is_1_where_a_target_is_not_met(
    benchmarks: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    ours: float | None,
    target: float,
    verdict: str,
    status: int,
) -> None:
    rows = benchmarks.rows

    def case(shop: Any) -> list[Any]:
        shown = rows.Measured("made", "nothing", rows.Figure(1.0)).only()
        if ours is None:
            return [shown, rows.not_measured("made", "something", "quick", "there is no clock")]
        peers = {"peer": rows.Figure(1.0)}
        return [shown, rows.Measured("made", "something", rows.Figure(ours), peers).slower("peer", target)]

    monkeypatch.setattr(benchmarks.__main__, "CASES", {"made": case, "other": case})
    assert benchmarks.__main__.main(["made", "--json", str(tmp_path / "rows.json")]) == status
    written = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["verdict"] for row in written] == ["", verdict]
    assert verdict in capsys.readouterr().out


def test_the_table_replaces_the_lines_between_two_markers_of_a_file(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def case(shop: Any) -> list[Any]:
        return [benchmarks.rows.Measured("made", "some work", benchmarks.rows.Figure(5.0)).at_most(10)]

    monkeypatch.setattr(benchmarks.__main__, "CASES", {"made": case})
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")
    for _ in range(2):
        assert benchmarks.__main__.main(["--update", str(file)]) == 0
        lines = file.read_text().splitlines()
        assert (lines[0], lines[-1]) == ("before", "after")
        assert "old" not in lines
        assert sum("some work" in line for line in lines) == 1
    file.write_text("no such lines\n")
    with pytest.raises(SystemExit) as error:
        benchmarks.__main__.main(["--update", str(file)])
    assert error.value.code == 2
    assert file.read_text() == "no such lines\n"


def test_a_case_that_raises_fails_and_the_others_still_run(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(shop: Any) -> list[Any]:
        raise AssertionError("the sums are wrong")

    def sound(shop: Any) -> list[Any]:
        return [benchmarks.rows.Measured("sound", "some work", benchmarks.rows.Figure(5.0)).at_most(10)]

    monkeypatch.setattr(benchmarks.__main__, "CASES", {"broken": broken, "sound": sound})
    assert benchmarks.__main__.main([]) == 1
    out = capsys.readouterr().out
    assert "the sums are wrong" in out
    assert "some work" in out


def test_a_target_is_met_at_its_limit_and_missed_beyond(benchmarks: Any) -> None:
    rows = benchmarks.rows

    def measured(value: float) -> Any:
        return rows.Measured("case", "work", rows.Figure(value), {"peer": rows.Figure(100.0)})

    assert [measured(value).slower("peer", 1.5).met for value in (149, 150, 151)] == [True, True, False]
    assert [measured(value).faster("peer", 50).met for value in (1.9, 2, 2.1)] == [True, True, False]
    assert [measured(value).smaller("peer", 4).met for value in (24, 25, 26)] == [True, True, False]
    assert [measured(value).at_most(10).met for value in (9, 10, 11)] == [True, True, False]
    assert measured(2).faster("peer", 50).ratio == 50
    assert measured(150).slower("peer", 1).ratio == 1.5


def test_the_sides_of_a_comparison_alternate_in_reversed_order(benchmarks: Any) -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], float]:
        def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    found = benchmarks.measure.in_turns({name: side(name) for name in "abc"}, 2)
    assert "".join(order) == "abccba"
    assert found == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}


def test_the_output_of_wrk_is_parsed(benchmarks: Any) -> None:
    said = """Running 2s test @ http://127.0.0.1:36185/hello
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.26ms    1.02ms  19.35ms   94.34%
    Req/Sec     3.28k   383.35     3.85k    70.00%
  Latency Distribution
     50%    1.07ms
     75%    1.32ms
     90%    1.83ms
     99%  900.00us
  6531 requests in 2.00s, 1.11MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
  Non-2xx or 3xx responses: 4
Requests/sec:   3263.48
Transfer/sec:    567.98KB
"""
    load = benchmarks.servers.parse(said)
    assert (load.requests, load.rate, load.failed) == (6531, 3263.48, 7)
    assert (load.p50, load.p99) == (pytest.approx(1.07e6), pytest.approx(9e5))


@pytest.mark.thorough
def test_the_quick_run_shows_ten_rows(bench: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = bench("--quick", "--json", "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 10, done.stderr
    assert all(row["ours"]["value"] > 0 for row in rows)
    assert bench("--quick", "inc").returncode == 2
