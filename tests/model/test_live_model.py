"""Contributions that end with their worker, by every interleaving: nobody reads, or adds to, what the dead had."""

from __future__ import annotations

import shutil

import pytest
from explorer import ViolationError
from machine import Core, Final, Identity, Plant, Process, Scenario, compiler

from shmstats.reading.gauges import Gauges

pytestmark = pytest.mark.skipif(shutil.which(compiler()) is None, reason="there is no C compiler")

#: Where the gauge is: its number, and the signature of who contributed it.
ROW, NUMBER, SIGNATURE = 1, 0, 2


#: What each of the two adds.
STEPS = (5, 1)


def contribute(process: Process, n: int, times: int = 1) -> None:
    """Add to a gauge in the row of the worker before, as the slow path does."""
    block = process.block
    signature = block.worker.signature
    process.steps.note("signed", signature)
    for _ in range(times):
        process.steps.note("begun")
        done = False
        while not done:
            seen = block.cells.load(ROW, SIGNATURE)
            anew = not any(worker.signature == seen for worker in block.workers.live())
            done = block.cells.add_gauge(ROW, NUMBER, n, 1, (signature, True, False, True), seen, anew)
        process.steps.note("done")


def first(process: Process) -> None:
    process.had()
    contribute(process, STEPS[0], 2)


def successor(process: Process) -> None:
    process.attach()
    contribute(process, STEPS[1])


def look(process: Process) -> None:
    """Read the contributions, and who made them."""
    block = process.had()
    for found in Gauges(block.reader.columns).contributions(NUMBER, None):
        process.steps.note("seen", found.signature, found.value)


def taking_over(core: Core) -> None:
    scenario = Scenario(core, 8, 1, Identity(10), Identity(11, after=0), Identity(12))
    scenario.attach(0, 2)

    def check(final: Final) -> None:
        assert not final.waiting, f"some wait for ever: {final.waiting}"
        signed = {note[1]: index for index in (0, 1) for note in final.notes[index] if note[0] == "signed"}
        for note in final.notes[2]:
            if note[0] == "seen":
                who = signed[note[1]]
                had = [STEPS[who] * times for times in range(1, final.noted(who, "begun") + 1)]
                assert note[2] in had, f"{note} is not what that worker had"
        if final.noted(1, "done"):
            assert (signed[final.load(ROW, SIGNATURE)], final.load(ROW, NUMBER)) == (1, 1)

    scenario.explore(first, successor, look, check=check, kills=1, mortal=[0])


@pytest.mark.parametrize("name", ["C", "Python"])
def test_a_successor_begins_anew_and_no_reader_takes_its_value_for_that_of_the_dead(name: str) -> None:
    taking_over(Core(name))


ANEW = "sum_of(anew ? (Number){1, 0, 0.0} : gauge_number(gauge), n)"

FAULTS = {
    "what the dead had is added to, in C": Plant("buffer.h", ANEW, "sum_of(gauge_number(gauge), n)"),
    "what the dead had is added to": Plant("_cells_py.py", "before = 0 if anew else before", "before = before"),
    "the new value is signed by the dead for a moment": Plant(
        "_cells_py.py", "        if changes and live:\n            self._values[place + _OWNER] = 0\n", ""
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_contributions_is_found(fault: str) -> None:
    with pytest.raises(ViolationError) as caught:
        taking_over(Core("C" if FAULTS[fault].is_of_c else "Python", FAULTS[fault]))
    assert "raises" not in str(caught.value)
