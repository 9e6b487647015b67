"""The names that a reader keeps: only new ones are decoded, and all equal those of a new reader."""

from __future__ import annotations

import random
from typing import Any

import pytest


def test_after_a_change_only_new_names_are_decoded(stats: Any, shmstats: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1000):
        stats.incr("a", f"name {number}")
    assert len(list(stats.read().names)) > 1000
    decoded: list[int] = []
    catalog = shmstats.reading.catalog
    real = catalog._names_of

    def names_of(records: Any, numbers: Any, *more: Any) -> Any:
        decoded.extend(numbers)
        return real(records, numbers, *more)

    monkeypatch.setattr(catalog, "_names_of", names_of)
    stats.remove("a", "name 500")
    assert "name 500" not in [name.metric for name in stats.read().names]
    stats.incr("b", "new")
    stats.read()  # a read without names keeps the decoded names
    stats.decr("a", "name 7")
    (changed,) = [name for name in stats.read().names if name.metric == "name 7"]
    assert not changed.monotonic
    assert len(decoded) < 400


def test_the_names_of_a_kept_reader_equal_those_of_a_new_reader(stats: Any, shmstats: Any) -> None:
    chance = random.Random(11)

    def change() -> None:
        metric, labels = f"m{chance.randrange(40)}", {"a": str(chance.randrange(3))}
        match chance.randrange(6):
            case 0:
                stats.remove("c", metric)
            case 1:
                stats.declare("c", metric, kind="counter", help=f"help {chance.random()}", labelnames=("a",))
            case 2:
                stats.declare("c", metric, kind="histogram", buckets=(1, 2, chance.randrange(3, 9)), labelnames=("a",))
            case 3:
                stats.histogram("c", metric, labels=labels).observe(1)
            case _:
                (stats.incr if chance.random() < 0.7 else stats.decr)("c", metric, labels=labels)

    for _ in range(60):
        for _ in range(chance.randrange(1, 6)):
            try:
                change()
            except (ValueError, TypeError):  # the name has another kind
                continue
        kept = list(stats.read().names)
        block = stats.shared.attach()
        new = shmstats.reading.reader.BlockReader(block._buf, block.layout, block.workers)
        assert kept == list(new.read().names)
        new.close()


def test_two_reads_of_the_same_names_are_compared_without_making_values(
    stats: Any, shmstats: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats.incr("c", "m")
    stats.gauge("c", "g", 0.5)
    stats.timing("c", "t", 5)
    read = stats.shared.attach().reader.read
    with monkeypatch.context() as without:
        without.delattr(shmstats.reading.totals.Totals, "at")
        without.delattr(shmstats.reading.totals.Totals, "values")
        before = read()
        assert read() == before
        stats.timing("c", "t", 6)
        assert read() != before
