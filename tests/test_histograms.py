"""Histograms of bounded error: over processes, kills and restarts all percentiles are within the stated error."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from distributions import TRIED, draw, exact
from helpers import PythonRunner

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

OBSERVING = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from distributions import draw
    from shmstats import stats
    name, seed, n, killed = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "killed"
    observe = stats.histogram("c", name).observe
    for value in draw(name, seed, n):
        observe(value)
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def check_figures(shmstats: ModuleType, stats: Any, name: str, values: list[float], error: float) -> None:
    """Compare the figures that are shown of a histogram with the observed values."""
    from importlib import import_module

    shown = import_module("shmstats.export.documents").to_document(stats.read())["c"][name]
    assert shown["count"] == len(values)
    assert shown["sum"] == pytest.approx(sum(values), rel=1e-12)
    assert shown["max"] == max(values)
    assert shown["error"] <= error
    for figure, share in PERCENTILES.items():
        assert shown[figure] == pytest.approx(exact(values, share), rel=shown["error"]), figure


def tried(stats: Any, name: str, error: float) -> None:
    stats.declare("c", name, kind="histogram", unit="x", buckets="exponential", error=error, range=TRIED[name].range)


@pytest.mark.parametrize("name", TRIED)
def test_percentiles_are_within_the_error(shmstats: ModuleType, stats: Any, name: str) -> None:
    tried(stats, name, 0.05)
    values = draw(name, 1, 700)
    for value in values:
        stats.timing("c", name, value)
    check_figures(shmstats, stats, name, values, 0.05)
    stats.close()
    check_figures(shmstats, stats, name, values, 0.05)


def run_processes(
    shmstats: ModuleType, stats: Any, python: PythonRunner, name: str, error: float, processes: int, n: int
) -> None:
    """Make processes observe a distribution, kill every third of them, and compare."""
    tried(stats, name, error)
    children = [
        python.start(OBSERVING, Path(__file__).parent, name, seed, n, "killed" if seed % 3 == 0 else "")
        for seed in range(processes)
    ]
    for seed, child in enumerate(children):
        child.finish(status=-signal.SIGKILL if seed % 3 == 0 else 0)
    values = [value for seed in range(processes) for value in draw(name, seed, n)]
    check_figures(shmstats, stats, name, values, error)


def test_percentiles_over_processes_and_kills_are_within_the_error(
    shmstats: ModuleType, stats: Any, python: PythonRunner
) -> None:
    run_processes(shmstats, stats, python, "lognormal", 0.05, 4, 2000)


@pytest.mark.thorough
@pytest.mark.parametrize("error", [0.2, 0.05, 0.01])
@pytest.mark.parametrize("name", TRIED)
def test_percentiles_over_many_processes_and_kills_are_within_the_error(
    shmstats: ModuleType,
    stats: Any,
    python: PythonRunner,
    configure: Callable[..., object],
    name: str,
    error: float,
) -> None:
    configure(capacity=8192)  # 1 % over 40 octaves are 2,560 buckets
    run_processes(shmstats, stats, python, name, error, 8, 5000)


def test_a_single_observation_is_shown_exactly(shmstats: ModuleType, stats: Any) -> None:
    stats.declare("c", "h", kind="histogram", buckets="exponential")
    stats.timing("c", "h", 209.6)
    check_figures(shmstats, stats, "h", [209.6], 0.05)


def test_observations_outside_the_range_are_counted(stats: Any) -> None:
    from shmstats.export.figures import histogram_figures

    stats.declare("c", "h", kind="histogram", unit="x", buckets="exponential", error=0.05, range=(10, 1000))
    for value in (0.25, 0.5, 1e6, 3e6):
        stats.timing("c", "h", value)
    value = stats.get("c", "h")
    assert (value.buckets[0], value.buckets[-1], value.count) == (2, 2, 4)
    figures = histogram_figures(value, stats.read().names[-1].bounds)
    assert 0.25 <= figures["p50"] <= 8  # type: ignore[operator]
    assert 1000 <= figures["p99"] <= 3e6  # type: ignore[operator]


@pytest.mark.parametrize("wrong", [-1, -0.001, float("nan"), float("inf"), "fast", None, [1]])
def test_an_invalid_observation_raises_and_is_not_counted(stats: Any, wrong: Any) -> None:
    stats.declare("c", "h", kind="histogram", buckets="exponential")
    with pytest.raises((TypeError, ValueError), match="milliseconds must"):
        stats.timing("c", "h", wrong)
    with pytest.raises((TypeError, ValueError), match="value must"):
        stats.histogram("c", "h").observe(wrong)
    assert not stats.get("c", "h")


def test_a_series_of_5_percent_over_20_octaves_takes_less_than_1400_bytes(stats: Any, shmstats: ModuleType) -> None:
    stats.declare("c", "h", kind="histogram", buckets="exponential", error=0.05, range=(0.1, 60_000))
    stats.timing("c", "h", 1)
    block = stats.shared.attach()
    record = block.names.find(shmstats.block.keys.encode_key("c", "h"))
    assert 8 * record.width <= 1400


def test_a_snapshot_has_only_the_buckets_of_a_histogram_that_are_used(stats: Any, data: Path) -> None:
    stats.declare("c", "h", kind="histogram", buckets="exponential")
    for value in (5.0, 5.1, 7.0):
        stats.timing("c", "h", value)
    before = stats.get("c", "h")
    stats.close()
    saved = json.loads((data / "stats" / "simple.json").read_text())["data"]
    _, largest, smallest, _, buckets = saved["values"][saved["names"].index("c\0h")]
    assert (largest, smallest, sum(buckets), len(buckets)) == (7.0, 5.0, 3, 5)
    assert stats.get("c", "h") == before


def test_400_label_sets_of_a_timing_fit_the_default_capacity(shmstats: ModuleType, data: Path) -> None:
    stats = shmstats.Registry()
    stats.init({"path": {"data": str(data)}})
    for number in range(400):
        stats.timing("db", "query", 5, labels={"table": number})
    cells = stats.shared.attach().reader.usage()["cells"]
    assert stats.get("shmstats", "operations_dropped") == 0
    assert 400 * 166 / 2 <= cells.used < cells.capacity / 2
    stats.close()


def test_figures_of_very_large_values_are_numbers(shmstats: ModuleType, stats: Any) -> None:
    for value in (1, 60_001, 1e300, 1.7976931348623157e308):
        stats.timing("c", "h", value)
    from shmstats.export.documents import to_document

    assert all(map(math.isfinite, to_document(stats.read())["c"]["h"].values()))


def test_changed_buckets_after_a_restart_are_logged_and_lose_nothing(
    stats: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for error, before in ((0.05, 0), (0.01, 0.0433), (0.05, 0.0055)):
        stats.declare("c", "h", kind="histogram", buckets="exponential", error=error)
        stats.timing("c", "h", 209.6)
        told = [record.message for record in caplog.records if "is declared as" in record.message]
        assert len(told) == bool(before)
        assert all(f"before it was {'used as ' * (before == 0.0433)}histogram" in each for each in told)
        assert all(f"exponential, error {before}" in each.partition("before it was")[2] for each in told)
        caplog.clear()
        stats.close()
    assert stats.get("c", "h").count == 3


def figures_of(shmstats: ModuleType, stats: Any, series: str = "h") -> dict[str, Any]:
    """Return the figures of a histogram, after a check that both of its forms state the same error."""
    from importlib import import_module

    figures: dict[str, Any] = import_module("shmstats.export.documents").to_document(stats.read())["c"][series]
    form_2 = import_module("shmstats.export.documents").to_structured(stats.read())["series"]
    of_2 = [each["value"] for each in form_2 if (each["category"], each["metric"]) == ("c", "h")]
    assert figures.get("error") in [each.get("error") for each in of_2]
    return figures


def test_percentiles_of_moved_observations_are_shown_without_a_stated_error(shmstats: ModuleType, stats: Any) -> None:
    def declare(**buckets: Any) -> None:
        stats.declare("c", "h", kind="histogram", unit="x", **buckets)

    declare(buckets=(10, 1000))
    for value in (19.5, 19.5, 19.5, 40):
        stats.timing("c", "h", value)
    stats.close()
    declare(buckets="exponential", error=0.01, range=(1, 10_000))
    stats.timing("c", "h", 19.5, labels={"a": "new"})
    for _ in range(2):
        figures = figures_of(shmstats, stats)
        assert "error" not in figures
        assert all(19.5 <= figures[percentile] <= 40 for percentile in PERCENTILES)
        assert figures_of(shmstats, stats, 'h{a="new"}')["error"] == 0.0055
        stats.close()
    stats.reset("c", "h")
    for _ in range(2):
        assert figures_of(shmstats, stats)["error"] == 0.0055
        stats.timing("c", "h", 19.5)
        stats.close()


@pytest.mark.parametrize(("default", "carried"), [("former", False), ("of today", True), ("of today", False)])
def test_restored_observations_of_other_bounds_are_marked(
    shmstats: ModuleType, attach: Callable[..., Any], tmp_path: Path, default: str, carried: bool
) -> None:
    from importlib import import_module

    series, fill = shmstats.series, import_module("shmstats.attachment.restoring").fill
    former, today = shmstats.bounds.FORMER_DEFAULT_BOUNDS, shmstats.bounds.DEFAULT_BOUNDS
    bounds = former if default == "former" else today
    value = series.Distribution(5.0, 5.0, shmstats.bounds.buckets_of((5.0,), bounds), 5.0)
    name = series.Name("c", "h", series.Kind.HISTOGRAM, bounds=bounds, carried=carried)
    shmstats.snapshot.store.save(tmp_path / "0" / "stats", series.Snapshot([name], [value]))
    ways = (
        lambda into: fill(into, print),
        lambda into: import_module("shmstats.attachment.restoring").move(series.Snapshot([name], [value]), into),
    )
    for number, bring in enumerate(ways):
        into = attach(directory=tmp_path / str(number))
        bring(into)
        (found,) = into.reader.read().names
        assert found.carried == (carried or default == "former")
        assert into.reader.read().values[0].count == 1


def test_a_series_registered_after_the_removal_of_other_buckets_states_its_error(
    shmstats: ModuleType, stats: Any
) -> None:
    for error in (0.05, 0.01):
        stats.declare("c", "h", kind="histogram", buckets="exponential", error=error)
        stats.timing("c", "h", 19.5)
        stats.close()
    assert "error" not in figures_of(shmstats, stats)
    stats.remove("c", "h")
    stats.timing("c", "h", 19.5)
    assert figures_of(shmstats, stats)["error"] == 0.0055


def test_the_error_of_coarser_buckets_holds_for_observations_in_finer_ones(
    shmstats: ModuleType, stats: Any, configure: Callable[..., Any]
) -> None:
    configure(capacity=8192)
    values = draw("lognormal", 1, 300)
    for error in (0.01, 0.05):
        stats.declare("c", "h", kind="histogram", unit="x", buckets="exponential", error=error, range=(1e-3, 1e6))
        for value in values:
            stats.timing("c", "h", value)
        stats.close()
    check_figures(shmstats, stats, "h", values * 2, 0.05)


@pytest.mark.parametrize("step", [1, -1])
def test_label_sets_of_different_kinds_are_all_restored(stats: Any, step: int) -> None:
    calls = (
        lambda: stats.incr("c", "m", 3, labels={"a": "1"}),
        lambda: stats.timing("c", "m", 5, labels={"b": "1"}),
        lambda: stats.gauge("c", "m", 1.5, labels={"d": "1"}),
    )
    for call in calls[::step]:
        call()
    before = stats.snapshot()["c"]
    stats.close()
    assert stats.snapshot()["c"] == before
    assert before['m{b="1"}'].count == 1


def test_buckets_may_be_a_numpy_array(stats: Any) -> None:
    stats.declare("c", "h", kind="histogram", buckets=np.array([1.0, 2.5]))
    stats.timing("c", "h", 2)
    assert stats.get("c", "h").buckets == (0, 1, 0)
    with pytest.raises(ValueError, match="a counter has none"):
        stats.declare("c", "n", kind="counter", buckets=np.array([1.0, 2.5]))
