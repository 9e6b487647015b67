"""SIGKILL at any instruction of a counting call.

A worker is killed at each step inside the critical sections in turn (in C in a build with stop points, in Python
before each line); and workers are killed at random while they count, and replaced. Taking over a dead owner's lock is
tested in ``tests/core/test_cells.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tortures import judge
from tortures.ledger import STREAMS
from tortures.nursery import Nursery
from tortures.storm import Storm, Tally

KILLS = {"C": 60, "Python": 30}


@pytest.mark.parametrize("stream", [stream for stream in STREAMS if stream != "shared"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_value(
    storm: Callable[..., Storm], tally: Tally, steps: Nursery, stream: str
) -> None:
    """The next worker has the same row, and needs the locks that the dead worker may have held."""
    storms = storm(workers=1, steps=steps, max_workers=1)
    found = []
    while storms.keep_inside(0, stream=stream, number=len(found)).state == "T":
        (verdict,) = [verdict for verdict in storms.end(0) if verdict.stream == stream]
        assert verdict.before - verdict.after == 1
        found.append(verdict.counted == verdict.before)
    assert len(found) >= 4
    assert found == sorted(found), "it was counted, and at a later step it was not"
    assert (found[0], found[-1]) == (False, True)
    storms.end(0)
    assert tally.clean, tally
    assert tally.killed == len(found) + 1
    took = judge.values(storms.data)["took", "worker 0"]
    assert abs(took.sum - 3.0 * sum(took.buckets)) <= 3.0 * tally.killed
    assert took.max == 3.0


def test_processes_that_wait_for_the_lock_of_a_dead_one_continue(
    storm: Callable[..., Storm], tally: Tally, steps: Nursery, core: str
) -> None:
    """All share a row, so they wait for each other; `scripts/torture` measures how long that takes."""
    storms = storm(workers=3, steps=steps, max_workers=1)
    storms.start(1)
    storms.start(2)
    number = 0
    while storms.keep_inside(0, stream="shared", number=number).state == "T":
        storms.let_count(1, 20)
        storms.end_and_wait_for_others(0)
        number += 1
    taken_over = judge.values(storms.data)["shmstats", "locks_taken_over"]
    storms.finish()
    assert taken_over > 0, "no process ever waited"
    assert tally.clean, tally


@pytest.mark.parametrize("rows", [1, 8])
def test_the_counts_of_workers_killed_at_random_are_kept_once(
    storm: Callable[..., Storm], tally: Tally, core: str, rows: int
) -> None:
    storm(seed=rows, max_workers=rows).run({"kill": 30, "kill_all": 1, "read": 3}, lambda: tally.killed >= KILLS[core])
    assert tally.clean, tally
    assert tally.operations > 100 * tally.killed
    assert tally.uncertain <= 5 * tally.killed


def test_the_flushed_counts_of_workers_killed_at_random_are_kept_once(
    storm: Callable[..., Storm], tally: Tally, core: str
) -> None:
    storms = storm(seed=3, no_buffer=False, buffer_size=40, flush_interval_ms=20, max_workers=2)
    storms.run({"kill": 30, "kill_all": 1}, lambda: tally.killed >= KILLS[core] // 2)
    assert tally.clean, tally
    assert 0 < tally.held <= 40 * tally.killed


@pytest.mark.storm
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_five_thousand_kills_at_random_lose_nothing(
    storm: Callable[..., Storm], tally: Tally, core: str, rows: int
) -> None:
    storm(seed=100 + rows, max_workers=rows).run({"kill": 100, "kill_all": 1}, lambda: tally.killed >= 1700)
    print(tally)
    assert tally.clean, tally
    assert tally.takeovers > 0 or rows > 1
