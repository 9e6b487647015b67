"""Cells, by every interleaving of a few processes that may be killed anywhere: both cores, as they are.

And each planted fault is found, which shows that the search would find one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from explorer import ViolationError
from machine import Core, Final, Identity, Plant, Process, Scenario, compiler, one_for_every_day

from shmstats.series import Kind

pytestmark = pytest.mark.skipif(shutil.which(compiler()) is None, reason="there is no C compiler")

CORES = ["C", "Python"]


def processes(*pids: int) -> list[Identity]:
    return [Identity(pid) for pid in pids]


def no_process_waits(final: Final) -> None:
    assert not final.waiting, f"processes that never continue: {final.waiting}"


# Adding --------------------------------------------------------------------------------------------


def add(process: Process, times: int = 1) -> None:
    """Add 1 to a shared cell."""
    cells = process.had().cells
    for _ in range(times):
        process.steps.note("begun")
        assert cells.add(1, 0, 1, 1)
        process.steps.note("done")


def add_twice(process: Process) -> None:
    add(process, 2)


def each_addition_is_there_once(final: Final) -> None:
    """Assert noted after <= counted <= noted before; a live process has finished its additions."""
    no_process_waits(final)
    everyone = range(len(final.notes))
    done = sum(final.noted(index, "done") for index in everyone)
    begun = sum(final.noted(index, "begun") for index in everyone)
    assert done <= final.load(1, 0) <= begun, f"{final.load(1, 0)} is not from {done} to {begun}"
    assert begun - done <= len(final.killed)


def adding(core: Core, *programs: Callable[[Process], None], kills: int) -> None:
    scenario = Scenario(core, 4, 2, *processes(*range(10, 10 + len(programs))))
    scenario.attach(*range(len(programs)))
    scenario.explore(*programs, check=each_addition_is_there_once, kills=kills)


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize(("programs", "kills"), [([add_twice] * 2, 2), ([add] * 3, 2)], ids=["twice", "three"])
def test_no_addition_is_lost_or_doubled_and_no_process_waits_for_a_dead_one(
    name: str, programs: Any, kills: int
) -> None:
    adding(Core(name), *programs, kills=kills)


LOCKING_FAULTS = {
    "a lock is read and then stored, not exchanged": Plant(
        "cell.h",
        "return __atomic_compare_exchange_n(&cell->lock, &free, owner, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);",
        "if (__atomic_load_n(&cell->lock, __ATOMIC_ACQUIRE) != free) return 0;"
        "__atomic_store_n(&cell->lock, owner, __ATOMIC_RELAXED); return 1;",
    ),
    "a lock is taken over without compare-and-swap": Plant(
        "cell.h",
        "if (!lives && __atomic_compare_exchange_n(&cell->lock, &word, cells->owner, 0, __ATOMIC_ACQUIRE,\n"
        "                                                  __ATOMIC_RELAXED)) {",
        "if (!lives) { __atomic_store_n(&cell->lock, cells->owner, __ATOMIC_RELAXED);",
    ),
    "a lock of a live process is taken over": Plant("cell.h", "if (!lives && __atomic", "if (__atomic"),
    "no lock is taken over": Plant("cell.h", "if (!lives && __atomic", "if (0 && __atomic"),
    "a lock is released before the value is stored": Plant(
        "buffer.h",
        "        add_to_value(cell, 0, n);\n        unlock(cell);\n    }",
        "        int64_t sum = saturating_add(load_value(cell, 0), n);\n"
        "        unlock(cell); store_value(cell, 0, sum);\n    }",
    ),
    "a lock that was not taken is released": Plant(
        "cell.h",
        "    return wait_for_lock(cells, cell);\n",
        "    Outcome outcome = wait_for_lock(cells, cell); unlock(cell); return outcome;\n",
    ),
    "the twin takes no lock": Plant(
        "_cells_py.py",
        "                self._descriptor = cells._locks.lock(FIRST_CELL + cell)\n",
        "",
    ),
    "the twin locks another cell": Plant(
        "_cells_py.py",
        "cells._locks.lock(FIRST_CELL + cell)\n",
        "cells._locks.lock(FIRST_CELL + cell + cells._owner)\n",
    ),
}


@pytest.mark.parametrize("fault", one_for_every_day(LOCKING_FAULTS))
def test_a_fault_of_locking_is_found(fault: str) -> None:
    plant = LOCKING_FAULTS[fault]
    with pytest.raises(ViolationError):
        adding(Core(core_of(plant), plant), add, add, add, kills=1)


def core_of(plant: Plant) -> str:
    return "Python" if plant.file == "_cells_py.py" else "C"


# Taking over, while slots have new owners ----------------------------------------------------------


def come(process: Process) -> None:
    """Attach, which takes the slot of a dead process if there is one."""
    process.attach()
    process.steps.note("come", process.block.worker.slot)


def slots_have_new_owners(core: Core, newcomer: Identity) -> None:
    scenario = Scenario(core, 4, 2, *processes(10, 11), newcomer)
    scenario.attach(0, 1)

    def check(final: Final) -> None:
        each_addition_is_there_once(final)
        slots = {note[1] for note in final.notes[2] if note[0] == "come"}
        assert slots <= ({0, 2} if 0 in final.killed else {2})

    scenario.explore(add, add, come, check=check, kills=1, mortal=[0])


NEWCOMERS = {"another": Identity(12), "one with the pid of the dead": Identity(10, after=0)}


@pytest.mark.thorough
@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("newcomer", NEWCOMERS)
def test_a_process_that_reuses_a_slot_does_not_own_the_lock_of_the_dead_owner(name: str, newcomer: str) -> None:
    slots_have_new_owners(Core(name), NEWCOMERS[newcomer])


SLOT_FAULTS = {
    "the word of a lock has the slot without the claim": Plant("workers.py", " | self.claim & 0xFFFFF", " | 1"),
    "the owner is identified by its slot alone": Plant("workers.py", " and worker.word == word", ""),
    "a claim number is reused": Plant("workers.py", '"little") + 1 & 0xFFFFFFFF', '"little") | 1'),
    "a slot is taken without a check of its owner": Plant(
        "workers.py", "in range(WORKER_SLOTS) if slot not in rows)", "in range(WORKER_SLOTS))"
    ),
}


@pytest.mark.parametrize("fault", one_for_every_day(SLOT_FAULTS))
def test_a_fault_of_slots_is_found(fault: str) -> None:
    core = Core("C", SLOT_FAULTS[fault])

    def try_all() -> None:
        for newcomer in NEWCOMERS.values():
            slots_have_new_owners(core, newcomer)

    with pytest.raises(ViolationError):
        try_all()


# Gauges --------------------------------------------------------------------------------------------


def setting(*values: float) -> Callable[[Process], None]:
    def program(process: Process) -> None:
        cells = process.had().cells
        for value in values:
            process.steps.note("set", value)
            assert cells.set_gauge(0, 0, value, 1)

    return program


def looking(process: Process) -> None:
    reader = process.had().reader
    for _ in range(2):
        process.steps.note("seen", reader.columns.gauge(0))


def gauges(core: Core) -> None:
    scenario = Scenario(core, 4, 2, *processes(10, 11, 12))
    scenario.attach(0, 1, 2)
    scenario.before(0, lambda process: process.had().cells.set_gauge(0, 0, 7, 1))

    def check(final: Final) -> None:
        no_process_waits(final)
        set_values = {note[1] for index in (0, 1) for note in final.notes[index]} | {7}
        seen = {note[1] for note in final.notes[2]} | {final.ask(lambda block: block.reader.columns.gauge(0))}
        assert seen <= set_values, f"{seen - set_values} was never set"

    scenario.explore(setting(1, 2.5, 3), setting(5.5), looking, check=check, kills=1)


@pytest.mark.parametrize("name", CORES)
def test_a_gauge_is_always_a_value_that_was_set(name: str) -> None:
    gauges(Core(name))


GAUGE_FAULTS = {
    "the type of a value is changed before the value (C)": Plant(
        "values.h",
        "        store_double(gauge, REAL, number.real);\n    STOP_POINT();\n",
        "    {\n        __atomic_store_n(&gauge->seq, 1, __ATOMIC_RELEASE);\n"
        "        store_double(gauge, REAL, number.real);\n    }\n    STOP_POINT();\n",
    ),
    "the type of a value is changed before the value": Plant(
        "_cells_py.py",
        "            self._doubles[cell + 1 + _REAL] = value\n            self._words[2 * cell + 1] = 1",
        "            self._words[2 * cell + 1] = 1\n            self._doubles[cell + 1 + _REAL] = value",
    ),
    "an integer and a double share their place": Plant(
        "values.h",
        "        store_double(gauge, REAL, number.real);",
        "    {\n        store_double(gauge, INTEGER, number.real);\n"
        "        store_double(gauge, REAL, number.real);\n    }",
    ),
}


@pytest.mark.parametrize("fault", one_for_every_day(GAUGE_FAULTS))
def test_a_fault_of_gauges_is_found(fault: str) -> None:
    plant = GAUGE_FAULTS[fault]
    with pytest.raises(ViolationError):
        gauges(Core(core_of(plant), plant))


def adding_to_a_gauge(core: Core) -> None:
    scenario = Scenario(core, 4, 2, *processes(10, 11))
    scenario.attach(0, 1)

    def program(process: Process) -> None:
        cells = process.had().cells
        for n in (1, 0.5):
            process.steps.note("begun", n)
            assert cells.add_gauge(0, 0, n, 1)
            process.steps.note("done", n)

    def check(final: Final) -> None:
        no_process_waits(final)
        done, begun = (
            sum(note[1] for notes in final.notes for note in notes if note[0] == what) for what in ("done", "begun")
        )
        assert done <= final.ask(lambda block: block.reader.columns.gauge(0)) <= begun

    scenario.explore(program, program, check=check, kills=1)


@pytest.mark.parametrize("name", CORES)
def test_an_addition_to_a_gauge_is_kept_once(name: str) -> None:
    adding_to_a_gauge(Core(name))


# Histograms ----------------------------------------------------------------------------------------

WIDTH = 5  # the lock, the sum, the maximum, the minimum, one bucket


def observe(*values: float) -> Callable[[Process], None]:
    def program(process: Process) -> None:
        cells = process.had().cells
        for value in values:
            assert cells.add_distribution(1, 0, value, value, value, (1,), 1)
            process.steps.note("done", value)

    return program


def clear(process: Process) -> None:
    process.had().stripes.clear(process.core.records.Record(0, Kind.HISTOGRAM, 0, 0, WIDTH))


def read_histogram(process: Process) -> None:
    process.steps.note("read", *summed(process.had()))


def summed(block: Any) -> tuple[float, float, int]:
    """Sum, maximum and count of the row's histogram, read by the real reader."""
    copy = block.reader.histograms.in_row(1, 0, WIDTH)
    return copy.sum, copy.max, sum(copy.buckets)


def histograms(core: Core, *programs: Callable[[Process], None], whole: set[tuple[float, float, int]]) -> None:
    """Make a histogram of one observation, 2.0, and a reader beside the programs that must see only whole states."""
    scenario = Scenario(core, 4, 1, *processes(*range(10, 11 + len(programs))))
    scenario.attach(*range(1 + len(programs)))
    scenario.before(0, observe(2.0))

    def check(final: Final) -> None:
        no_process_waits(final)
        found = {note[1:] for note in final.notes[-1]} | {final.ask(summed)}
        assert found <= whole, f"{found - whole} is not whole"

    scenario.explore(*programs, read_histogram, check=check)


WHOLE = {(2.0, 2.0, 1), (3.0, 2.0, 2), (11.0, 8.0, 3)}


@pytest.mark.thorough
@pytest.mark.parametrize("name", CORES)
def test_a_reader_sees_a_histogram_as_it_was_at_one_moment(name: str) -> None:
    histograms(Core(name), observe(1.0, 8.0), whole=WHOLE)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CORES)
def test_a_reader_sees_a_reset_histogram_as_before_or_as_0(name: str) -> None:
    def clear_and_observe(process: Process) -> None:
        clear(process)
        observe(8.0)(process)

    histograms(Core(name), clear_and_observe, whole={(2.0, 2.0, 1), (0.0, 0.0, 0), (8.0, 8.0, 1)})


@pytest.mark.parametrize("name", CORES)
def test_a_kill_during_an_observation_loses_no_other_observation(name: str) -> None:
    scenario = Scenario(Core(name), 4, 2, *processes(10, 11))
    scenario.attach(0, 1)

    def check(final: Final) -> None:
        no_process_waits(final)
        done = [note[1] for notes in final.notes for note in notes]
        total, maximum, count = final.ask(summed)
        # An observation interrupted by a kill is counted, or not, or in part: each sum is off by at most that one.
        assert 0 <= total - sum(done) <= 4.0 * len(final.killed)
        assert max(done) <= maximum <= 4.0
        assert 0 <= count - len(done) <= len(final.killed)

    scenario.explore(observe(1.0), observe(2.0, 4.0), check=check, kills=1)


HISTOGRAM_FAULTS = {
    "nothing shows that a histogram is being written": Plant(
        "values.h", "__atomic_store_n(&histogram->seq, seq, __ATOMIC_RELAXED);", ""
    ),
    "the end of a write looks like its beginning": Plant(
        "values.h",
        "__atomic_store_n(&histogram->seq, seq + 1, __ATOMIC_RELEASE);",
        "__atomic_store_n(&histogram->seq, seq - 1, __ATOMIC_RELEASE);",
    ),
    "the reader does not check seq again": Plant(
        "histograms.py",
        "if before % 2 == 0 and columns.sequence(row, cell) == before:",
        "if before % 2 == 0:",
    ),
    "the reader ignores a writer": Plant(
        "histograms.py",
        "if before % 2 == 0 and columns.sequence(row, cell) == before:",
        "if columns.sequence(row, cell) == before:",
    ),
    "the twin does not mark a write": Plant("_cells_py.py", "            self._words[2 * cell + 1] |= 1\n", ""),
}


@pytest.mark.parametrize("fault", one_for_every_day(HISTOGRAM_FAULTS))
def test_a_fault_of_histograms_is_found(fault: str) -> None:
    plant = HISTOGRAM_FAULTS[fault]
    with pytest.raises(ViolationError):
        histograms(Core(core_of(plant), plant), observe(1.0, 8.0), whole=WHOLE)
