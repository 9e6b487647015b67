"""Health as series: what scrapers see of it."""

from __future__ import annotations

from typing import Any

from shmstats.attachment.health_series import HealthSeries
from shmstats.series import Kind, Name, Snapshot

GOOD: dict[str, Any] = {
    "saved_seconds_ago": 1.5, "save_error": None, "saver": 17, "agents": 2, "agents_missing": 0,
    "pushed_seconds_ago": None, "push_error": None, "operations_dropped": 0, "pool": 0.25, "core": "C", "version": "1",
}  # fmt: skip
COUNTED = Snapshot([Name("api", "requests", Kind.COUNTER, (), True)], [3])


def shown(snapshot: Snapshot) -> dict[str, Any]:
    return {
        f"{name.category}.{name.metric}": value for name, value in zip(snapshot.names, snapshot.values, strict=True)
    }


def test_health_comes_after_what_is_counted_without_what_never_happened() -> None:
    assert shown(HealthSeries().added(COUNTED, GOOD)) == {
        "api.requests": 3,
        "shmstats.saved_seconds_ago": 1.5,
        "shmstats.save_error": 0.0,
        "shmstats.saver": 1.0,
        "shmstats.agents": 2,
        "shmstats.agents_missing": 0,
        "shmstats.push_error": 0.0,
        "shmstats.pool": 0.25,
    }


def test_an_error_is_one_whatever_it_says() -> None:
    bad = GOOD | {"save_error": "disk full", "push_error": "answered 401", "saver": None, "pushed_seconds_ago": 9.0}
    found = shown(HealthSeries().added(COUNTED, bad))
    assert (found["shmstats.save_error"], found["shmstats.push_error"], found["shmstats.saver"]) == (1.0, 1.0, 0.0)
    assert found["shmstats.pushed_seconds_ago"] == 9.0


def test_the_same_names_again_are_the_same_object() -> None:
    series = HealthSeries()
    first = series.added(COUNTED, GOOD).names
    assert series.added(Snapshot(COUNTED.names, [4]), GOOD).names is first
    assert series.added(Snapshot(list(COUNTED.names), [4]), GOOD).names is not first
