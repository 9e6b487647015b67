"""The recorded history of an application, and its queries: rates, percentiles, gaps, events."""

import bisect
import csv
import io
import math
import struct
import warnings
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shmstats.bounds import exponential
from shmstats.history.documents import to_csv, to_json
from shmstats.history.past import Past, Query, QueryError, read_past, read_recent
from shmstats.history.recorder import HistoryRecorder
from shmstats.history.ring import SECONDS, make_ring, ring_file
from shmstats.series import Distribution, Kind, Name, Snapshot

#: A moment at the beginning of a minute.
NOW = 1_700_000_040


@dataclass(frozen=True)
class Process:
    """A row of the table of workers."""

    pid: int
    claim: int = 1


@dataclass
class Table:
    """A table of workers."""

    alive: list[Process] = field(default_factory=list)
    dead: list[Process] = field(default_factory=list)

    def live(self) -> list[Process]:
        return list(self.alive)

    def __iter__(self) -> Iterator[Process]:
        return iter(self.alive + self.dead)


@dataclass
class Site:
    """An application; the test passes its values to a recorder for each second."""

    recorder: HistoryRecorder
    workers: Table = field(default_factory=Table)
    uptime: float = 1.0

    def served(self, workers: Sequence[Process]) -> list[Any]:
        return []

    def at(self, second: float, names: Sequence[Name], *values: Any) -> None:
        self.recorder.record(self, Snapshot(names, values), round(second * 10**9))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site with a new data directory."""
    site = Site(HistoryRecorder(tmp_path))
    yield site
    site.recorder.close()


def past(tmp_path: Path, since: int, until: int, step: int = 1, *series: str) -> Past:
    return read_past(tmp_path, Query(since, until, step, series))


def values(found: Past, series: str, figure: str) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 3) for value in found.series[series][figure].tolist()]


COUNTER = Name("app", "logins", Kind.COUNTER, monotonic=True)
GAUGE = Name("app", "queue", Kind.GAUGE)
TIMES = Name("app", "work", Kind.HISTOGRAM, bounds=(10.0, 20.0, 40.0))


def test_a_counter_is_read_as_its_rate_and_a_gauge_as_its_value(site: Site, tmp_path: Path) -> None:
    names = [COUNTER, GAUGE]
    for second, count, queue in ((0, 100, 1), (1, 103, 2.5), (2, 103, 0), (3, 113, -4)):
        site.at(NOW + second, names, count, queue)
    found = past(tmp_path, NOW, NOW + 4)
    assert values(found, "app.logins", "rate") == [None, 3, 0, 10, None]
    assert values(found, "app.queue", "value") == [None, 2.5, 0, -4, None]


def test_a_late_row_covers_the_seconds_before_it(site: Site, tmp_path: Path) -> None:
    for second, count in ((0, 0), (1, 10), (4, 40)):
        site.at(NOW + second, [COUNTER], count)
    found = past(tmp_path, NOW, NOW + 4)
    assert values(found, "app.logins", "rate") == [None, 10, None, None, 10]


def test_a_reset_counter_continues_from_0(site: Site, tmp_path: Path) -> None:
    for second, count in ((0, 100), (1, 110), (2, 4), (3, 5)):
        site.at(NOW + second, [COUNTER], count)
    assert values(past(tmp_path, NOW + 1, NOW + 3), "app.logins", "rate") == [10, 4, 1]


def test_a_new_series_is_recorded_from_its_first_count(site: Site, tmp_path: Path) -> None:
    site.at(NOW, [COUNTER], 5)
    other = Name("app", "new", Kind.COUNTER, (("a", 'x"y'),), monotonic=True)
    site.at(NOW + 1, [COUNTER, other], 5, 7)
    assert values(past(tmp_path, NOW, NOW + 1), 'app.new{a="x\\"y"}', "rate") == [None, 7]


def test_a_percentile_is_of_the_window_only(site: Site, tmp_path: Path) -> None:
    site.at(NOW, [TIMES], Distribution(1e6, 39.0, (0, 0, 1000, 0)))
    site.at(NOW + 1, [TIMES], Distribution(1e6 + 500, 39.0, (100, 0, 1000, 0)))
    site.at(NOW + 2, [TIMES], Distribution(1e6 + 500, 39.0, (100, 0, 1000, 0)))
    found = past(tmp_path, NOW + 1, NOW + 2)
    assert values(found, "app.work", "p50") == [5.0, None]
    assert values(found, "app.work", "p99") == [9.9, None]
    assert values(found, "app.work", "rate") == [100, 0]
    assert values(found, "app.work", "mean") == [5.0, None]


def test_percentiles_of_a_longer_step_are_of_all_its_observations(site: Site, tmp_path: Path) -> None:
    for second in range(11):
        site.at(NOW + second, [TIMES], Distribution(0.0, 39.0, (9 * second, 0, second, 0)))
    found = past(tmp_path, NOW, NOW + 9, 10)
    assert values(found, "app.work", "p90") == [10.0]
    assert values(found, "app.work", "p99") == [38.0]


def test_minutes_are_made_of_seconds_by_the_current_recorder(site: Site, tmp_path: Path) -> None:
    for second in range(130):
        if second == 70:  # another process takes over without any state of the first
            site.recorder.close()
            site.recorder = HistoryRecorder(tmp_path)
        site.at(NOW + second, [COUNTER, GAUGE], 5 * second, second)
    found = past(tmp_path, NOW, NOW + 180, 60)
    assert values(found, "app.logins", "rate") == [5, 5, 5, None]
    assert values(found, "app.queue", "value") == [30, 89.831, 124.5, None]


def test_a_pause_of_the_recorder_is_a_gap_and_not_a_peak(site: Site, tmp_path: Path) -> None:
    for second, count in ((0, 0), (1, 1), (100, 1000), (101, 1002)):
        site.at(NOW + second, [COUNTER], count)
    found = past(tmp_path, NOW, NOW + 110)
    assert [value for value in values(found, "app.logins", "rate") if value is not None] == [1, 2]


def test_a_clock_that_was_in_the_future_for_once_does_not_hide_the_history_afterwards(
    site: Site, tmp_path: Path
) -> None:
    names = [COUNTER]  # the same list, as in a process whose names do not change
    for second, count in ((10**7, 0), (10**7 + 1, 1), (0, 3), (1, 5), (2, 9)):
        site.at(NOW + second, names, count)
    assert values(past(tmp_path, NOW, NOW + 3), "app.logins", "rate") == [None, 2, 4, None]


def test_the_overview_sums_all_requests_by_class_with_their_times(site: Site, tmp_path: Path) -> None:
    def labels(route: str, status: str) -> tuple[tuple[str, str], ...]:
        return (("method", "GET"), ("route", route), ("status", status))

    names = [
        Name("http", "http_requests", Kind.COUNTER, labels("/a", "200"), True),
        Name("http", "http_requests", Kind.COUNTER, labels("/b", "204"), True),
        Name("http", "http_requests", Kind.COUNTER, labels("/b", "503"), True),
        Name("http", "http_request_duration", Kind.HISTOGRAM, (("route", "/a"),), False, (10.0,)),
        Name("http", "http_request_duration", Kind.HISTOGRAM, (("route", "/b"),), False, (10.0,)),
    ]
    nothing = Distribution(0.0, 0.0, (0, 0))
    site.at(NOW, names, 0, 0, 0, nothing, nothing)
    site.at(NOW + 1, names, 3, 4, 2, Distribution(15.0, 5.0, (3, 0)), Distribution(600.0, 100.0, (0, 6)))
    found = past(tmp_path, NOW + 1, NOW + 1)
    assert values(found, 'shmstats.responses{class="2xx"}', "rate") == [7]
    assert values(found, 'shmstats.responses{class="5xx"}', "rate") == [2]
    assert values(found, "shmstats.response_time", "rate") == [9]


def test_beyond_512_series_those_chosen_and_those_of_requests_are_kept(tmp_path: Path) -> None:
    site = Site(HistoryRecorder(tmp_path, ["last.*"]))
    names = [Name("app", f"c{number}", Kind.COUNTER, monotonic=True) for number in range(600)]
    names += [Name("requests", "total", Kind.COUNTER, monotonic=True), Name("last", "one", Kind.COUNTER, (), True)]
    site.at(NOW, names, *range(602))
    site.recorder.close()
    found = past(tmp_path, NOW, NOW)
    assert len(found.series) == 512
    assert {"requests.total", "last.one", "app.c0", "system.workers"} <= set(found.series)
    assert "app.c599" not in found.series


def test_a_histogram_of_many_buckets_is_recorded_with_fewer(site: Site, tmp_path: Path) -> None:
    bounds = tuple(1.1**number for number in range(159))
    name = Name("app", "fine", Kind.HISTOGRAM, bounds=bounds)
    site.at(NOW, [name], Distribution(0.0, 0.0, (0,) * 160))
    site.at(NOW + 1, [name], Distribution(100.0, 1.1**80, tuple(10 if number == 80 else 0 for number in range(160))))
    (median,) = values(past(tmp_path, NOW + 1, NOW + 1), "app.fine", "p50")
    assert median is not None
    assert 1.1**76 <= median <= 1.1**84


def test_percentiles_of_a_window_are_within_the_error_of_exponential_bounds(tmp_path: Path) -> None:
    bounds = exponential(3, -14, 20, 1000)

    def at(value: float, n: int) -> tuple[int, ...]:
        return tuple(n if i == bisect.bisect_left(bounds, value) else 0 for i in range(162))

    site = Site(HistoryRecorder(tmp_path))
    names = [
        Name("http", "http_requests", Kind.COUNTER, (("status", "200"),), True),
        Name("http", "http_request_duration", Kind.HISTOGRAM, bounds=bounds),
    ]
    site.at(NOW, names, 5, Distribution(9e6, 9e6, at(9e6, 5)))  # values before the window
    both = tuple(map(sum, zip(at(9e6, 5), at(209.6, 1), strict=True)))
    site.at(NOW + 1, names, 6, Distribution(9e6 + 209.6, 9e6, both))
    site.recorder.close()
    found = past(tmp_path, NOW + 1, NOW + 1)
    for figure in ("p50", "p90", "p99"):
        assert values(found, "shmstats.response_time", figure) == [pytest.approx(209.6, rel=bounds.error)]
        assert values(found, "http.http_request_duration", figure) == [pytest.approx(209.6, rel=0.18)]  # 41 buckets


def test_a_reused_column_does_not_show_the_history_of_a_removed_series(site: Site, tmp_path: Path) -> None:
    old = [Name("app", f"old{number}", Kind.COUNTER, monotonic=True) for number in range(512)]
    site.at(NOW, old, *range(512))
    site.at(NOW + 1, old, *range(1000, 1512))
    new = [Name("app", f"new{number}", Kind.COUNTER, monotonic=True) for number in range(400)]
    site.at(NOW + 2, new, *[1] * 400)
    found = past(tmp_path, NOW, NOW + 2)
    assert values(found, "app.new399", "rate") == [None, None, 1]


@pytest.mark.parametrize(
    ("reason", "kind", "text"),
    [
        ("exit", "exit", "worker 11 ended"),
        ("signal", "kill", "worker 11 was killed by a signal"),
        ("timeout", "timeout", "worker 11 was aborted after its timeout"),
    ],
)
def test_the_counters_of_gunicorn_show_how_a_worker_ended(
    site: Site, tmp_path: Path, reason: str, kind: str, text: str
) -> None:
    names = [
        Name("gunicorn", "gunicorn_worker_exits", Kind.COUNTER, (("reason", each),), True)
        for each in ("exit", "signal", "timeout")
    ]
    names.append(Name("gunicorn", "gunicorn_reloads", Kind.COUNTER, (), True))
    counts = [int(reason == "exit"), int(reason == "signal"), int(reason == "timeout")]
    site.workers.alive = [Process(10), Process(11)]
    site.at(NOW, names, 0, 0, 0, 0)
    site.workers.alive = [Process(10)]
    site.at(NOW + 1, names, *counts, 0)
    site.at(NOW + 2, names, *counts, 1)
    events = past(tmp_path, NOW - 5, NOW + 5).events
    assert [(event.kind, event.text) for event in events][1:] == [
        (kind, text),
        ("reload", "the workers are being replaced"),
    ]
    assert events[0].kind == "start"


def test_without_gunicorn_the_table_of_workers_distinguishes_a_kill_from_an_exit(site: Site, tmp_path: Path) -> None:
    site.workers.alive = [Process(10), Process(11), Process(12)]
    site.at(NOW, [COUNTER], 0)
    site.workers.alive, site.workers.dead = [Process(10)], [Process(12)]
    site.at(NOW + 1, [COUNTER], 0)
    site.at(NOW + 2, [COUNTER], 0)
    events = past(tmp_path, NOW, NOW + 5).events
    assert [(event.kind, event.text) for event in events] == [
        ("exit", "process 11 ended"),
        ("kill", "process 12 was killed"),
    ]


def test_recent_figures_are_of_15_minutes_with_their_error(site: Site, tmp_path: Path) -> None:
    fine = Name("app", "fine", Kind.HISTOGRAM, bounds=exponential(3, -14, 20, 1000))
    counts = [0] * 162
    for second in range(-1200, 95, 5):
        counts[bisect.bisect_left(fine.bounds, 209.6 if second > -300 else 5.0)] += 1
        site.at(
            NOW + second, [COUNTER, TIMES, fine], 0, distribution(0, 0, 0, 0), Distribution(1.0, 9.0, tuple(counts))
        )
    recent = read_recent(tmp_path, NOW + 90)
    assert list(recent) == [("app", "fine", ())]  # the other histogram has no observations
    figures = recent["app", "fine", ()]
    assert 900 <= figures["seconds"] <= 960
    assert figures["count"] == figures["seconds"] / 5
    assert figures["p50"] == pytest.approx(5, rel=figures["error"])
    assert figures["p90"] == pytest.approx(209.6, rel=figures["error"])
    assert figures["error"] < 0.18


@pytest.mark.parametrize("bounds", [(5.0, 10.0, 30.0), (1.0, 2.0, 5.0, 30.0, 40.0, 90.0)])
def test_a_window_excludes_observations_moved_into_other_buckets(
    site: Site, tmp_path: Path, bounds: tuple[float, ...]
) -> None:
    before, more = distribution(0, 700, 9, 0), distribution(*range(1, len(bounds) + 2))
    carried = Distribution(before.sum, before.max, (0, 0, 700, 9, *(0,) * (len(bounds) - 3)))
    after = Distribution(carried.sum + more.sum, 50.0, tuple(map(sum, zip(carried.buckets, more.buckets, strict=True))))
    new = TIMES._replace(bounds=bounds, carried=True)
    for second in (0, 1):
        site.at(NOW + second, [COUNTER, TIMES], 0, before)
    site.at(NOW + 2, [COUNTER, new], 0, carried)
    site.at(NOW + 3, [COUNTER, new], 0, after)
    assert read_recent(tmp_path, NOW + 4)["app", "work", ()]["count"] == more.count


def test_a_series_registered_within_a_minute_is_in_the_row_of_that_minute(site: Site, tmp_path: Path) -> None:
    site.at(NOW + 50, [COUNTER], 0)
    site.at(NOW + 52, [COUNTER, TIMES], 0, distribution(0, 0, 0, 0))
    site.at(NOW + 55, [COUNTER, TIMES], 0, distribution(1, 2, 0, 0))
    site.at(NOW + 61, [COUNTER, TIMES], 0, distribution(1, 2, 0, 1))
    assert read_recent(tmp_path, NOW + 62)["app", "work", ()]["count"] == 4


def distribution(*buckets: int) -> Distribution:
    return Distribution(sum(buckets), 50.0, buckets)


def test_a_restart_of_the_application_is_an_event_and_a_new_recorder_is_not(site: Site, tmp_path: Path) -> None:
    site.at(NOW, [COUNTER], 0)
    site.recorder.close()
    site.recorder, site.uptime = HistoryRecorder(tmp_path), 6.0
    site.at(NOW + 5, [COUNTER], 0)
    site.recorder.close()
    site.recorder, site.uptime = HistoryRecorder(tmp_path), 1.0
    site.at(NOW + 60, [COUNTER], 0)
    assert [event.kind for event in past(tmp_path, NOW - 10, NOW + 100).events] == ["start", "restart"]


def test_gaps_are_null_in_json_and_empty_in_csv(site: Site, tmp_path: Path) -> None:
    site.at(NOW, [COUNTER, TIMES], 0, Distribution(0.0, 0.0, (0,) * 4))
    site.at(NOW + 1, [COUNTER, TIMES], 3, Distribution(5.0, 5.0, (1, 0, 0, 0)))
    found = past(tmp_path, NOW, NOW + 1, 1, "app.*")
    document = to_json(found)
    assert document["times"] == [NOW, NOW + 1]
    assert document["series"]["app.logins"] == {"kind": "counter", "unit": "", "rate": [None, 3]}
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert rows[0] == {"time": "2023-11-14T22:14:00Z"} | dict.fromkeys(
        ["app.logins", *(f"app.work {figure}" for figure in ("rate", "mean", "p50", "p90", "p99"))], ""
    )
    assert rows[1]["app.logins"] == "3"
    assert rows[1]["app.work p50"] == "5"


@pytest.mark.parametrize(("pattern", "span"), [(0x7F800001, 1), (0x7F800000, 1), (0xFF800000, 1), (0x3F800000, 0)])
def test_a_damaged_row_without_numbers_or_without_time_is_a_gap(
    site: Site, tmp_path: Path, pattern: int, span: int
) -> None:
    """A signalling NaN, infinities, and a row of 0 s: nothing is raised, and numpy warns of nothing."""
    site.at(NOW, [COUNTER, TIMES], 0, distribution(1, 2, 0, 1))
    ring, row = make_ring(ring_file(tmp_path)), array("f", struct.pack("<20I", *[pattern] * 20))
    for number in range(NOW - 1, NOW + 3):
        ring.write_row(SECONDS, number, span, row)
    ring.close()
    with warnings.catch_warnings(action="error"):
        found = past(tmp_path, NOW, NOW + 2)
        assert read_recent(tmp_path, NOW + 2) == {}
    shown = to_json(found)["series"]["app.logins"]["rate"]
    assert shown == [None, None, None]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((100.0, 50.0, None), "must be before until"),
        ((-60.0, None, 0), "step must be an integer from 1 to 86400"),
        ((-80_000.0, None, 10**6), "step must be"),
        ((float("nan"), None, None), "nan is no time"),
        ((float("inf"), None, None), "inf is no time"),
    ],
)
def test_an_invalid_query_is_refused_with_the_reason(
    given: tuple[float | None, float | None, int | None], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        Query.made(*given)


def test_a_query_of_a_day_has_steps_of_minutes() -> None:
    query = Query.made(-86_400.0, None, 7)
    assert query.step % 60 == 0
    assert (query.until - query.since) / query.step < 2000
