"""Flushes of buffered mode, by every interleaving: held operations go to their own name, or are dropped.

A process may be killed during a flush: the operations that it holds are lost, and those in the block are there once.
"""

from __future__ import annotations

from typing import Any

import pytest
from explorer import ViolationError
from machine import Core, Final, Plant, Process, Scenario
from test_names_model import after, count, processes, remove, sums_are_right, table

from shmstats.attachment.buffer import Buffer
from shmstats.block.keys import encode_key
from shmstats.series import Kind

OLD = encode_key("c", "old")


class Handle:
    """A stand-in for a counter's handle: it counts into its bound cell while the names' generation is the same."""

    def _bind(
        self, cells: Any, row: int, column: int, width: int, generation: int, monotonic: bool, scale: bytes
    ) -> None:
        self.where = cells, row, column, generation

    def incr(self) -> bool:
        cells, row, column, generation = self.where
        return bool(cells.add(row, column, 1, generation))


def count_and_flush(process: Process) -> None:
    """Count twice into a buffer, with a flush in between and one at the end."""
    block = process.had()
    buffer: Any = Buffer(block, 100, lambda: buffer.flush())
    handle, generation = Handle(), block.cells.generation  # before the lookup, as in every binding
    record = block.names.find(OLD)
    if record is None or not buffer.bind(handle, OLD, record, generation, b""):  # type: ignore[arg-type]
        return
    for _ in range(2):
        with process.guard:
            if handle.incr():
                process.steps.note("held", "old")
            buffer.flush()
            process.steps.note("flushed")


def flushing(core: Core, *others: Any, kills: int = 1, stays: bool = False) -> None:
    scenario = Scenario(core, 4, 2, *processes(1 + len(others)))
    scenario.attach(*range(1 + len(others)))
    scenario.before(0, lambda process: process.had().find_or_add(OLD, Kind.COUNTER))

    def check(final: Final) -> None:
        if not stays:
            sums_are_right("new")(final)
        held, sums = final.noted(0, "held"), final.ask(table)
        assert sums.get("old", 0) <= held, f"old is {sums['old']}, and {held} were counted"
        if not others or stays:
            least = held if not final.killed else final.noted(0, "flushed")
            assert sums["old"] >= least, f"old is {sums['old']}, not {least} to {held}"

    scenario.explore(count_and_flush, *others, check=check, kills=kills, mortal=[0])


def alone(core: Core) -> None:
    flushing(core)


def while_the_name_goes(core: Core) -> None:
    flushing(core, after(remove("old"), count("new")), kills=0)


def while_another_goes(core: Core) -> None:
    """The generation of the names changes, but the held operations are of a name that stays."""
    flushing(core, after(count("new"), remove("new")), kills=0, stays=True)


FLUSHES = [alone, while_the_name_goes, while_another_goes]


@pytest.mark.parametrize("what", FLUSHES)
def test_a_flush_loses_and_doubles_nothing_and_adds_to_no_other_name(what: Any) -> None:
    what(Core("Python"))


FAULTS = {
    "operations of a removed name go to another name": Plant(
        "_cells_py.py",
        "target.add_values(row, column, values, generation)",
        "target.add_values(row, column, values, target.generation)",
    ),
    "flushed operations stay in the buffer": Plant(
        "_cells_py.py",
        "                    if not done:\n                        self.add_values(0, column",
        "                    if True:\n                        self.add_values(0, column",
    ),
    "operations that could not be flushed are lost": Plant(
        "_cells_py.py",
        "                        self.add_values(0, column, values, self.generation)\n",
        "",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_flushing_is_found(fault: str) -> None:
    core = Core("Python", FAULTS[fault])

    def try_all() -> None:
        for what in FLUSHES:
            what(core)

    with pytest.raises(ViolationError) as caught:
        try_all()
    assert "raises" not in str(caught.value)
