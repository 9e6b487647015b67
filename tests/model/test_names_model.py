"""Names and slots, by every interleaving of a few processes that may be killed anywhere: both cores, as they are.

The programs use `SharedProvider`, whose order of reading the generation, looking up and adding is tested here too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from explorer import ViolationError
from machine import Core, Final, Identity, Plant, Process, Scenario, compiler, one_for_every_day

from shmstats.attachment.slow_path import SharedProvider
from shmstats.block.keys import family_key, is_labelled

pytestmark = pytest.mark.skipif(shutil.which(compiler()) is None, reason="there is no C compiler")

CORES = ["C", "Python"]

#: Makes a program that counts a name.
Counting = Callable[[str], Callable[[Process], None]]


class Provider(SharedProvider):
    """The provider, on the block of a process of the model."""

    def __init__(self, process: Process) -> None:
        self._block, self._buffer = process.block, None
        self.ending, self._no_thread_until = False, 0.0
        self._declared = {}
        self._registrar: Any = SimpleNamespace(learn=lambda *arguments: None)
        self._settings: Any = SimpleNamespace(stats=SimpleNamespace(max_series_per_metric=10))

    def _attached(self) -> Any:
        return self._block

    def flush(self) -> None:
        """Nothing is held."""

    def _count_series(self, sign: int, series: Any, n: int) -> None:
        """Count what a handle could not count, as the registry does."""
        self._count(self._block, series, sign * n)


def processes(n: int) -> list[Identity]:
    return [Identity(pid) for pid in range(10, 10 + n)]


def named(metric: str) -> Any:
    """A stand-in for the handle of a name that was never used: of ``a``, or of ``a{l="x"}`` given as ``a.l.x``."""
    metric, *label = metric.split(".")
    return SimpleNamespace(category="c", metric=metric, labels=(tuple(label),) if label else ())


def count(metric: str) -> Callable[[Process], None]:
    """Add 1 to a name."""

    def program(process: Process) -> None:
        block = process.had()
        process.steps.note("begun", metric)
        Provider(process)._count(block, named(metric), 1)
        process.steps.note("done", metric)

    return program


def count_at_once(metric: str) -> Callable[[Process], None]:
    """Add 1 to a name by a handle that C binds; if that is left to Python the slow path counts."""

    def program(process: Process) -> None:
        block = process.had()
        provider = Provider(process)
        provider._registrar = process.core.registrar(block)
        series = named(metric)
        handle = process.core.counter(provider, series.category, series.metric, series.labels)
        process.steps.note("begun", metric)
        handle.incr()
        process.steps.note("done", metric)

    return program


def count_by_a_handle(metric: str, again: bool = False) -> Callable[[Process], None]:
    """Add 1 by a handle that was bound before the beginning, when the name had column 0.

    Args:
        metric: the name.
        again: whether to count by name if the handle is no longer valid.
    """

    def program(process: Process) -> None:
        block = process.had()
        provider = Provider(process) if again else SimpleNamespace(_count_series=lambda *arguments: None)
        counter = process.core.counter(provider, "c", metric)
        counter._bind(block.cells, block.worker.row, 0, 2, 1, True)
        counter.incr()

    return program


def remove(metric: str) -> Callable[[Process], None]:
    def program(process: Process) -> None:
        process.had()
        assert Provider(process).remove("c", metric) in (0, 1)

    return program


def after(*programs: Callable[[Process], None]) -> Callable[[Process], None]:
    """One program after the other."""

    def program(process: Process) -> None:
        for each in programs:
            each(process)

    return program


def table(block: Any) -> dict[str, int]:
    """Repair the table after a kill, as the next holder of the table lock does; return the sums."""
    with block.exclusive():
        records = list(block.names.records())
        keys = [block.names.key(record.number) for record in records]
        assert len(set(keys)) == len(keys), f"duplicate names: {keys}"
        for key, record in zip(keys, records, strict=True):
            assert block.names.find(key) == record, f"{key!r} is not found at its place"
        columns = [record.cell + place for record in records for place in range(record.width)]
        assert len(set(columns)) == len(columns), "two names have a cell in common"
        assert block.names.cells_used > max(columns, default=-1), "cells of a name are in the list of free cells"
        labelled = [key for key in keys if is_labelled(key)]
        families = {block.names.family_of(key): family_key(key) for key in labelled}
        assert block.names.families >= len(families), "the number of families is wrong"
        all_names = len(keys) + block.names.families + block.names.removed
        assert all_names == block.names.count, "the number of names is wrong"
        for family, key in families.items():
            assert block.names.key(family.number) == key, f"the family {key!r} is not found at its place"
            members = sum(record.family == family.number for record in records)
            assert block.names.members(family) == members, "the number of a metric's series is wrong"
    return {
        key.decode().partition("\0")[2].replace("\0", "."): int(block.reader.value(record))
        for key, record in zip(keys, records, strict=True)
    }


def sums_are_right(*metrics: str) -> Callable[[Final], None]:
    """Return a check that each of these metrics was counted exactly, and that the table is valid."""

    def check(final: Final) -> None:
        assert not final.waiting, f"processes that never continue: {final.waiting}"
        sums = final.ask(table)
        notes = [note for one in final.notes for note in one]
        for metric in metrics:
            done, begun = notes.count(("done", metric)), notes.count(("begun", metric))
            value = sums.get(metric, 0)
            assert done <= value <= begun, f"{metric} is {value}, not from {done} to {begun}"

    return check


# Registering ---------------------------------------------------------------------------------------


def registering(core: Core, *metrics: str, index_slots: int = 8, by: Counting = count) -> None:
    """Make each process count some names, given with spaces between them."""
    scenario = Scenario(core, 4, 2, *processes(len(metrics)), index_slots=index_slots)
    scenario.attach(*range(len(metrics)))
    if by is count_at_once:
        scenario.before(0, count("there"))  # Python adds the first name of a page
    programs = [after(*map(by, each.split())) for each in metrics]
    # The check is a process that comes after all of them and repairs the table.
    scenario.explore(*programs, check=sums_are_right(*" ".join(metrics).split()), kills=len(metrics))


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("C", ("a", "a")),
        pytest.param("C", ("a b", "a"), marks=pytest.mark.thorough),
        pytest.param("C", ("a.l.x", "a.l.y"), marks=pytest.mark.thorough),
        ("Python", ("a", "a")),
        # The table is the same code over both cores.
        pytest.param("Python", ("a b", "a"), marks=pytest.mark.thorough),
        pytest.param("Python", ("a.l.x", "a.l.y"), marks=pytest.mark.thorough),
        pytest.param("C", ("a.l.x b", "a.l.y"), marks=pytest.mark.thorough),
    ],
)
def test_a_name_registered_by_several_at_once_is_there_once_and_exact(name: str, metrics: tuple[str, ...]) -> None:
    registering(Core(name), *metrics)


@pytest.mark.parametrize(
    "metrics",
    [("a", "a"), *(pytest.param(each, marks=pytest.mark.thorough) for each in [("a b", "a"), ("a.l.x", "a.l.y")])],
)
def test_a_name_registered_in_c_beside_others_is_there_once_and_exact(metrics: tuple[str, ...]) -> None:
    registering(Core("C"), *metrics, by=count_at_once)


@pytest.mark.parametrize("metrics", [("a", "b"), pytest.param(("a b", "b"), marks=pytest.mark.thorough)])
def test_a_growing_index_loses_no_name(metrics: tuple[str, ...]) -> None:
    registering(Core("C"), *metrics, index_slots=2)


REGISTERING_FAULTS = {
    "a name is added without a second lookup": Plant(
        "registering.py",
        "        record = names.find(key, 0 if outdated is None else digest(outdated))\n",
        "        record = None\n",
    ),
    "a name is counted before it is written": Plant(
        "_names_py.py",
        "            hashes.append(self.hash(key) ^ template[_DECLARATION])\n",
        "            hashes.append(self.hash(key) ^ template[_DECLARATION])\n"
        "            words[self._names_used] = number + 1\n",
    ),
    "an interrupted change is not marked": Plant(
        "_names_py.py",
        "        before = self._begin_change()\n        hashes = []",
        "        before = words[self._changing]\n        hashes = []",
    ),
    "an interrupted change is not marked, in C": Plant(
        "name_changes.h", "    PUT(NUMBER(names, CHANGING), 1);\n    STOP_POINT();\n", ""
    ),
    "an interrupted change is not repaired": Plant("repairing.py", "if not is_broken_off:", "if True:"),
    "names are registered without the table lock": Plant(
        "registering.py",
        "    with block.exclusive():\n        family",
        "    if True:\n        family",
    ),
}


@pytest.mark.parametrize("fault", one_for_every_day(REGISTERING_FAULTS))
def test_a_fault_of_registering_is_found(fault: str) -> None:
    plant = REGISTERING_FAULTS[fault]
    core = Core("C" if plant.is_of_c else "Python", plant)

    def try_all() -> None:
        for metrics in (("a", "a"), ("a.l.x", "a.l.y")):
            registering(core, *metrics)

    with pytest.raises(ViolationError) as caught:
        try_all()
    assert "raises" not in str(caught.value)


FAULTS_OF_C = {
    "a name is added without a second lookup": Plant(
        "registering.h",
        "    Outcome outcome = look(self, key->text, key->length, binding->hash, &number, name);\n",
        "    Outcome outcome = MISS;\n",
    ),
    "names are registered without the table lock": Plant("registering.h", "set_table_lock(self, F_WRLCK)", "1"),
    "an interrupted change is not repaired": Plant("registering.h", "GET(NUMBER(names, CHANGING)) != 0", "0"),
}


@pytest.mark.parametrize("fault", one_for_every_day(FAULTS_OF_C))
def test_a_fault_of_registering_at_once_is_found(fault: str) -> None:
    with pytest.raises(ViolationError):
        registering(Core("C", FAULTS_OF_C[fault]), "a", "a", by=count_at_once)


# Removing, and the generation ----------------------------------------------------------------------


def removing(core: Core, *programs: Callable[[Process], None], kills: int = 0) -> None:
    """Run programs on a block in which the last of them has already counted ``old``, in column 0."""
    scenario = Scenario(core, 2, 2, *processes(len(programs)))
    scenario.attach(*range(len(programs)))
    scenario.before(len(programs) - 1, count("old"))
    scenario.explore(*programs, check=sums_are_right("new"), kills=kills)


def one_after_the_other(core: Core) -> None:
    removing(core, after(remove("old"), count("new")), count_by_a_handle("old"), kills=1)


def one_killed_while_it_removes(core: Core) -> None:
    removing(core, remove("old"), count("new"), kills=1)


def one_comes_back(core: Core) -> None:
    removing(core, after(remove("old"), count("new")), count_by_a_handle("old", again=True))


REMOVING = [one_after_the_other, one_killed_while_it_removes, one_comes_back]


@pytest.mark.parametrize(
    ("name", "removal"),
    [
        ("C", one_after_the_other),
        ("C", one_comes_back),
        pytest.param("C", one_killed_while_it_removes, marks=pytest.mark.thorough),
        ("Python", one_after_the_other),
        ("Python", one_comes_back),
        pytest.param("Python", one_killed_while_it_removes, marks=pytest.mark.thorough),
    ],
)
def test_an_old_handle_never_counts_into_a_name_that_reuses_its_cells(
    name: str, removal: Callable[[Core], None]
) -> None:
    removal(Core(name))


@pytest.mark.thorough
@pytest.mark.parametrize("name", CORES)
def test_removing_registering_and_counting_at_once_never_hits_another_name(name: str) -> None:
    removing(Core(name), remove("old"), count("new"), count_by_a_handle("old"))


REMOVING_FAULTS = {
    "the generation is read before the lock is taken": Plant(
        "cell.h",
        "    if (UNLIKELY(!try_lock(cell, cells->owner)))\n        return 0;\n    STOP_POINT();\n"
        "    return is_still_bound(cells, cell, generation);",
        "    int is_bound = current(cells->generation) == generation;\n"
        "    if (!is_bound || !try_lock(cell, cells->owner))\n        return 0;\n    return 1;",
    ),
    "the generation is not checked": Plant(
        "cell.h",
        "    if (LIKELY(current(cells->generation) == generation))\n        return 1;\n    unlock(cell);",
        "    if (1)\n        return 1;\n    unlock(cell);",
    ),
    "the generation is not increased": Plant(
        "_names_py.py",
        "        self._longs[self._generation] = self._longs[self._generation] + 1 & UINT64_MAX\n",
        "",
    ),
    "the twin reads the generation before the lock": Plant(
        "_cells_py.py",
        "                self._descriptor = cells._locks.lock(FIRST_CELL + cell)\n",
        "                self._generation = None if self._generation == cells._generation[0] else -1\n"
        "                self._descriptor = cells._locks.lock(FIRST_CELL + cell)\n",
    ),
    "cells are reused without being cleared": Plant("names.py", "            self._stripes.clear(record)\n", ""),
    "a record is live before its name is written": Plant(
        "_names_py.py",
        "        self._block[self._heap + place : self._heap + place + len(key)] = key\n",
        '        self._store(number, "state", LIVE)\n'
        "        self._block[self._heap + place : self._heap + place + len(key)] = key\n",
    ),
}


@pytest.mark.parametrize("fault", one_for_every_day(REMOVING_FAULTS))
def test_a_fault_of_removing_is_found(fault: str) -> None:
    plant = REMOVING_FAULTS[fault]
    core = Core("C" if plant.is_of_c else "Python", plant)

    def try_all() -> None:
        for removal in REMOVING:
            removal(core)

    with pytest.raises(ViolationError) as caught:
        try_all()
    assert "raises" not in str(caught.value)
