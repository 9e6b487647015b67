"""SIGSTOP of a lock's holder, then SIGCONT: no lock is taken from a living process.

A worker is stopped at each step of a counting call, or before a line of a change of names, and continued later. The
single rules are tested in ``tests/block/test_workers.py``, ``tests/block/test_lock.py`` and
``tests/core/test_cells.py``, and random stops in ``tests/test_processes.py``.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import wait_until
from tortures import judge
from tortures.ledger import STREAMS
from tortures.nursery import Nursery, Worker
from tortures.storm import Storm, Tally


@pytest.mark.parametrize("stream", STREAMS)
def test_a_lock_held_by_a_stopped_process_is_waited_for(
    storm: Callable[..., Storm], tally: Tally, steps: Nursery, core: str, stream: str
) -> None:
    """Another process counts the same statistics: it waits for the stopped one, or continues beside it."""
    storms = storm(workers=2, steps=steps, max_workers=1)
    storms.start(1)
    notes = storms.ledger.notes(0), storms.ledger.notes(1)
    waited = number = 0
    while (stopped := storms.keep_inside(0, stream=stream, number=number)).state == "T":
        before = notes[1].before("own")
        storms.read()
        storms.let_count(1, 20, bound=0.005)
        waited += notes[1].before("own") < before + 2
        assert stopped.state == "T"
        stopped.signal(signal.SIGCONT)
        goals = [each.before("own") + 2 for each in notes]
        wait_until(lambda goals=goals: all(n.before("own") >= goal for n, goal in zip(notes, goals, strict=True)))
        storms.leave_one(0)
        number += 1 if core == "C" else 3
    assert number >= 4
    assert waited > 0 or stream != "shared", "no process had to wait"
    storms.finish()
    assert tally.clean, tally
    assert judge.values(storms.data).get(("shmstats", "locks_taken_over"), 0) == 0


CHANGE = """
import os, signal
stats.incr('c', 'before')
files = tuple(f"{name}.py" for name in (
    "block/block", "block/names", "block/records", "block/registering", "block/stripes", "block/lock", "core/_names_py",
    "attachment/slow_path", "attachment/changes"))
stop = lambda: (open(report + " here", "w").close(), os.kill(os.getpid(), signal.SIGSTOP))
lines = works.do_at_line(number, files, stop)
stats.incr('c', f'name {number}')
stats.remove('c', f'name {number}')
works.do_at_line(-1, (), None)
with open(report, "w") as file:
    file.write(str(lines()))
shmstats.close()
"""

OTHER = """
stats.incr('c', 'before')
stats.incr('c', f'other {number}')
stats.remove('c', f'other {number}')
open(report + " changed", "w").close()
shmstats.close()
"""


def test_a_process_stopped_while_it_changes_names_does_not_stop_counting(
    core: str, storm: Callable[..., Storm], tally: Tally, nursery: Nursery, tmp_path: Path
) -> None:
    """Processes continue to count registered names; one that attaches or changes names waits if it must."""
    storms = storm(workers=1, max_workers=2)
    storms.start(0)
    storms.let_count(0, 1, bound=20)
    here, changed, report = (Path(f"{tmp_path}/report{end}") for end in (" here", " changed", ""))

    def start(code: str, number: int) -> Worker:
        return nursery.run(code, storms.data, storms.stats, number=number, report=str(report))

    assert start(CHANGE, 10**9).wait() == 0
    waited, numbers = 0, random.Random(5).sample(range(int(report.read_text())), 10)
    for number in numbers:
        here.unlink(missing_ok=True)
        changed.unlink(missing_ok=True)
        changing = start(CHANGE, number)
        wait_until(here.exists)
        assert changing.wait_for_state("TZ") == "T"
        other = start(OTHER, number)
        goal = storms.ledger.notes(0).before("own") + 20
        wait_until(lambda goal=goal: storms.ledger.notes(0).before("own") >= goal)
        wait_until(lambda other=other: changed.exists() or other.state in "SD")
        waited += not changed.exists()
        assert changing.state == "T"
        changing.signal(signal.SIGCONT)
        assert changing.wait() == other.wait() == 0
        assert changed.exists()
    judge.check_structure(storms.data)
    assert waited > 0, "no process held the table lock"
    found = judge.values(storms.data)
    assert {key[1] for key in found if key[0] == "c"} == {"before"}
    assert found["c", "before"] == 1 + 2 * len(numbers)
    storms.finish()
    assert tally.clean, tally
