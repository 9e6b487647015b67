"""Contributions that end with their worker, by every interleaving: a dead worker's value is not used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from explorer import ViolationError
from machine import Core, Final, Identity, Plant, Process, Scenario, compiler, one_for_every_day

from shmstats.reading.gauges import Gauges

pytestmark = pytest.mark.skipif(shutil.which(compiler()) is None, reason="there is no C compiler")

#: The cells of the gauge: its value, and the signature of its contributor.
ROW, NUMBER, SIGNATURE = 1, 0, 2


#: Makes an object that adds to the gauge.
Adder = Callable[[Process], Any]

#: The amounts that the two processes add.
STEPS = (5, 1)


class SlowPath:
    """Adds to a gauge in the row of the previous worker, as the slow path does."""

    def __init__(self, process: Process) -> None:
        self.block = process.block
        self.by = (self.block.worker.signature, True, False, True)

    def incr(self, n: int) -> None:
        done = False
        while not done:
            seen = self.block.cells.load(ROW, SIGNATURE)
            anew = not any(worker.signature == seen for worker in self.block.workers.live())
            done = self.block.cells.add_gauge(ROW, NUMBER, n, 1, self.by, seen, anew)

    def _count_series(self, sign: int, series: Any, n: int) -> None:
        """Count what a handle could not count, as the registry does."""
        self.incr(sign * n)


def bound(process: Process) -> Any:
    """Return a handle that is bound to the gauge."""
    slow_path = SlowPath(process)
    gauge = process.core.gauge(slow_path, "c", "m")
    gauge._bind(process.block.cells, ROW, NUMBER, 5, 1, False, b"", slow_path.by)
    return gauge


def contribute(process: Process, by: Adder, n: int, times: int = 1) -> None:
    """Add to the gauge."""
    process.steps.note("signed", process.block.worker.signature)
    adder = by(process)
    for _ in range(times):
        process.steps.note("begun")
        adder.incr(n)
        process.steps.note("done")


def look(process: Process) -> None:
    """Read the contributions and their signatures."""
    block = process.had()
    for found in Gauges(block.reader.columns).contributions(NUMBER, None):
        process.steps.note("seen", found.signature, found.value)


def taking_over(core: Core, by: Adder = SlowPath) -> None:
    def first(process: Process) -> None:
        process.had()
        contribute(process, by, STEPS[0], 2)

    def successor(process: Process) -> None:
        process.attach()
        contribute(process, by, STEPS[1])

    scenario = Scenario(core, 8, 1, Identity(10), Identity(11, after=0), Identity(12))
    scenario.attach(0, 2)

    def check(final: Final) -> None:
        assert not final.waiting, f"processes that never continue: {final.waiting}"
        signed = {note[1]: index for index in (0, 1) for note in final.notes[index] if note[0] == "signed"}
        for note in final.notes[2]:
            if note[0] == "seen":
                who = signed[note[1]]
                had = [STEPS[who] * times for times in range(1, final.noted(who, "begun") + 1)]
                assert note[2] in had, f"{note} is not the value of that worker"
        if final.noted(1, "done"):
            assert (signed[final.load(ROW, SIGNATURE)], final.load(ROW, NUMBER)) == (1, 1)

    scenario.explore(first, successor, look, check=check, kills=1, mortal=[0])


@pytest.mark.parametrize("by", [SlowPath, bound])
@pytest.mark.parametrize("name", ["C", "Python"])
def test_a_successor_begins_at_0_and_no_reader_mixes_it_with_the_dead_worker(name: str, by: Adder) -> None:
    taking_over(Core(name), by)


ANEW = "        before = anew ? (Number){1, 0, 0.0} : before;\n"

FAULTS = {
    "the value of a dead worker is added to, in C": Plant("buffer.h", ANEW, "        (void)anew;\n"),
    "the value of a dead worker is added to": Plant(
        "_cells_py.py", "before = 0 if anew else before", "before = before"
    ),
    "the new value has the signature of the dead worker for a moment": Plant(
        "_cells_py.py", "        if changes and live:\n            self._values[place + _OWNER] = 0\n", ""
    ),
}

#: The value of a process killed before it wrote its signature; it has no owner.
FAULTS_OF_HANDLES = {
    "a value without an owner is added to, in C": Plant("handles.h", "n, series->by, 0, 1)", "n, series->by, 0, 0)"),
    "a value without an owner is added to": Plant("_cells_py.py", "self._by, 0, True)", "self._by, 0, False)"),
}


@pytest.mark.parametrize("fault", one_for_every_day(FAULTS))
def test_a_fault_of_contributions_is_found(fault: str) -> None:
    with pytest.raises(ViolationError) as caught:
        taking_over(Core("C" if FAULTS[fault].is_of_c else "Python", FAULTS[fault]))
    assert "raises" not in str(caught.value)


@pytest.mark.parametrize("fault", one_for_every_day(FAULTS_OF_HANDLES))
def test_a_fault_of_contributions_by_handles_is_found(fault: str) -> None:
    plant = FAULTS_OF_HANDLES[fault]
    with pytest.raises(ViolationError):
        taking_over(Core("C" if plant.is_of_c else "Python", plant), bound)
