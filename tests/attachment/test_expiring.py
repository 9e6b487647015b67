"""Label sets that no process touches for a time are removed, and no count is lost."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from helpers import PythonRunner, wait_until

pytestmark = pytest.mark.far_from_core


def labelled(stats: Any) -> set[str]:
    return {name.labels[0][1] for name in stats.read().names if name.category == "c" and name.labels}


def test_idle_label_sets_are_removed_and_used_ones_stay(
    stats: Any, configure: Callable[..., Any], python: PythonRunner
) -> None:
    configure(expire_idle_seconds=1)
    child = python.start(
        """
        import sys
        from shmstats import stats
        handle = stats.counter('c', 'm', labelnames=('l',))
        handle.labels('old').incr(3)
        handle.labels('used').incr()
        stats.incr('c', 'plain')
        print('ready', flush=True)
        sys.stdin.readline()
        handle.labels('old').incr(2)
        print(stats.get('c', 'm', labels={'l': 'old'}), flush=True)
        sys.stdin.readline()
        """
    )
    assert child.hear() == "ready"

    def old_has_gone() -> bool:
        stats.incr("c", "m", labels={"l": "used"})
        return labelled(stats) == {"used"}

    wait_until(old_has_gone)
    assert stats.get("c", "plain") == 1
    child.tell()
    assert child.hear() == "2"
    assert labelled(stats) == {"old", "used"}
    child.tell()
    child.finish()


def test_a_count_during_the_removal_of_a_label_set_is_not_lost(shmstats: ModuleType, stats: Any) -> None:
    expiring = importlib.import_module("shmstats.attachment.expiring")
    stats.incr("c", "m", 3, labels={"l": "x"})
    stats.timing("c", "t", 5, labels={"l": "x"})
    block, read = stats.shared.attach(), stats.read()
    names = {name.metric: (name, value) for name, value in zip(read.names, read.values, strict=True) if name.labels}
    remove = block.remove

    def counted_just_before(numbers: Any) -> None:
        cells = block.cells
        for record in map(block.names.record, numbers):
            row, generation = block.row_for(record), cells.generation
            if record.width > 2:
                buckets = (1, *(0,) * (record.width - 5))
                cells.add_distribution(row, record.cell, 7.0, 7.0, 7.0, buckets, generation)
            else:
                cells.add(row, record.cell, 1, generation)
        remove(numbers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "remove", counted_just_before)
        assert not expiring._remove(block, *names["m"])
        assert not expiring._remove(block, *names["t"])
    assert stats.get("c", "m", labels={"l": "x"}) == 4
    assert stats.get("c", "t", labels={"l": "x"}).count == 2
    assert expiring._remove(block, names["m"][0], 4)
    assert stats.get("c", "m", labels={"l": "x"}) == 0
