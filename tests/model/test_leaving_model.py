"""Leaving, attaching and counting, by every interleaving: the last process saves and removes the block, the next one
creates another from the snapshot, and a kill at any step loses nothing.

The code is that of `Block.attach` and `Block.leave`. Beside the blocks and their record locks the model has two words:
the number of the block in the place (set by a rename that replaces nothing, cleared by an unlink), and the saved total.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from explorer import ViolationError
from machine import Core, Final, Identity, Plant, Process, Scenario, View, _Segment

from shmstats.block.layout import HEADER, LAYOUT_VERSION, MAGIC
from shmstats.layout import CELL, PAGE
from shmstats.series import Kind

KEY = b"c\0m"
#: Distance between the locks of two files.
_FAR = 2**64


class Place:
    """The place of the block, and the saved total.

    Args:
        offset: of the two words in the memory of the model.
    """

    def __init__(self, offset: int) -> None:
        self.block, self.saved = offset, offset + 8


class Lasting(View):
    """The memory of a block, which is still read for the last save after its cells are closed."""

    def release(self) -> None:
        """Keep the memory."""


class Segment(_Segment):
    """The segment of one of several blocks, in the place or not."""

    size, path = PAGE, "the place"

    def __init__(self, process: Leaver, number: int) -> None:
        locks = process.core.Locks()
        locks.file = number
        if number:
            locks.slots = set()
        size = process.layout.size
        super().__init__(Lasting(process.steps, number * size, size), locks)
        self._process, self._number = process, number

    def is_linked(self) -> bool:
        return self._process.linked() == self._number + 1

    def publish(self, path: str) -> None:
        """Take the place, if it is free."""
        place = self._process.place.block
        if self._process.steps.do("exchange", place, 0, self._number + 1)[0]:
            raise FileExistsError

    def set_aside(self, suffix: str) -> str:
        """Give up the place."""
        self._process.unlink(self.path)
        return suffix


class Leaver(Process):
    """A process that attaches the block of the place, counts, and leaves."""

    place: Place
    number: int

    def linked(self) -> int:
        """Return the number of the block in the place, and 1 more; 0 for none."""
        return int(self.steps.do("load", self.place.block, 4, silent=True))

    def unlink(self, path: str) -> None:
        self.steps.do("store", self.place.block, 4, 0)

    def had(self) -> Any:
        self.block = self.core.AtPlace(Segment(self, 0), self.layout, self.core.identity)
        return self.block

    def come(self) -> Any:
        """Return the block of the place, found or created."""
        self.block = self.core.AtPlace.attach(Path(), 4, 2, self.fill)
        return self.block

    def fill(self, block: Any) -> None:
        """Fill a new block from the snapshot."""
        if not block.is_new:
            return
        saved = self.steps.do("load", self.place.saved, 8)
        if saved:
            block.cells.add(0, block.names.find(KEY).cell, saved, block.cells.generation)

    def count(self) -> None:
        block = self.block
        self.steps.note("begun")
        assert block.cells.add(block.worker.row, block.names.find(KEY).cell, 1, block.cells.generation)
        self.steps.note("done")

    def save(self, block: Any) -> None:
        cells, layout = block.names.find(KEY).cell, self.layout
        rows = range(layout.rows)
        places = [layout.cells + row * layout.row_bytes + cells * CELL.size + 8 for row in rows]
        total = sum(block._buf.load(place, 8) for place in places)
        self.steps.do("store", self.place.saved, 8, total)


class PlaceCore(Core):
    """The code, with a place for blocks."""

    identity = SimpleNamespace(name="modelled", segment="the place", check_user=lambda: None, is_current=lambda: True)

    def _replace_the_world(self) -> None:
        super()._replace_the_world()
        core, block, attaching = self, self.block, self.block.attaching
        self.lock.is_locked = lambda descriptor, position, length=1: self._current.steps.do(
            "held", position + descriptor * _FAR, silent=True
        )
        for module in (block, attaching):
            module.guards = self.lock.guards
            module.unlink = lambda path: self._current.unlink(path)  # type: ignore[attr-defined]
        block.identify = lambda directory, make: self.identity
        block.attach_segment = lambda identity: self._found()
        block.make_segment = lambda identity, size: Segment(self._current, self._current.number)  # type: ignore[arg-type, attr-defined]
        block.os = SimpleNamespace(path=SimpleNamespace(lexists=lambda path: self._current.linked() != 0))  # type: ignore[attr-defined]
        block.Layout = lambda capacity, max_workers: self._current.layout
        block.mark_inherited = lambda names: None
        block.damage_named = lambda segment, layout: nullcontext()
        attaching.retire_legacy = lambda identity: None
        attaching.lay_out = lambda segment, layout: None  # an unpublished block has all its memory
        attaching.read_header = _fields
        attaching.check_layout = lambda name, header, size: self._current.layout
        attaching.find_damage = lambda buf, layout: ""
        attaching.pid_namespace = lambda: 0
        attaching.tell = lambda text, level=0: None

        class AtPlace(self.Attached):  # type: ignore[misc, name-defined]
            """The block, of a place."""

            def __init__(self, segment: Segment, layout: Any, identity: Any) -> None:
                super().__init__(segment, layout)
                self.identity = core.identity

        self.AtPlace = AtPlace

    def _found(self) -> Segment | None:
        found = self._current.linked()  # type: ignore[attr-defined]
        return Segment(self._current, found - 1) if found else None  # type: ignore[arg-type]

    def _lockf(self, fd: int, command: int, length: int, position: int) -> None:
        super()._lockf(fd, command, length, position + fd * _FAR)


def _fields(view: View) -> dict[str, Any]:
    """Read the header, field by field."""
    found: dict[str, Any] = {}
    for field, (offset, size) in HEADER.fields.items():
        content = view.read(offset, size)
        found[field] = content if isinstance(HEADER.empty[field], bytes) else int.from_bytes(content, "little")
    return found


class Leaving(Scenario):
    """Processes at a place: a block that the first has attached, and one that each may create."""

    def __init__(self, core: PlaceCore, *identities: Identity) -> None:
        super().__init__(core, 4, 2, *identities)
        for field, value in {"layout_version": LAYOUT_VERSION, "protocol": 2}.items():
            self._put(field, value)
        self.before(0, lambda process: Process.attach(process).find_or_add(KEY, Kind.COUNTER))
        used = self._memory
        self._memory = used[: self.layout.workers] + bytes(self.layout.pages - self.layout.workers)
        self._memory += used[self.layout.pages :]
        self._put("slots", 0)
        self._put("claims", 0)
        blank, self._memory = self._memory, used
        self._put("finished", 1)
        self._put("magic", MAGIC)
        self._memory += blank * len(identities)
        self.place = Place(len(self._memory))
        self._memory += (1).to_bytes(8, "little") + bytes(8)

    def _put(self, field: str, value: int) -> None:
        offset, size = HEADER.fields[field]
        self._poke(offset, value.to_bytes(size, "little"))

    def _process(self, steps: Any, index: int) -> Process:
        owners = {worker.word: owner for owner, worker in self._workers.items()}
        who = self._identities[index]
        process = Leaver(self._core, steps, who, self.layout, self._workers.get(index), owners)
        process.number = index + 1
        process.place = getattr(self, "place", Place(0))
        return process

    def total(self, final: Final) -> int:
        """Return the total that the next process finds: that of the block in the place, else the saved one."""
        memory, size, layout = final._state.memory, self.layout.size, self.layout
        place = int.from_bytes(memory[self.place.block : self.place.block + 4], "little")
        start = (place - 1) * size
        if not place or not int.from_bytes(memory[start : start + 8], "little"):
            return int.from_bytes(memory[self.place.saved : self.place.saved + 8], "little")
        cells = (start + layout.cells + row * layout.row_bytes + 8 for row in range(layout.rows))
        return sum(int.from_bytes(memory[cell : cell + 8], "little") for cell in cells)


def leave(process: Any) -> None:
    process.had()
    process.count()
    process.block.leave(process.save)


def come_and_leave(process: Any) -> None:
    process.come()
    process.count()
    process.block.leave(process.save)


def come(process: Any) -> None:
    process.come()
    process.count()


def leaving(core: PlaceCore, *programs: Callable[[Any], None], kills: int = 1) -> None:
    scenario = Leaving(core, *(Identity(10 + index) for index in range(len(programs))))

    def check(final: Final) -> None:
        assert not final.waiting, f"processes that never continue: {final.waiting}"
        everyone = range(len(programs))
        done, begun = (sum(final.noted(index, what) for index in everyone) for what in ("done", "begun"))
        assert done <= scenario.total(final) <= begun, f"{scenario.total(final)} is not from {done} to {begun}"

    scenario.explore(*programs, check=check, kills=kills)


@pytest.mark.parametrize("programs", [pytest.param((leave, come_and_leave), marks=pytest.mark.thorough), (leave, come)])
def test_leaving_while_another_process_attaches_loses_and_doubles_nothing(programs: Any) -> None:
    leaving(PlaceCore("Python"), *programs)


FAULTS = {
    "an attaching process does not check that the block is in place": Plant(
        "block.py",
        "                if segment.is_linked():\n                    try:",
        "                if True:\n                    try:",
    ),
    "the block is removed while others are attached": Plant(
        "block.py", "        if not self.workers.anyone():\n", "        if True:\n"
    ),
    "a leaving process takes no lock": Plant(
        "block.py",
        "        with self.locks.table():\n            try:\n                with self.damage_named():",
        "        if True:\n            try:\n                with self.damage_named():",
    ),
    "the block is removed before it is saved": Plant(
        "block.py",
        "            if self.is_current():\n                save(self)\n",
        "            unlink(self._segment.path)\n            save(self)\n",
    ),
    "a new block is whole before it is filled": Plant(
        "block.py",
        "                    fill(block)\n                    attaching.finish(segment)\n",
        "                    attaching.finish(segment)\n                    fill(block)\n",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_leaving_is_found(fault: str) -> None:
    with pytest.raises(ViolationError) as caught:
        leaving(PlaceCore("Python", FAULTS[fault]), leave, come_and_leave)
    assert "raises" not in str(caught.value)
