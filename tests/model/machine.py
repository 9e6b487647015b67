"""The machine of the explorer: the package's own code, loaded so that each access to shared state is a step.

`Core` loads the modules again, as they are or with a *planted* fault, and with substitutes for the block's memory
(`View`), `struct`, record locks (`fcntl`) and the C core's atomic operations (stepped.c). A step accesses at most 8
aligned bytes. Memory that no process writes, as `explore_block` finds out, is read without a step.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.machinery
import importlib.util
import os
import struct
import subprocess
import sys
import sysconfig
import tempfile
import types
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from explorer import Access, Ending, Explored, Steps, explore

import shmstats.block.errors
import shmstats.block.identity
import shmstats.block.layout
import shmstats.block.segment
import shmstats.bounds
import shmstats.layout
import shmstats.series
from shmstats.block.layout import FIRST_SLOT, HEADER, WORKER, Layout
from shmstats.layout import CELL, NAME

PACKAGE = Path(shmstats.layout.__file__).parent

#: Fills the memory behind the C core's addresses, which must never be read.
NONSENSE = b"\xa5"


# The machine ---------------------------------------------------------------------------------------


class State(NamedTuple):
    """The state that the processes share.

    Attributes:
        memory: the block.
        holders: the holder of each record lock, as (position, process).
        dead: processes that were killed.
    """

    memory: bytes
    holders: frozenset[tuple[int, int]]
    dead: frozenset[int]


class Identity(NamedTuple):
    """A process as the system identifies it.

    Attributes:
        pid: possibly that of an earlier process.
        after: another process, by whose death it is started; None: at once.
    """

    pid: int
    after: int | None = None


class _NewlyWritten(BaseException):
    """A word that was assumed to be constant is written."""


class BlockMachine:
    """The steps on a block and its record locks.

    Args:
        identities: of the processes.
        initial: the block's content at the beginning.
    """

    def __init__(self, identities: Sequence[Identity], initial: bytes) -> None:
        self._identities = identities
        self._initial = initial
        # For each word (8 bytes) that is written: the writers, and the record locks that all of them hold.
        self._writers: dict[int, frozenset[int]] = {}
        self._guards: dict[int, frozenset[int]] = {}
        self.left_out = False

    def known(self, access: Access) -> tuple[Any] | None:
        """Return a value loaded from memory that no process writes."""
        if access.kind != "load":
            return None
        if not self._writers.keys().isdisjoint(_words(*access.arguments)):
            return None
        return (_loaded(self._initial, *access.arguments),)

    def is_settled(self, state: State, index: int, access: Access, others: frozenset[int]) -> bool:
        """Return whether a loaded value cannot change: others never write it, or only with a lock that is held here."""
        if access.kind != "load":
            return False
        had = frozenset(position for position, holder in state.holders if holder == index)
        return all(
            self._writers.get(word, frozenset()).isdisjoint(others) or not had.isdisjoint(self._guards[word])
            for word in _words(*access.arguments)
        )

    def _note_writer(self, state: State, index: int, offset: int, size: int) -> None:
        """Restart the search if its assumption about the writers of a word was wrong.

        At once if a word was assumed to be constant; at its end if interleavings may have been left out.
        """
        had = frozenset(position for position, holder in state.holders if holder == index)
        for word in _words(offset, size):
            writers = self._writers.get(word)
            guards = self._guards.get(word, had)
            if writers is None or index not in writers or not guards <= had:
                self._writers[word], self._guards[word] = (writers or frozenset()) | {index}, guards & had
                self.left_out = True
                if writers is None:
                    raise _NewlyWritten

    def do(self, state: State, index: int, access: Access) -> tuple[Any, State] | None:
        """Do a step."""
        after = self._identities[index].after
        if after is not None and after not in state.dead:
            return None
        return getattr(self, f"_{access.kind}")(state, index, *access.arguments)

    def kill(self, state: State, index: int) -> State:
        """Take a process away, with the record locks that it has."""
        holders = frozenset(holder for holder in state.holders if holder[1] != index)
        return State(state.memory, holders, state.dead | {index})

    def _load(self, state: State, index: int, offset: int, size: int) -> tuple[Any, State]:
        return _loaded(state.memory, offset, size), state

    def _store(self, state: State, index: int, offset: int, size: int, value: int) -> tuple[None, State]:
        self._note_writer(state, index, offset, size)
        memory = state.memory
        stored = memory[:offset] + value.to_bytes(size, "little") + memory[offset + size :]
        return None, state._replace(memory=stored)

    def _exchange(
        self, state: State, index: int, offset: int, expected: int, desired: int
    ) -> tuple[tuple[int, int], State]:
        """Compare and swap a lock; return the values found in the lock and in the cell's seq."""
        found = _loaded(state.memory, offset, 4), _loaded(state.memory, offset + 4, 4)
        self._note_writer(state, index, offset, 4)
        if found[0] == expected:
            state = self._store(state, index, offset, 4, desired)[1]
        return found, state

    def _add(self, state: State, index: int, offset: int, size: int, n: int) -> tuple[int, State]:
        total = _loaded(state.memory, offset, size) + n
        return total, self._store(state, index, offset, size, total)[1]

    def _lock(self, state: State, index: int, position: int) -> tuple[None, State] | None:
        if any(held == position and holder != index for held, holder in state.holders):
            return None
        return None, state._replace(holders=state.holders | {(position, index)})

    def _unlock(self, state: State, index: int, position: int) -> tuple[None, State]:
        return None, state._replace(holders=state.holders - {(position, index)})

    def _try_lock(self, state: State, index: int, position: int) -> tuple[bool, State]:
        done = self._lock(state, index, position)
        return (False, state) if done is None else (True, done[1])

    def _held(self, state: State, index: int, position: int) -> tuple[bool, State]:
        return any(held == position and holder != index for held, holder in state.holders), state

    def _settle(
        self, state: State, index: int, offset: int, owners: tuple[tuple[int, int], ...]
    ) -> tuple[None, State] | None:
        """Wait until no live process writes the histogram whose seq is at this offset."""
        writer = dict(owners).get(_loaded(state.memory, offset - 4, 4))
        is_written = _loaded(state.memory, offset, 4) % 2 and writer is not None and writer not in state.dead
        return None if is_written else (None, state)

    def _pause(self, state: State, index: int, offset: int, word: int, owner: int | None) -> tuple[None, State] | None:
        """Wait until the taken lock has changed or its owner is dead: an earlier check has the same result."""
        changed = _loaded(state.memory, offset, 4) != word
        return (None, state) if changed or owner in state.dead else None


def _words(offset: int, size: int) -> range:
    return range(offset // 8, (offset + size + 7) // 8)


def _loaded(memory: bytes, offset: int, size: int) -> int:
    return int.from_bytes(memory[offset : offset + size], "little")


# Memory, as the package's code accesses it-----------------------------------------------------------


class View:
    """Stands for a memoryview of the block."""

    def __init__(self, steps: Steps, offset: int, length: int) -> None:
        self._steps, self._offset, self._length = steps, offset, length
        self._released = False

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            start, stop, step = key.indices(self._length)
            if step > 1:
                return bytes(self.load(at, 1) for at in range(start, stop, step))
            return View(self._steps, self._offset + start, max(0, stop - start))
        return self.load(key, 1)

    def __setitem__(self, key: int | slice, value: Any) -> None:
        if isinstance(key, slice):
            start, stop, _ = key.indices(self._length)
            content = bytes(value)
            assert len(content) == stop - start, "a memoryview keeps its size"
            self.write(start, content)
        else:
            self.store(key, 1, value)

    def __bytes__(self) -> bytes:
        return self.read(0, self._length)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and bytes(self) == other

    __hash__ = None  # type: ignore[assignment]

    def cast(self, code: str) -> Cast:
        """Stand for the same bytes as an array of numbers."""
        return Cast(self, code)

    def release(self) -> None:
        """Invalidate the view."""
        self._released = True

    def load(self, offset: int, size: int) -> int:
        """Load a number at once."""
        self._check()
        return self._steps.do("load", self._offset + offset, size, silent=True)  # type: ignore[no-any-return]

    def store(self, offset: int, size: int, value: int) -> None:
        """Store a number at once."""
        self._check()
        self._steps.do("store", self._offset + offset, size, value)

    def settle(self, offset: int, owners: tuple[tuple[int, int], ...]) -> None:
        """Wait until no live process writes the histogram whose seq is there."""
        self._steps.do("settle", self._offset + offset, owners, silent=True)

    def read(self, offset: int, length: int) -> bytes:
        """Load bytes, a piece at a time."""
        return b"".join(self.load(at, size).to_bytes(size, "little") for at, size in self._pieces(offset, length))

    def write(self, offset: int, content: bytes) -> None:
        """Store bytes, a piece at a time."""
        for at, size in self._pieces(offset, len(content)):
            self.store(at, size, int.from_bytes(content[at - offset : at - offset + size], "little"))

    def read_at_once(self, offset: int, length: int) -> bytes:
        """Load bytes in one step; a lock keeps them from changing."""
        self._check()
        found = self._steps.do("load", self._offset + offset, length, silent=True) if length else 0
        return found.to_bytes(length, "little")  # type: ignore[no-any-return]

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Return offset and size of each aligned piece that fits into one load or store."""
        end, pieces = offset + length, []
        while offset < end:
            size = min(8 - (self._offset + offset) % 8, end - offset)
            pieces.append((offset, size))
            offset += size
        return pieces

    def _check(self) -> None:
        if self._released:
            raise ValueError("operation forbidden on released memoryview object")


class Cast:
    """Stands for a memoryview that was cast to numbers."""

    def __init__(self, view: View, code: str) -> None:
        self._view, self._packed = view, struct.Struct(f"<{code}")
        self._size = self._packed.size

    def __len__(self) -> int:
        return len(self._view) // self._size

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return array(self._packed.format[-1], [self[each] for each in range(*index.indices(len(self)))])
        content = self._view.load(index * self._size, self._size).to_bytes(self._size, "little")
        return self._packed.unpack(content)[0]

    def __setitem__(self, index: int | slice, value: Any) -> None:
        if isinstance(index, slice):
            for each, number in zip(range(*index.indices(len(self))), value, strict=True):
                self[each] = number
        else:
            content = self._packed.pack(value)
            self._view.store(index * self._size, self._size, int.from_bytes(content, "little"))

    def release(self) -> None:
        """Invalidate the view."""
        self._view.release()


class FieldStruct:
    """Stands for a struct.Struct on a view: reads and writes field by field, and zeroes its target before a write."""

    def __init__(self, real: struct.Struct) -> None:
        self.size, self._real = real.size, real
        codes = real.format.lstrip("<")
        self._fields = [struct.Struct(f"<{code}") for code in _split(codes)]

    def pack(self, *values: Any) -> bytes:
        """Do as the method of Struct."""
        return self._real.pack(*values)

    def unpack(self, content: bytes) -> tuple[Any, ...]:
        """Do as the method of Struct."""
        return self._real.unpack(content)

    def iter_unpack(self, content: bytes) -> Any:
        """Do as the method of Struct."""
        return self._real.iter_unpack(content)

    def unpack_from(self, view: View, offset: int) -> tuple[Any, ...]:
        """Do as the method of Struct."""
        return self._real.unpack(view.read(offset, self.size))

    def pack_into(self, view: View, offset: int, *values: Any) -> None:
        """Do as the method of Struct."""
        view.write(offset, bytes(self.size))
        for field, value in zip(self._fields, values, strict=True):
            view.write(offset, field.pack(value))
            offset += field.size


def _split(codes: str) -> list[str]:
    """Take the format of a struct apart."""
    fields, number = [], ""
    for character in codes:
        if character.isdigit():
            number += character
        elif character == "s":
            fields.append(f"{number}s")
            number = ""
        else:
            fields += [character] * int(number or 1)
            number = ""
    return fields


class _Name:
    """Stands for the structure of a record in a walk over all records under the table lock: loaded at once."""

    def __getattr__(self, name: str) -> Any:
        return getattr(NAME, name)

    @staticmethod
    def column(view: View, field: str) -> memoryview:
        """Do as the method of `Structure`."""
        return NAME.column(view.read_at_once(0, len(view)), field)


# The package's code --------------------------------------------------------------------------------


class Plant(NamedTuple):
    """A fault to put into the package's source.

    Attributes:
        file: its name.
        old: the text to replace; it must occur exactly once.
        new: the replacement.
    """

    file: str
    old: str
    new: str

    @property
    def is_of_c(self) -> bool:
        """Whether it is one of the C core."""
        return self.file.endswith((".c", ".h"))


def one_for_every_day(faults: Iterable[str]) -> list[Any]:
    """Parameters of a test that finds faults: the first is everyday, the others are thorough."""
    first, *others = faults
    return [first, *(pytest.param(fault, marks=pytest.mark.thorough) for fault in others)]


class SmallLayout(Layout):
    """A layout without pages: the smallest memory for the model."""

    def __init__(self, capacity: int, max_workers: int) -> None:
        super().__init__(capacity, max_workers)
        self.row_bytes = self.columns * CELL.size
        self.workers = -(-HEADER.size // 16) * 16
        self.pages = self.workers + 4 * WORKER.size
        self.bitmap_bytes = 8
        self.index = self.pages + self.bitmap_bytes * self.rows
        self.index_slots = 8
        self.names = self.index + 4 * self.index_slots
        self.heap = self.names + capacity * NAME.size
        self.heap_bytes = 64
        self.cells = -(-(self.heap + self.heap_bytes) // 16) * 16
        self.size = self.cells + self.rows * self.row_bytes


class Core:
    """The modules of ``shmstats.block``, over the C core or its twin, with or without planted faults.

    Args:
        name: C or Python.
        plants: the faults.

    Attributes:
        block: the module of that name, and so on.
    """

    def __init__(self, name: str, *plants: Plant) -> None:
        self.name = name
        self.process: Process | None = None
        self._plants = plants
        with _modules_of_their_own() as package:
            self.workers = self._load(package, "block.workers")
            self.index = self._load(package, "core._names_py")
            section = self._load(package, "core._section_py")
            section._MOST_TRIES = 1  # a process killed in the model, by an exception, must not try again to unlock
            twin = self._load(package, "core._cells_py")
            self._stepped = _stepped(*(plant for plant in plants if plant.is_of_c)) if name == "C" else None
            handles = twin if self._stepped is None else self._stepped
            self.counter, self.gauge = handles.Counter, handles.Gauge
            self._load_cells(package, twin)
            self.lock = self._load(package, "block.lock")
            self.records = self._load(package, "block.records")
            self._load(package, "block.stripes")
            self._load(package, "block.names")
            self._load(package, "block.repairing")
            self.metrics = self._load(package, "block.metrics")
            self._load(package, "block.registering")
            self.columns = self._load(package, "reading.columns")
            self.histograms = self._load(package, "reading.histograms")
            self.reader = self._load(package, "reading.reader")
            self.block = self._load(package, "block.block")
        self._replace_the_world()

    def _load(self, package: str, name: str) -> Any:
        file = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
        module = types.ModuleType(f"{package}.{name}")
        module.__package__ = module.__name__.rpartition(".")[0]
        sys.modules[module.__name__] = module
        source = with_plants(file, tuple(plant for plant in self._plants if plant.file == file.name))
        exec(compile(source, str(file), "exec"), module.__dict__)
        return module

    def _load_cells(self, package: str, twin: Any) -> None:
        module: Any = sys.modules[f"{package}.core"]
        module.__dict__.update((name, thing) for name, thing in vars(twin).items() if not name.startswith("__"))
        module.bulk = None
        if self._stepped is not None:
            module.CORE, module.PROTOCOL, module.Cells = "C", 1, self._make_c_cells
            module.NameIndex = self._make_c_index

    def _replace_the_world(self) -> None:
        for module in (self.index, self.records, self.workers, self.block):
            for name, thing in list(vars(module).items()):
                if isinstance(thing, struct.Struct):
                    setattr(module, name, FieldStruct(thing))
        self.index.NAME = self.records.NAME = _Name()
        self.histograms._ATTEMPTS = 6  # enough for all steps of a model's writers
        self.workers.own_start_time = lambda: 7
        self.workers.has_mapped = lambda pid, file: False
        self.workers.pid_namespace = lambda: 0
        self.workers.os = types.SimpleNamespace(**vars(os) | {"getpid": lambda: self._current.identity.pid})
        self.workers.time = types.SimpleNamespace(monotonic_ns=lambda: 7)
        self.lock.fcntl = types.SimpleNamespace(
            lockf=self._lockf, LOCK_EX=fcntl.LOCK_EX, LOCK_UN=fcntl.LOCK_UN, LOCK_NB=fcntl.LOCK_NB
        )
        self.lock.is_locked = lambda descriptor, position: self._current.steps.do("held", position, silent=True)
        self.lock.guards = _Guards(self)
        self.block.remove_unpublished = lambda identity: None
        core = self

        class Locks(self.lock.RecordLocks):  # type: ignore[misc, name-defined]
            """The record locks, of a process that may have its slot from the beginning."""

            def __init__(self) -> None:
                super().__init__(os.devnull)
                self.close()
                worker = core._current.worker
                self.slots = set() if worker is None else {worker.slot}

            file = 0

            def descriptor(self) -> int:
                return self.file

            def reserve(self, offset: int, length: int) -> None:
                """Reserve memory, which always succeeds."""

            def _await_table(self) -> None:
                """Wait in one step: repeated checks would be endless steps."""
                self.lock(core.lock.TABLE)

            def stat(self) -> None:
                """There is no file."""

        class Workers(self.workers.WorkerTable):  # type: ignore[misc, name-defined]
            """The worker slots; a process may have taken its own before the beginning."""

            def claim(self) -> Any:
                return core._current.worker or super().claim()

        class Columns(self.columns.Columns):  # type: ignore[misc, name-defined]
            """The cells, all with memory, of a reader that waits for a writer to finish."""

            def __init__(self, view: View, layout: Layout) -> None:
                super().__init__(view, layout)
                self._view, self._owners, self._odd = view, tuple(core._current.owners.items()), 0

            def rows_of(self, cell: int, width: int = 1) -> list[int]:
                return list(range(self._layout.rows))

            def sequence(self, row: int, column: int) -> int:
                if self._odd >= 2:  # a reader that found the same writer twice would find it until the writer continues
                    offset = self._layout.cells + row * self._layout.row_bytes + column * CELL.size
                    self._view.settle(offset + CELL.offset("seq"), self._owners)
                found: int = super().sequence(row, column)
                self._odd = self._odd + 1 if found % 2 else 0
                return found

        class Reader(self.reader.BlockReader):  # type: ignore[misc, name-defined]
            """The reader, of these cells."""

            def __init__(self, view: View, layout: Layout, workers: Any) -> None:
                self.layout, self.workers = layout, workers
                self.columns = Columns(view, layout)
                self.histograms = core.histograms.Histograms(self.columns)

            def close(self) -> None:
                del self.columns, self.histograms

        class Attached(self.block.Block):  # type: ignore[misc, name-defined]
            """The block, with a reader."""

            def __init__(self, segment: _Segment, layout: Layout) -> None:
                super().__init__(segment, layout, types.SimpleNamespace(name="modelled"))
                self.reader = Reader(self._buf, layout, self.workers)

        self.Locks, self.Attached, self.metrics.WorkerTable = Locks, Attached, Workers

    @property
    def _current(self) -> Process:
        assert self.process is not None
        return self.process

    def _lockf(self, fd: int, command: int, length: int, position: int) -> None:
        assert length == 1
        if command == fcntl.LOCK_UN:
            self._current.steps.do("unlock", position)
        elif command & fcntl.LOCK_NB:
            if not self._current.steps.do("try_lock", position):
                raise BlockingIOError(errno.EAGAIN, "taken")
        else:
            assert command == fcntl.LOCK_EX
            self._current.steps.do("lock", position)

    # The C core.

    def registrar(self, block: Any) -> Any:
        """Return what registers names in C, open for a block."""
        assert self._stepped is not None
        scale = shmstats.bounds.scale_of((1.0,))
        registrar = self._stepped.Registrar({}, (), (), scale)
        registrar.open(block.names.index, block.cells, block.worker.row, 10, self._current.guard.lock, 0, 0)
        return registrar

    def _make_c_cells(self, buffer: View, **arguments: Any) -> Any:
        assert self._stepped is not None
        self._nonsense = memoryview(bytearray(NONSENSE * len(buffer)))
        self._stepped.watch(self._nonsense, self._c_step)
        self._sequences: set[int] = set()
        return self._stepped.Cells(self._nonsense, **arguments)

    def _make_c_index(self, buffer: View, *arguments: Any) -> Any:
        """Return the index of the names over the block that `_make_c_cells` watches."""
        assert self._stepped is not None
        return self._stepped.NameIndex(self._nonsense, *arguments)

    def _c_step(self, kind: str, offset: int, size: int, first: int, second: int) -> int:
        """Take a step of the C core."""
        steps = self._current.steps
        if kind == "load":
            found = steps.do("load", offset, size, silent=True)
            if size == 4:
                self._looked_at = offset, found
            return int(found)
        if kind == "store":
            steps.do("store", offset, size, first)
            if offset in self._sequences:
                self._nonsense[offset : offset + 4] = first.to_bytes(4, "little")
        elif kind == "exchange":
            return self._exchange(steps, offset, first, second)
        elif kind == "add":
            return int(steps.do("add", offset, size, first))
        elif kind in ("lock", "try_lock", "unlock"):
            return int(steps.do(kind, first) or 0)
        else:
            steps.do("pause", *self._looked_at, self._current.owners.get(self._looked_at[1]))
        return 0

    def _exchange(self, steps: Steps, offset: int, expected: int, desired: int) -> int:
        found, sequence = steps.do("exchange", offset, expected, desired)
        if found == expected:
            # Only the holder of the lock writes seq, so it reads seq without a step.
            self._sequences.add(offset + 4)
            self._nonsense[offset + 4 : offset + 8] = sequence.to_bytes(4, "little")
        return int(found)

    def check_nonsense(self) -> None:
        """Check that the C core has written nothing by a plain store."""
        if self._stepped is not None:
            for offset in self._sequences:
                self._nonsense[offset : offset + 4] = NONSENSE * 4
            assert self._nonsense == NONSENSE * len(self._nonsense), "a plain store to the block"


@contextmanager
def _modules_of_their_own() -> Any:
    """Load modules as a new package that uses the other modules of shmstats as usual."""
    package = "modelled"
    there = {
        package: types.ModuleType(package),
        f"{package}.series": shmstats.series,
        f"{package}.layout": shmstats.layout,
        f"{package}.block.errors": shmstats.block.errors,
        f"{package}.block.identity": shmstats.block.identity,
        f"{package}.block.layout": shmstats.block.layout,
        f"{package}.block.segment": shmstats.block.segment,
    }
    there[package].__path__ = [str(PACKAGE)]  # type: ignore[attr-defined]
    for room in ("core", "block", "reading"):
        there[f"{package}.{room}"] = types.ModuleType(f"{package}.{room}")
        there[f"{package}.{room}"].__path__ = [str(PACKAGE / room)]  # type: ignore[attr-defined]
    sys.modules.update(there)
    register, os.register_at_fork = os.register_at_fork, lambda **hooks: None
    try:
        yield package
    finally:
        os.register_at_fork = register
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


def with_plants(file: Path, plants: tuple[Plant, ...]) -> str:
    """Return a source with faults planted in it."""
    source = file.read_text()
    for plant in plants:
        assert source.count(plant.old) == 1, f"{file.name} has {plant.old!r} {source.count(plant.old)} times, not once"
        source = source.replace(plant.old, plant.new)
    return source


def copy_core(directory: Path, plants: Sequence[Plant] = ()) -> Path:
    """Copy the C core's sources, with faults planted in them; returns the one to compile."""
    for file in (PACKAGE / "core").glob("*.[ch]"):
        of_file = tuple(plant for plant in plants if plant.file == file.name)
        Path(directory, file.name).write_text(with_plants(file, of_file))
    return directory / "_cells.c"


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="shmstats-model-")


@cache
def _stepped(*plants: Plant) -> Any:
    """Compile and import stepped.c, with faults planted in the C core."""
    directory = Path(_directory().name, f"{len(os.listdir(_directory().name))}")
    directory.mkdir()
    copy_core(directory, plants)
    library = directory / "_stepped.so"
    include = sysconfig.get_paths()["include"]
    here = Path(__file__).with_name("stepped.c")
    command = [
        compiler(),
        "-shared",
        "-fPIC",
        "-O0",
        "-std=gnu11",
        "-w",
        f"-I{directory}",
        f"-I{include}",
        here,
    ]
    subprocess.run([*command, "-o", library], check=True)
    spec = importlib.util.spec_from_file_location(
        "_stepped", library, loader=importlib.machinery.ExtensionFileLoader("_stepped", str(library))
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiler() -> str:
    """Return the command of the C compiler."""
    return os.environ.get("CC") or "cc"


# Processes -----------------------------------------------------------------------------------------


class _Guards:
    """Holds the guard of the process that takes its step."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def current(self) -> Any:
        return self._core._current.guard


class _Segment:
    """The segment of an existing block that has all its memory."""

    name = "the model's"

    def __init__(self, view: View, locks: Any) -> None:
        self.buf, self.locks = view, locks

    def is_linked(self) -> bool:
        return True

    def close(self) -> None:
        """Unmap; views of the memory stay valid."""


class Process:
    """A process of the model, with its block attached.

    Args:
        core: its code.
        steps: that it takes.
        identity: of the process.
        layout: of the block.
        worker: its slot, if it has one from the beginning.
        owners: which process has which lock word.

    Attributes:
        block: the `Block`.
        locks: the `RecordLocks`.
        guard: of the process.
    """

    def __init__(
        self,
        core: Core,
        steps: Any,
        identity: Identity,
        layout: Layout,
        worker: Any,
        owners: dict[int, int],
    ) -> None:
        self.core, self.steps, self.identity, self.worker, self.owners = core, steps, identity, worker, owners
        self.view = View(steps, 0, layout.size)
        self.layout = layout
        core.process = self
        self.guard = core.lock.Guard()
        self.locks = core.Locks()

    def attach(self) -> Any:
        """Return the block, attached as by `Block._join`: under the table lock."""
        with self.locks.table():
            self.block = self.core.Attached(_Segment(self.view, self.locks), self.layout)
            self.core.block.repair(self.block.names)
        return self.block

    def had(self) -> Any:
        """Return the block that was attached before the beginning."""
        self.block = self.core.Attached(_Segment(self.view, self.locks), self.layout)
        return self.block


class _Direct:
    """Takes steps at once, before the search begins."""

    def __init__(self, machine: BlockMachine, index: int, state: State) -> None:
        self._machine, self._index, self.state = machine, index, state

    def do(self, kind: str, *arguments: Any, silent: bool = False) -> Any:
        while True:
            with suppress(_NewlyWritten):
                done = self._machine.do(self.state, self._index, Access(kind, arguments, silent))
                assert done is not None, f"process {self._index} waits before the beginning"
                result, self.state = done
                return result

    def note(self, *what: Hashable) -> None:
        """Ignore a note before the beginning."""


Program = Callable[[Process], object]


class Scenario:
    """A few processes on a block.

    Args:
        core: their code.
        capacity: cells of a row.
        max_workers: rows beside row 0.
        identities: of the processes; as many as there are programs.
        index_slots: of the index at the beginning; it can grow to 8.
    """

    def __init__(
        self, core: Core, capacity: int, max_workers: int, *identities: Identity, index_slots: int = 8
    ) -> None:
        self._core, self._identities = core, identities
        self.layout = SmallLayout(capacity, max_workers)
        header = HEADER.empty | {
            "capacity": capacity,
            "max_workers": max_workers,
            "index_slots": index_slots,
            "generation": 1,
            "revision": 1,
            "salt": b"0123456789abcdef",
        }
        self._memory = HEADER.struct.pack(*header.values()).ljust(self.layout.size, b"\0")
        for row in range(self.layout.rows):
            self._poke(self.layout.pages + row * self.layout.bitmap_bytes, b"\xff")
        self._workers: dict[int, Any] = {}

    def _poke(self, offset: int, content: bytes) -> None:
        self._memory = self._memory[:offset] + content + self._memory[offset + len(content) :]

    def before(self, index: int, program: Program) -> Any:
        """Run a function in a process before the search begins; the process keeps its slot."""
        machine = BlockMachine([identity._replace(after=None) for identity in self._identities], self._memory)
        direct = _Direct(machine, index, self._initial())
        process = self._process(direct, index)
        result = program(process)
        self._core.check_nonsense()
        self._workers[index] = process.block.worker
        self._memory = direct.state.memory
        return result

    def _initial(self) -> State:
        """Return the state at the beginning: each attached process holds the lock of its slot."""
        slots = frozenset((FIRST_SLOT + worker.slot, index) for index, worker in self._workers.items())
        return State(self._memory, slots, frozenset())

    def attach(self, *indexes: int) -> None:
        """Attach processes before the search begins."""
        for index in indexes:
            self.before(index, Process.attach)

    def explore(
        self,
        *programs: Program,
        check: Callable[[Final], object],
        kills: int = 0,
        mortal: Sequence[int] | None = None,
    ) -> Explored:
        """Go through every interleaving of the programs; see `explorer.explore`."""
        machine = self._machine()
        initial = self._initial()
        self._learn(machine, programs)

        def run(index: int) -> Callable[[Steps], None]:
            def program(steps: Steps) -> None:
                try:
                    programs[index](self._process(steps, index))
                finally:
                    self._core.check_nonsense()

            return program

        def check_ending(ending: Ending) -> None:
            check(Final(self, ending))

        all_programs = [run(index) for index in range(len(programs))]
        while True:
            machine.left_out = False
            with suppress(_NewlyWritten):
                explored = explore(all_programs, machine, initial, check_ending, kills, mortal)
                if not machine.left_out:
                    return explored

    def _machine(self) -> BlockMachine:
        return BlockMachine(self._identities, self._memory)

    def _learn(self, machine: BlockMachine, programs: Sequence[Program]) -> None:
        """Run the programs one after another so that the machine knows their writes: this saves restarts."""
        state = self._initial()
        for index, program in enumerate(programs):
            direct = _Direct(machine, index, state)
            with suppress(AssertionError):  # a program that others wait for may not end here
                program(self._process(direct, index))
                state = direct.state

    def _process(self, steps: Any, index: int) -> Process:
        owners = {worker.word: owner for owner, worker in self._workers.items()}
        return Process(self._core, steps, self._identities[index], self.layout, self._workers.get(index), owners)

    def read(self, memory: bytes, program: Program) -> Any:
        """Return a reader of a block, without a slot."""
        machine = BlockMachine([Identity(1)], memory)
        process = Process(
            self._core,
            _Direct(machine, 0, State(memory, frozenset(), frozenset())),
            Identity(1),
            self.layout,
            self._core.workers.Worker(0, 0, 0, 0, 0, 0, 0),
            {},
        )
        return program(process)


class Final:
    """An ending, with queries of its state.

    Attributes:
        notes: of each process.
        killed: the processes that were killed.
        waiting: the locks that are waited for, by process.
    """

    def __init__(self, scenario: Scenario, ending: Ending) -> None:
        self._scenario, self._state = scenario, ending.state
        self.notes, self.killed = ending.notes, ending.killed
        self.waiting = {
            index: access
            for index, access in ending.waiting.items()
            if scenario._identities[index].after in (None, *ending.killed)
        }

    def noted(self, index: int, what: str) -> int:
        """Return how often a process noted something."""
        return sum(note[0] == what for note in self.notes[index])  # type: ignore[index]

    def load(self, row: int, column: int) -> int:
        """Return the value in a cell."""
        offset = self._scenario.layout.cells + row * self._scenario.layout.row_bytes + column * CELL.size
        return int.from_bytes(self._state.memory[offset + 8 : offset + 16], "little", signed=True)

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """Return ``question(block)`` of a process that attaches after the end."""
        return self._scenario.read(self._state.memory, lambda process: question(process.had()))
