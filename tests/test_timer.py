"""Timings, timers and timestamps: buckets, figures, exposition, and how a timer may be used by several threads."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.far_from_core

BOUNDS = (
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0,
    1000.0, 2500.0, 5000.0, 10000.0, 25000.0, 50000.0, 60000.0,
)  # fmt: skip

#: The upper bounds in seconds that text formats show of a timing: powers of two.
SHOWN = tuple(2.0**power for power in range(-14, 7))


@pytest.fixture
def declared(stats: Any) -> Callable[[str], str]:
    """Declare a metric of the category ``db`` with `BOUNDS`; returns its name."""

    def declared(metric: str) -> str:
        stats.declare("db", metric, kind="histogram", buckets=BOUNDS)
        return metric

    return declared


@pytest.fixture
def buckets(stats: Any) -> Callable[..., dict[int, int]]:
    """Return the count of each used bucket of a histogram: ``buckets("db", "query")``."""

    def buckets(category: str = "db", metric: str = "query") -> dict[int, int]:
        value = stats.get(category, metric)
        return {number: count for number, count in enumerate(value.buckets) if count}

    return buckets


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 10**15

    def monotonic_ns(self) -> int:
        return self.now

    def advance(self, milliseconds: float) -> None:
        self.now += round(milliseconds * 1e6)


@pytest.fixture
def clock(shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replaces the clock that timers read in Python; the core reads the system's clock."""
    clock = Clock()
    timer = importlib.import_module("shmstats.timer")

    def report_since(self: Any, start: int) -> None:
        self._report.observe((clock.now - start) / 1e6)

    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic_ns=clock.monotonic_ns))
    monkeypatch.setattr(timer.Timer, "__enter__", timer.Timer._enter_again, raising=False)
    monkeypatch.setattr(timer.Timer, "__exit__", lambda self, *raised: self._exit_again(), raising=False)
    monkeypatch.setattr(timer.Timer, "_report_since", report_since, raising=False)
    return clock


@pytest.fixture
def web(shmstats: ModuleType, stats: Any) -> Any:
    """A client of the endpoints."""
    return importlib.import_module("shmstats.web").create_app().test_client()


# Buckets ----------------------------------------------------------------------------------------------


def test_the_bounds_are_the_documented_ones(stats: Any) -> None:
    stats.timing("db", "query", 1)
    (name,) = [name for name in stats.read().names if name.category == "db"]
    assert name.bounds[::8] == tuple(1000 * bound for bound in SHOWN)
    assert len(name.bounds) == 161
    assert name.bounds[5] / name.bounds[4] == pytest.approx(2 ** (1 / 8))


def test_a_value_equal_to_a_bound_is_in_the_bucket_below(
    stats: Any, declared: Callable[[str], str], buckets: Callable[..., dict[int, int]]
) -> None:
    for number, bound in enumerate(BOUNDS):
        metric = declared(f"at {bound}")
        for _ in range(3):  # the first call binds the handle; the later calls take the fast path
            stats.timing("db", metric, bound)
            stats.timing("db", metric, math.nextafter(bound, 0.0))
            stats.timing("db", metric, math.nextafter(bound, math.inf))
        if bound.is_integer():
            stats.timing("db", metric, int(bound))
        assert buckets("db", metric) == {number: 6 + bound.is_integer(), number + 1: 3}


EXTREMES = [
    (0, 0), (0.0, 0), (-0.0, 0), (5e-324, 0), (True, 3), (60_000, 18), (60_000.001, 19), (1e300, 19),
    (2**63 - 1, 19), (Decimal("2.5"), 4), (Fraction(1, 4), 1),
]  # fmt: skip


def test_extreme_durations_have_buckets(
    stats: Any, declared: Callable[[str], str], buckets: Callable[..., dict[int, int]]
) -> None:
    for value, bucket in EXTREMES:
        metric = declared(repr(value))
        stats.timing("db", metric, value)
        stats.timing("db", metric, value)
        assert buckets("db", metric) == {bucket: 2}, metric
        assert stats.get("db", metric).max == float(value)
        assert stats.get("db", metric).sum == 2 * float(value)


def test_the_sum_of_durations_stays_finite(stats: Any) -> None:
    largest = 1.7976931348623157e308
    for _ in range(3):
        stats.timing("db", "query", largest)
    assert stats.get("db", "query").sum == largest
    assert stats.get("db", "query").count == 3


def test_timings_of_several_processes_are_one_histogram(
    stats: Any, python: Any, buckets: Callable[..., dict[int, int]]
) -> None:
    stats.timing("db", "query", 3)
    python.run("from shmstats import stats\nfor _ in range(4): stats.timing('db', 'query', 70000)")
    assert buckets() == {45: 1, 161: 4}
    assert (stats.get("db", "query").sum, stats.get("db", "query").max) == (280003.0, 70000.0)


# Bad values -------------------------------------------------------------------------------------------


BAD_DURATIONS = [
    (-1, ValueError, "milliseconds must not be negative, not -1"),
    (-0.001, ValueError, "milliseconds must not be negative, not -0.001"),
    (math.nan, ValueError, "milliseconds must be finite, not nan"),
    (math.inf, ValueError, "milliseconds must be finite, not inf"),
    (2**63, OverflowError, "milliseconds must fit 64 bits"),
    ("1", TypeError, r"milliseconds must be a number, not str \('1'\)"),
    (None, TypeError, r"milliseconds must be a number, not NoneType \(None\)"),
    (timedelta(seconds=1), TypeError, "milliseconds must be a number, not timedelta"),
    (1j, TypeError, "milliseconds must be a number, not complex"),
]


def test_a_bad_duration_is_refused_by_name(stats: Any) -> None:
    for already in range(2):
        for bad, error, message in BAD_DURATIONS:
            with pytest.raises(error, match=message):
                stats.timing("db", "query", bad)
        stats.timing("db", "query", 1)
        assert stats.get("db", "query").count == already + 1


def test_a_timer_refuses_a_bad_name_when_it_is_created(stats: Any) -> None:
    with pytest.raises(ValueError, match="category must not be 'system'"):
        stats.timer("system", "query")
    with pytest.raises(TypeError, match="metric"):
        stats.timer("db", None)
    with pytest.raises(ValueError, match="category"):
        stats.timestamp("shmstats", "last")


def test_timing_a_name_of_another_kind_is_refused(stats: Any) -> None:
    stats.incr("c", "counter")
    stats.gauge("c", "gauge", 1)
    stats.timing("c", "timing", 1)
    stats.timestamp("c", "time")
    for metric, kind in (("counter", "counter"), ("gauge", "gauge"), ("time", "timestamp")):
        with pytest.raises(ValueError, match=f"metric '{metric}' of category 'c' is a {kind} and cannot be timed"):
            stats.timing("c", metric, 1)
    for metric, kind in (("counter", "counter"), ("gauge", "gauge"), ("timing", "histogram")):
        with pytest.raises(
            ValueError, match=f"metric '{metric}' of category 'c' is a {kind} and cannot be given a time"
        ):
            stats.timestamp("c", metric)
    with pytest.raises(ValueError, match="metric 'timing' of category 'c' is a histogram and cannot be counted"):
        stats.incr("c", "timing")
    with pytest.raises(ValueError, match="metric 'timing' of category 'c' is a histogram and cannot be set"):
        stats.gauge("c", "timing", 1)
    assert (stats.get("c", "counter"), stats.get("c", "gauge"), stats.get("c", "timing").count) == (1, 1, 1)


# Figures and exposition -------------------------------------------------------------------------------


def test_stats_shows_the_figures_of_a_timing(stats: Any, web: Any) -> None:
    for milliseconds in [4.0] * 90 + [80.0] * 9 + [300.0]:
        stats.timing("db", "query", milliseconds)
    figures = web.get("/stats").get_json()["simple"]["db"]["query"]
    assert sorted(figures) == sorted(["count", "sum", "mean", "p50", "p90", "p99", "max", "error"])
    assert (figures["count"], figures["sum"], figures["mean"], figures["max"]) == (100, 1380.0, 13.8, 300.0)
    assert figures["error"] <= 0.05
    assert figures["p50"] == pytest.approx(4.0, rel=figures["error"])
    assert figures["p90"] == pytest.approx(4.0, rel=figures["error"])
    assert figures["p99"] == pytest.approx(80.0, rel=figures["error"])


def test_percentiles_above_all_bounds_end_at_the_maximum(stats: Any, web: Any) -> None:
    stats.timing("db", "query", 90_000)
    figures = web.get("/stats").get_json()["simple"]["db"]["query"]
    assert figures["max"] == 90_000
    assert 60_000 <= figures["p50"] <= figures["p99"] <= 90_000


def test_a_timing_that_was_reset_has_no_figures(stats: Any, web: Any) -> None:
    stats.timing("db", "query", 3)
    assert stats.reset("db", "query") == 1
    assert web.get("/stats").get_json()["simple"]["db"]["query"] == {
        "count": 0, "sum": 0, "mean": None, "p50": None, "p90": None, "p99": None, "max": None, "error": 0.0433,
    }  # fmt: skip


def test_a_timing_is_a_histogram_of_seconds_in_prometheus(stats: Any, web: Any) -> None:
    for milliseconds in (0, 5, 8.5, 64_000, 64_001):
        stats.timing("db", "query", milliseconds)
    text = web.get("/stats/prometheus").get_data(as_text=True)
    assert text.count("query_seconds_") == web.get("/stats?format=prometheus").get_data(as_text=True).count(
        "query_seconds_"
    )
    assert "# TYPE query_seconds histogram\n" in text
    samples = {
        float(bound): int(count)
        for bound, count in re.findall(r'^query_seconds_bucket\{category="db",le="([^"]+)"\} (\d+)$', text, re.M)
    }
    assert tuple(samples) == (*SHOWN, math.inf)
    assert list(samples.values()) == sorted(samples.values())
    assert (samples[2**-14], samples[2**-8], samples[2**-7], samples[2**-6]) == (1, 1, 2, 3)
    assert (samples[32.0], samples[64.0], samples[math.inf]) == (3, 4, 5)
    (total,) = re.findall(r'^query_seconds_sum\{category="db"\} (\S+)$', text, re.M)
    assert float(total) == pytest.approx(128.0145)
    assert 'query_seconds_count{category="db"} 5\n' in text


# Timers -----------------------------------------------------------------------------------------------


def test_a_timer_reports_the_milliseconds_that_a_block_took(stats: Any, clock: Clock) -> None:
    with stats.timer("db", "query"):
        clock.advance(12.5)
    assert (stats.get("db", "query").sum, stats.get("db", "query").count) == (12.5, 1)


def test_a_timer_reports_a_block_that_raises_and_lets_the_error_through(stats: Any, clock: Clock) -> None:
    def fail(error: BaseException) -> None:
        with stats.timer("db", "query"):
            clock.advance(2)
            raise error

    for error in (KeyError("k"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()):
        with pytest.raises(type(error)):
            fail(error)
    assert (stats.get("db", "query").sum, stats.get("db", "query").count) == (8.0, 4)


def test_a_timer_can_be_used_again_and_inside_itself(stats: Any, clock: Clock) -> None:
    timer = stats.timer("db", "query")
    with timer:
        clock.advance(1)
        with timer:
            clock.advance(10)
            with timer:
                clock.advance(100)
    assert (stats.get("db", "query").sum, stats.get("db", "query").max) == (100 + 110 + 111, 111)
    with timer:
        clock.advance(1000)
    assert (stats.get("db", "query").count, stats.get("db", "query").max) == (4, 1000)


def test_a_timer_decorates_functions_and_methods(stats: Any, clock: Clock) -> None:
    class Shop:
        @stats.timer("shop", "sell")
        def sell(self, what: str, *, price: int = 3) -> tuple[str, int]:
            """Sells."""
            clock.advance(price)
            if price > 100:
                raise ValueError("too dear")
            return what, price

    shop = Shop()
    assert shop.sell("apple") == ("apple", 3)
    assert shop.sell("pear", price=7) == ("pear", 7)
    with pytest.raises(ValueError, match="too dear"):
        shop.sell("gold", price=500)
    assert (Shop.sell.__name__, Shop.sell.__doc__) == ("sell", "Sells.")
    assert list(inspect.signature(shop.sell).parameters) == ["what", "price"]
    assert (stats.get("shop", "sell").sum, stats.get("shop", "sell").count) == (510, 3)


def test_a_recursive_function_reports_every_call(stats: Any, clock: Clock) -> None:
    @stats.timer("math", "down")
    def down(n: int) -> None:
        clock.advance(1)
        if n:
            down(n - 1)

    down(3)
    assert (stats.get("math", "down").sum, stats.get("math", "down").count) == (4 + 3 + 2 + 1, 4)


def test_a_decorated_coroutine_function_is_timed_until_it_ends(stats: Any, clock: Clock) -> None:
    @stats.timer("web", "fetch")
    async def fetch(milliseconds: int) -> int:
        """Fetches."""
        for _ in range(milliseconds):
            await asyncio.sleep(0)
            clock.advance(1)
        if milliseconds == 5:
            raise OSError("gone")
        return milliseconds

    assert inspect.iscoroutinefunction(fetch)
    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Fetches.")
    assert asyncio.run(fetch(40)) == 40
    assert (stats.get("web", "fetch").sum, stats.get("web", "fetch").count) == (40, 1)
    with pytest.raises(OSError, match="gone"):
        asyncio.run(fetch(5))
    assert (stats.get("web", "fetch").sum, stats.get("web", "fetch").count) == (45, 2)


def test_concurrent_tasks_have_separate_timings(stats: Any, clock: Clock) -> None:
    timer = stats.timer("web", "wait")

    async def first(started: asyncio.Event, go_on: asyncio.Event) -> None:
        with timer:
            started.set()
            await go_on.wait()

    async def second(started: asyncio.Event, go_on: asyncio.Event) -> None:
        await started.wait()
        clock.advance(100)
        with timer:
            go_on.set()
            await task
            clock.advance(7)

    async def both() -> None:
        nonlocal task
        started, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(first(started, go_on))
        await second(started, go_on)

    task: Any = None
    asyncio.run(both())
    assert (stats.get("web", "wait").sum, stats.get("web", "wait").max) == (107, 100)


class Blocks:
    """Timed blocks on the real clock: the reported time with a shorter and a longer measured time, in ms."""

    def __init__(self, shmstats: ModuleType) -> None:
        self.timer = importlib.import_module("shmstats.timer").Timer(self._take)
        self.reported: list[float] = []
        self.began: dict[str, float] = {}

    def _take(self, milliseconds: float) -> None:
        self.reported.append(milliseconds)

    def begin(self, name: str) -> None:
        self.began[name] = time.monotonic()
        self.timer.__enter__()
        self.began[f"in {name}"] = time.monotonic()
        time.sleep(0.003)

    def end(self, name: str) -> None:
        inside = time.monotonic() - self.began[f"in {name}"]
        self.timer.__exit__(None, None, None)
        around = time.monotonic() - self.began[name]
        assert inside * 1e3 <= self.reported[-1] <= around * 1e3, name


def test_nested_blocks_are_timed_separately(shmstats: ModuleType) -> None:
    blocks = Blocks(shmstats)
    for _ in range(2):
        for name in ("outer", "inner", "innermost"):
            blocks.begin(name)
        for name in ("innermost", "inner", "outer"):
            blocks.end(name)
    assert len(blocks.reported) == 6


@pytest.mark.parametrize("order", [("one", "other"), ("other", "one")])
def test_blocks_of_several_threads_are_timed_separately(shmstats: ModuleType, order: tuple[str, str]) -> None:
    blocks = Blocks(shmstats)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        threads = {"one": one, "other": other}
        for name in ("one", "other"):
            threads[name].submit(blocks.begin, name).result(60)
        for name in order:
            threads[name].submit(blocks.end, name).result(60)


@pytest.mark.parametrize("order", [("one", "other"), ("other", "one")])
def test_blocks_of_several_tasks_are_timed_separately(shmstats: ModuleType, order: tuple[str, str]) -> None:
    blocks = Blocks(shmstats)
    contexts = {name: contextvars.Context() for name in order}
    for name in ("one", "other"):
        contexts[name].run(blocks.begin, name)
    for name in order:
        contexts[name].run(blocks.end, name)


def test_leaving_a_timer_that_was_not_entered_raises(stats: Any) -> None:
    with pytest.raises(RuntimeError, match="was not entered"):
        stats.timer("db", "query").__exit__(None, None, None)


def test_a_cancelled_task_is_reported(stats: Any) -> None:
    async def cancelled() -> None:
        async def forever() -> None:
            with stats.timer("web", "wait"):
                started.set()
                await asyncio.Event().wait()

        started = asyncio.Event()
        task = asyncio.create_task(forever())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert stats.get("web", "wait").count == 1


def test_a_timer_can_be_shared_by_threads(stats: Any) -> None:
    timer = stats.timer("db", "query")
    barrier = threading.Barrier(4)

    @timer
    def decorated() -> None:
        pass

    def work() -> None:
        barrier.wait()
        for _ in range(200):
            with timer:
                decorated()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result()
    value = stats.get("db", "query")
    assert value.count == 4 * 200 * 2
    assert 0 <= value.max <= value.sum


def test_a_block_may_be_left_in_another_context_than_it_was_entered(stats: Any) -> None:
    """A server may run each step of a generator in another thread and context."""

    def stream() -> Iterator[int]:
        with stats.timer("web", "stream"):
            yield 1
            yield 2

    assert list(contextvars.copy_context().run(lambda: iter(stream()))) == [1, 2]
    pieces = stream()
    assert contextvars.copy_context().run(next, pieces) == 1
    assert contextvars.copy_context().run(next, pieces) == 2
    with pytest.raises(StopIteration):
        contextvars.copy_context().run(next, pieces)
    assert stats.get("web", "stream").count == 2


def test_nested_blocks_of_a_timer_may_be_left_in_another_context(stats: Any) -> None:
    timer = stats.timer("web", "stream")

    def stream() -> Iterator[int]:
        with timer:
            yield 1

    with timer:
        pieces = stream()
        assert contextvars.copy_context().run(next, pieces) == 1
        assert contextvars.copy_context().run(list, pieces) == []
    with timer:
        pass
    assert stats.get("web", "stream").count == 3


def test_finished_timers_leave_nothing_in_the_context(stats: Any) -> None:
    with stats.timer("db", "query"):
        before = len(contextvars.copy_context())
        for _ in range(100):
            with stats.timer("db", "query"):
                pass
        assert len(contextvars.copy_context()) == before
    assert stats.get("db", "query").count == 101


def test_nested_timers_are_timed_separately(stats: Any, clock: Clock) -> None:
    outer, inner = stats.timer("outer", "took"), stats.timer("inner", "took")
    with outer:
        clock.advance(1)
        with inner, outer:
            clock.advance(10)
        clock.advance(100)
    assert stats.get("inner", "took").sum == 10
    assert (stats.get("outer", "took").sum, stats.get("outer", "took").max) == (121, 111)


def test_a_timer_made_before_the_configuration_uses_the_later_one(
    shmstats: ModuleType, stats: Any, tmp_path: Any
) -> None:
    timer = stats.timer("db", "query")
    shmstats.init({"path": {"data": str(tmp_path / "other")}, "stats": {"capacity": 256, "max_workers": 2}})
    with timer:
        pass
    assert stats.get("db", "query").count == 1
    shmstats.close()


# Timestamps -------------------------------------------------------------------------------------------


def test_a_timestamp_is_an_exact_moment_in_utc(stats: Any) -> None:
    moment = datetime(2024, 2, 29, 12, 30, 15, 123456, timezone(timedelta(hours=5, minutes=30)))
    stats.timestamp("backup", "last", moment)
    found = stats.get_timestamp("backup", "last")
    assert found == moment
    assert found.utcoffset() == timedelta(0)
    for extreme in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)):
        stats.timestamp("backup", "last", extreme)
        assert stats.get_timestamp("backup", "last") == extreme


def test_the_beginning_of_unix_time_is_a_valid_timestamp(stats: Any) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC)
    stats.timestamp("backup", "last", moment)
    assert stats.get_timestamp("backup", "last") == moment


def test_a_timestamp_without_an_argument_is_now(stats: Any) -> None:
    before = datetime.now(UTC)
    stats.timestamp("backup", "last")
    assert before <= stats.get_timestamp("backup", "last") <= datetime.now(UTC)


def test_the_last_timestamp_of_any_process_wins(stats: Any, python: Any) -> None:
    stats.timestamp("backup", "last", datetime(2024, 1, 1, tzinfo=UTC))
    python.run(
        """
        from datetime import *
        from shmstats import stats
        stats.timestamp('backup', 'last', datetime(2023, 1, 1, tzinfo=UTC))
        """
    )
    assert stats.get_timestamp("backup", "last") == datetime(2023, 1, 1, tzinfo=UTC)


def test_a_timer_decorates_only_callables(stats: Any) -> None:
    with pytest.raises(TypeError, match=r"function must be callable, not int \(5\)"):
        stats.timer("t", "x")(5)


BAD_MOMENTS = [
    (datetime(2024, 1, 1), ValueError, "moment must have a time zone .*not datetime"),
    (1700000000, TypeError, r"moment must be a datetime, not int \(1700000000\)"),
    ("2024-01-01", TypeError, "moment must be a datetime, not str"),
    (datetime(2024, 1, 1, tzinfo=UTC).date(), TypeError, "moment must be a datetime, not date"),
]


def test_a_bad_moment_is_refused_by_name(stats: Any) -> None:
    for bad, error, message in BAD_MOMENTS:
        with pytest.raises(error, match=message):
            stats.timestamp("backup", "last", bad)
    assert stats.get_timestamp("backup", "last") is None


def test_a_name_of_another_kind_has_no_timestamp(stats: Any) -> None:
    assert stats.get_timestamp("backup", "never") is None
    stats.incr("c", "counter", 1_700_000_000)
    stats.gauge("c", "gauge", 1_700_000_000)
    stats.gauge("c", "float", 1.7e9)
    stats.timing("c", "timing", 3)
    for metric in ("counter", "gauge", "float", "timing"):
        assert stats.get_timestamp("c", metric) is None, metric


@pytest.mark.parametrize("moment", [2**62, -(2**62), 2**63 - 1])
def test_a_damaged_timestamp_beyond_the_calendar_stops_no_reader(stats: Any, moment: int) -> None:
    stats.timestamp("c", "t")
    block = stats.shared.attach()
    record = block.names.find(b"c\0t")
    assert block.cells.set_gauge(block.row_for(record), record.cell, moment, block.cells.generation)
    assert stats.get_timestamp("c", "t") is None
    assert stats.snapshot()["c"] == {"t": moment}
    stats.incr("c", "m")
    assert stats.get("c", "m") == 1


def test_a_restart_drops_timestamps_and_keeps_the_rest(shmstats: ModuleType, stats: Any) -> None:
    stats.timestamp("backup", "last")
    stats.timing("backup", "took", 3.5)
    stats.incr("backup", "done")
    before = stats.get("backup", "took")
    shmstats.close()
    assert stats.get_timestamp("backup", "last") is None
    assert stats.snapshot() == {"backup": {"took": before, "done": 1}}


def test_a_timestamp_is_shown_as_a_date_and_exported_in_seconds(stats: Any, web: Any) -> None:
    stats.timestamp("backup", "last", datetime(2024, 2, 29, 12, 0, 0, 500000, UTC))
    assert web.get("/stats").get_json()["simple"]["backup"] == {"last": "2024-02-29T12:00:00.500000+00:00"}
    text = web.get("/stats/prometheus").get_data(as_text=True)
    (value,) = re.findall(r'^last_timestamp_seconds\{category="backup"\} (\S+)$', text, re.M)
    assert float(value) == 1709208000.5
