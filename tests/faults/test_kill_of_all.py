"""SIGKILL of every process at once during any operation, and the next start.

``tests/real/test_persistence.py`` has the same under gunicorn, and ``tests/block/test_block.py`` the adoption of a dead
block with its locks, also by the other core.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from tortures import judge
from tortures.storm import Storm, Tally

WORKS = ("count", "change", "come and go", "fork")

#: All events of a storm, and their frequency.
ALL_FAULTS = {
    "kill": 10,
    "kill_all": 3,
    "stop_and_continue": 3,
    "leave": 3,
    "leave_all": 1,
    "damage_snapshot": 1,
    "obstruct_saving": 1,
    "read": 3,
}


@pytest.mark.parametrize("work", WORKS)
def test_a_kill_of_all_processes_loses_nothing_in_real_time_mode(
    storm: Callable[..., Storm], tally: Tally, work: str
) -> None:
    storm(seed=5, works=(work,)).run({"kill_all": 1}, lambda: tally.killed >= 16)
    assert tally.clean, tally


@pytest.mark.parametrize("work", ["count", "change"])
def test_a_kill_of_all_processes_in_buffered_mode_loses_only_held_operations(
    storm: Callable[..., Storm], tally: Tally, work: str
) -> None:
    storms = storm(seed=6, works=(work,), no_buffer=False, buffer_size=30, flush_interval_ms=10)
    storms.run({"kill_all": 1}, lambda: tally.killed >= 16)
    assert tally.clean, tally
    assert tally.held <= 30 * tally.killed


def test_a_block_whose_processes_were_all_killed_is_readable_before_its_adoption(
    storm: Callable[..., Storm], tally: Tally
) -> None:
    """A reader sees the counts while no process is attached."""
    storms = storm(workers=3)
    storms.fill()
    storms.let_count(1, 50, bound=20)
    for worker in storms.running.values():
        worker.signal(signal.SIGKILL)
    for worker in storms.running.values():
        worker.wait()
    for _ in range(2):
        found = judge.values(storms.data)
        for place in range(3):
            for verdict in judge.verdicts(found, storms.ledger.notes(place), place):
                assert not verdict.lost
                assert not verdict.doubled
    storms.settle_all()
    storms.fill()
    storms.finish()
    assert tally.clean, tally


def test_a_storm_of_everything_loses_nothing(storm: Callable[..., Storm], tally: Tally) -> None:
    storm(seed=7, works=WORKS).run(ALL_FAULTS, lambda: sum(tally.faults.values()) >= 35)
    assert tally.clean, tally
    assert len(tally.faults) >= 6


@pytest.mark.storm
@pytest.mark.parametrize("mode", ["real-time", "buffered"])
def test_a_long_storm_of_everything_loses_nothing(storm: Callable[..., Storm], tally: Tally, mode: str) -> None:
    more = {} if mode == "real-time" else {"no_buffer": False, "buffer_size": 50, "flush_interval_ms": 50}
    storm(seed=8, works=WORKS, workers=6, **more).run(ALL_FAULTS, lambda: sum(tally.faults.values()) >= 1000)
    print(tally)
    assert tally.clean, tally
