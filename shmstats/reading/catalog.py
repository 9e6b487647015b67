"""The names of a block: a copy of its records and its heap, kept while the header's revision stands still.

What is derived from the copy is derived when somebody asks for it; of names that were only added, what was derived
before is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..block.declarations import decode_definition
from ..block.layout import Layout
from ..block.notes import read_note
from ..block.ready import find_replaced
from ..block.records import FAMILY, MONOTONIC, READY
from ..bounds import DEFAULT_BOUNDS
from ..core import group_series
from ..layout import LIVE, NAME, REMOVED
from ..series import FOREIGN, Declaration, Kind, Mode, Name
from .lazy import lazy_property

if TYPE_CHECKING:
    import numpy.typing as npt

_NOTHING_DECLARED = Declaration(Kind.COUNTER)

_KINDS = {int(kind): kind for kind in Kind}
_MODES = {int(mode): mode for mode in Mode}
_IS_KIND, _IS_MODE = (np.isin(np.arange(256), list(known)) for known in (_KINDS, _MODES))


class Catalog:
    """The names of one revision, and where their values are. Nothing of it changes.

    Args:
        records: a copy of the block's records, as bytes.
        heap: a copy of its heap.
        columns: cells that the block has in a row.
        known: names of the first of these records, that are decoded already.

    Attributes:
        records: as bytes.
        heap: that their keys are in.
        group_of: the group of each record, as `shmstats.core.group_series` returns it.
        groups: first record, label names, and whether one is empty, of each group.
        label_sets: the label names that there are.
        numbers: the records of `names`: those of series but for gauges that are combined of contributions.
        cells: the first column of each of these.
        widths: how many columns each of these has.
        aside: the records of gauges that are combined, but for sums.

    Raises:
        BufferError, LookupError, ValueError: a record is not what it can be.
    """

    def __init__(self, records: bytes, heap: bytes, columns: int, known: list[Name]) -> None:
        self.records, self.heap = records, heap
        self._known = known
        self._declarations: dict[int, Declaration | None] = {}
        self._table = table = np.frombuffer(records, NAME)
        self.group_of, groups, self.label_sets = group_series(records, heap, FOREIGN.encode())
        self.groups: npt.NDArray[np.uint32] = np.frombuffer(groups, np.uint32).reshape(-1, 3)
        shown = (table["state"] == LIVE) & (table["flags"] & FAMILY == 0) & (table["declaration"] == 0)
        kinds, modes, widths = table["kind"], table["mode"], table["width"]
        is_known = _IS_KIND[kinds] & _IS_MODE[modes]
        within = (table["cell"].astype(np.int64) + widths <= columns) & (widths >= 2)
        if not (is_known & within | ~shown).all():
            raise BufferError("a record has a kind, a mode or cells that cannot be")
        combined = (modes != Mode.LAST) & (modes & 7 != Mode.SUM)
        self.aside: list[int] = np.flatnonzero(shown & combined).tolist()
        self.numbers: npt.NDArray[np.intp] = np.flatnonzero(shown & ~combined)
        self.cells: npt.NDArray[np.intp] = table["cell"][self.numbers].astype(np.intp)
        self._kinds, self._modes, self.widths = kinds[self.numbers], modes[self.numbers], widths[self.numbers]

    @lazy_property
    def names(self) -> list[Name]:
        """The names of `numbers`."""
        known, self._known = self._known, []
        return [*known, *self.decoded(self.numbers[len(known) :])]

    @property
    def known(self) -> list[Name]:
        """The first of the names, as far as they are decoded."""
        found: list[Name] = self.__dict__.get("names", self._known)
        return found

    @lazy_property
    def are_gauges(self) -> npt.NDArray[np.bool_]:
        """Whether each of `numbers` is a gauge or a timestamp."""
        found: npt.NDArray[np.bool_] = (self._kinds == Kind.TIMESTAMP) | (self._kinds == Kind.GAUGE)
        return found

    @lazy_property
    def sums(self) -> list[int]:
        """Positions in `numbers` of gauges that are sums of contributions."""
        found: list[int] = np.flatnonzero(self._modes != Mode.LAST).tolist()
        return found

    @lazy_property
    def spans(self) -> bytes:
        """First columns and widths of histograms (u32)."""
        spans = np.stack((self.cells, self.widths), axis=1)[self.are_histograms]
        return spans.astype(np.uint32).tobytes()

    @lazy_property
    def are_histograms(self) -> npt.NDArray[np.bool_]:
        """Whether each of `numbers` is a histogram."""
        found: npt.NDArray[np.bool_] = self._kinds == Kind.HISTOGRAM
        return found

    @lazy_property
    def needs_rows(self) -> bool:
        """Whether some gauges are combined of contributions."""
        return bool(self.aside or self.sums)

    @lazy_property
    def mixed(self) -> set[int]:
        """Groups whose series have different widths."""
        group_of = np.frombuffer(self.group_of, np.uint32)[self.numbers]
        known = group_of < len(self.groups)
        of_first = self._table["width"][self.groups[group_of[known], 0]]
        return set(group_of[known][self.widths[known] != of_first].tolist())

    @lazy_property
    def positions(self) -> npt.NDArray[np.intp]:
        """The position in `numbers` of each record; -1 for one that is not among them."""
        found = np.full(len(self._table), -1, np.intp)
        found[self.numbers] = np.arange(len(self.numbers))
        return found

    @lazy_property
    def combined(self) -> list[tuple[Name, int]]:
        """Names and first columns of `aside`."""
        cells = self._table["cell"][self.aside].tolist()
        return list(zip(self.decoded(np.array(self.aside, np.intp)), cells, strict=True))

    @property
    def saved(self) -> npt.NDArray[np.uint32]:
        """The records of what is saved: no timestamps, gauges of which each worker has its own, infos or states."""
        chosen = (self._kinds != Kind.TIMESTAMP) & (self._modes == Mode.LAST)
        families = self._table["family"][self.numbers]
        declared = {each: self._declaration(each - 1) for each in set(families[self.are_gauges].tolist()) if each}
        shown = np.zeros(len(self._table) + 1, np.bool_)
        shown[[each for each, what in declared.items() if what is not None and what.shown]] = True
        found: npt.NDArray[np.uint32] = self.numbers[chosen & ~shown[families]].astype(np.uint32)
        return found

    @property
    def described(self) -> list[Name]:
        """A name of each metric that has bounds or a declaration with a help or a unit, and is saved."""
        numbers = self.saved.astype(np.intp)
        families, kinds = self._table["family"][numbers], self._table["kind"][numbers]
        _, firsts = np.unique(families, return_index=True)
        alone = numbers[(families == 0) & (kinds == Kind.HISTOGRAM)]
        found = self.decoded(np.concatenate((numbers[firsts], alone)))
        return [name for name in found if name.bounds or name.help or name.unit]

    def position_of(self, key: bytes) -> int | None:
        """Return the position in `numbers` of the name with a key; None where there is none."""
        place = self.heap.find(key)
        while place >= 0:
            fits = (self._table["key"][self.numbers] == place) & (self._table["length"][self.numbers] == len(key))
            for position in np.flatnonzero(fits).tolist():
                return int(position)
            place = self.heap.find(key, place + 1)
        return None

    def width_of(self, number: int) -> int:
        """Return how many columns the series of a record has."""
        return int(self._table["width"][number])

    def modes_are_live(self, positions: list[int]) -> npt.NDArray[np.bool_]:
        """Tell which series at some positions are gauges of a live mode."""
        found: npt.NDArray[np.bool_] = self._modes[positions] >= Mode.LIVEALL
        return found

    def decoded(self, numbers: npt.NDArray[np.intp]) -> list[Name]:
        """Return the names of some records."""
        return _names_of(self._table[numbers], self.heap, self._declaration)

    def _declaration(self, family: int) -> Declaration | None:
        if family not in self._declarations:
            self._declarations[family] = _declared(self._table[family], self.heap, 0)
        return self._declarations[family]


class NameReader:
    """Reads the names of a block, and what is declared about them.

    Args:
        buf: the block.
        layout: of the block.
    """

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self._buf = buf
        self._layout = layout
        self._names = np.frombuffer(buf, NAME, layout.capacity, layout.names)
        self._last: tuple[int, Catalog] | None = None
        self._declarations: tuple[int, dict[int, Declaration | None]] = (-1, {})
        self._noted: tuple[tuple[int, int, int], list[tuple[Name, int]]] = ((-1, -1, -1), [])

    def close(self) -> None:
        """Let go of the buffer."""
        del self._names, self._buf

    def catalog(self, revision: int, count: int, heap: int) -> Catalog:
        """Return the names of a revision, of the first ``count`` records; the same as the last time if it can be.

        Raises:
            BufferError, LookupError, ValueError: a name was changed just now, or is damaged.
        """
        last = self._last
        if last is not None and last[0] == revision and len(last[1].group_of) == 4 * count:
            return last[1]
        layout = self._layout
        records = bytes(self._buf[layout.names : layout.names + min(count, layout.capacity) * NAME.itemsize])
        heap_copy = bytes(self._buf[layout.heap : layout.heap + min(heap, layout.heap_bytes)])
        known = last[1].known if last is not None and last[0] == revision else []
        records = _with_replaced(records, heap_copy)
        catalog = Catalog(records, heap_copy, layout.columns, known)
        self._last = revision, catalog
        return catalog

    def unchanged(self, catalog: Catalog) -> npt.NDArray[np.bool_]:
        """Tell of each record of a catalog whether it is as it was: one that was removed and added again is not."""
        before = np.frombuffer(catalog.records, np.uint8).reshape(-1, NAME.itemsize)
        return (self._names[: len(before)].view(np.uint8).reshape(before.shape) == before).all(axis=1)  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Copy all names again the next time."""
        self._last = None

    def declaration(self, family: int, revision: int) -> Declaration | None:
        """Return what is declared about a metric, by the number of its family; None for nothing.

        What was read once is kept as long as the revision stays.
        """
        if family < 0:
            return None
        if self._declarations[0] != revision:
            self._declarations = revision, {}
        return self._declared_last(family)

    def _declared_last(self, family: int) -> Declaration | None:
        declarations = self._declarations[1]  # another thread, which reads too, may begin a new one meanwhile
        if family not in declarations:
            declarations[family] = _declared(self._names[family], self._buf, self._layout.heap)
        return declarations[family]

    def notes(self, category: str | None, revision: int, count: int, used: int) -> list[tuple[Name, bytes]]:
        """Return the names of a category that have a note, with it; a family's is what is declared.

        Args:
            category: of the names; None for all.
            revision: of the header.
            count: records to look at.
            used: bytes of the heap in use: a name's first note makes them more.
        """
        key = revision, count, used
        if self._noted[0] != key:
            self._noted = key, self._find_noted(count)
        found = []
        for name, number in self._noted[1]:
            note = _note(self._names[number], self._buf, self._layout.heap)
            if category in (None, name.category) and note:
                found.append((name, note))
        return found

    def _find_noted(self, count: int) -> list[tuple[Name, int]]:
        """Return the names that have a place for a note, with the number of the record."""
        records = self._names[:count]
        noted = np.flatnonzero(
            (records["state"] == LIVE)
            & (records["note_room"] > 0)
            & (records["flags"] & FAMILY == 0)
            & (records["declaration"] == 0)
        )
        if not len(noted):
            return []
        heap = bytes(self._buf[self._layout.heap :][: int((records["key"] + records["room"]).max(initial=0))])
        return list(zip(_names_of(records[noted], heap, self._declared_last), noted.tolist(), strict=True))


def _with_replaced(records: bytes, heap: bytes) -> bytes:
    """Return records as they are once the series that are ready for a declaration have their places."""
    table = np.frombuffer(records, NAME)
    if not (table["flags"] & READY).any():
        return records
    table = table.copy()
    keys = [heap[start : start + length] for start, length in table[["key", "length"]].tolist()]
    former, successors, unused = find_replaced(table, keys.__getitem__, lambda number: _note(table[number], heap, 0))
    table["state"][former + unused] = REMOVED
    table["declaration"][successors] = 0
    return table.tobytes()


def _names_of(records: npt.NDArray[Any], heap: bytes, declaration: Callable[[int], Declaration | None]) -> list[Name]:
    """Return the names of records."""
    columns = (records[field].tolist() for field in ("key", "length", "kind", "flags", "mode", "family", "created"))
    names = []
    for key, length, kind, flags, mode, family, created in zip(*columns, strict=True):
        category, metric, *rest = heap[key : key + length].decode().split("\0")
        labels = tuple(zip(rest[::2], rest[1::2], strict=True)) if rest else ()
        if family:
            declared = declaration(family - 1) or _NOTHING_DECLARED
            help_, unit, bounds, shown = declared.help, declared.unit, declared.bounds, declared.shown
        else:
            help_ = unit = shown = ""
            bounds = ()
        if kind == Kind.HISTOGRAM:
            bounds = bounds or DEFAULT_BOUNDS
        monotonic = flags & MONOTONIC == MONOTONIC
        what = _KINDS[kind], labels, monotonic, bounds, help_, unit, _MODES[mode], created, shown
        names.append(Name(category, metric, *what))
    return names


def _note(record: Any, heap: bytes | memoryview, offset: int) -> bytes:
    """Return the note of a record; ``offset`` is where the heap begins."""
    start = offset + int(record["note"])
    return read_note(bytes(heap[start : start + int(record["note_room"])]))


def _declared(record: Any, heap: bytes | memoryview, offset: int) -> Declaration | None:
    note = _note(record, heap, offset)
    return decode_definition(note).declared if note else None
