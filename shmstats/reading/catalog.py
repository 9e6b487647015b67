"""The names of a block: a copy of its records and its heap, kept as long as the header's revision does not change.

What is derived from the copy is derived at its first use. If names were only added, what was derived
before is kept.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import compress

from ..block.declarations import decode_definition
from ..block.errors import DamagedBlockError
from ..block.layout import Layout
from ..block.records import CARRIED, DECLARED, MONOTONIC, note_in
from ..block.repairing import find_replaced
from ..bounds import DEFAULT_BOUNDS
from ..core import bulk, list_series
from ..layout import BEFORE_BUCKETS, NAME, REMOVED
from ..once import lazy_property
from ..series import FOREIGN, Declaration, Kind, Mode, Name, SeriesKey

_NOTHING_DECLARED = Declaration(Kind.COUNTER)

_KINDS = {int(kind): kind for kind in Kind}
_MODES = {int(mode): mode for mode in Mode}

#: The class of each mode, for `shmstats.core.list_series`.
_MODE_FORMS = bytes(
    0 if mode not in _MODES else 1 if mode == Mode.LAST or mode & 7 == Mode.SUM else 2 for mode in range(256)
)

#: Whether a record is a histogram, by its kind.
_ARE_HISTOGRAMS = bytes(kind == Kind.HISTOGRAM for kind in range(256))

#: Bytes of records that are compared at once.
_COMPARED = 64 * NAME.size

_GROUP = struct.Struct("<III")
_SPAN = struct.Struct("<II")


class Catalog:
    """The names of one revision, and the places of their values. It is immutable.

    Args:
        records: a copy of the block's records, as bytes.
        heap: a copy of its heap.
        columns: number of columns in use.
        former: an earlier catalog of the same block with decoded names; None for none.

    Attributes:
        records: as bytes.
        heap: contains their keys.
        group_of: the group of each record, from `shmstats.core.bulk`; in Python there are no groups.
        groups: first record, label names, and whether one is empty, of each group.
        label_sets: the lists of label names.
        numbers: the records of `names`: those of all series except gauges that are combined from contributions.
        cells: the first column of each of these.
        kinds: of these.
        widths: number of columns of each of these.
        aside: the records of gauges that are combined, except by sum.
        noted: the records of series that have room for a note.

    Raises:
        BufferError, LookupError, ValueError: a record is invalid.
    """

    def __init__(self, records: bytes, heap: bytes, columns: int, former: Catalog | None = None) -> None:
        self.records, self.heap = records, heap
        self._former = former
        self._declarations: dict[int, Declaration | None] = {}
        if bulk is not None:
            self.group_of, groups, self.label_sets = bulk.group_series(records, heap, FOREIGN.encode())
            self.groups: list[tuple[int, int, int]] = list(_GROUP.iter_unpack(groups))
        numbers, cells, widths, self.kinds, self._modes, aside, noted = list_series(records, _MODE_FORMS, columns)
        self.numbers, self.cells, self.widths = (memoryview(each).cast("I") for each in (numbers, cells, widths))
        self.aside, self.noted = _numbers(aside), _numbers(noted)
        if bulk is None:
            _ = self.names  # refuses invalid ones, as `group_series` does

    @lazy_property
    def names(self) -> list[Name]:
        """The names of `numbers`; names that the former catalog has decoded are reused."""
        former, self._former = self._former, None
        if former is None:
            return self.decoded(self.numbers)
        known = self._unchanged(former)
        fresh = [number for number in self.numbers if number not in known]
        known.update(zip(fresh, self.decoded(fresh), strict=True))
        return [known[number] for number in self.numbers]

    @lazy_property
    def keys(self) -> list[SeriesKey]:
        """Category, metric and labels of `numbers`."""
        places, lengths = NAME.column(self.records, "key").tolist(), NAME.column(self.records, "length").tolist()
        if self.has_names:
            return [name.key for name in self.names]
        try:
            return [_series_key(self.heap, places[number], lengths[number]) for number in self.numbers]
        except ValueError as error:
            raise DamagedBlockError(f"a name of the block is invalid: {error!r}") from error

    @property
    def has_names(self) -> bool:
        """Whether `names` has been asked for."""
        return "names" in self.__dict__

    @property
    def with_names(self) -> Catalog | None:
        """The last catalog with decoded names: this one, or a former one; None for none."""
        return self if self.has_names else self._former

    def _unchanged(self, former: Catalog) -> dict[int, Name]:
        """Return the names of a former catalog that are still right, by their records; none if declarations differ."""
        if any(self._declaration(family) != declared for family, declared in former._declarations.items()):
            return {}
        known = dict(zip(former.numbers, former.names, strict=True))
        for start in range(0, len(self.records), _COMPARED):
            if self.records[start : start + _COMPARED] != former.records[start : start + _COMPARED]:
                for number in range(start // NAME.size, (start + _COMPARED) // NAME.size):
                    known.pop(number, None)
        return known

    @lazy_property
    def sums(self) -> list[int]:
        """Positions in `numbers` of the gauges that are sums of contributions."""
        return _places_in(self._modes)

    @lazy_property
    def histograms(self) -> list[int]:
        """Positions in `numbers` of histograms."""
        return _places_in(self.kinds.translate(_ARE_HISTOGRAMS))

    @lazy_property
    def spans(self) -> bytes:
        """First columns and widths of histograms (u32)."""
        return b"".join([_SPAN.pack(self.cells[at], self.widths[at]) for at in self.histograms])

    @lazy_property
    def mixed(self) -> set[int]:
        """Groups of histograms with different widths."""
        group_of, found = memoryview(self.group_of).cast("I"), set()
        for at in self.histograms:
            group = group_of[self.numbers[at]]
            if group < len(self.groups) and self.width_of(self.groups[group][0]) != self.widths[at]:
                found.add(group)
        return found

    @lazy_property
    def combined(self) -> list[tuple[Name, int]]:
        """Names and first columns of `aside`."""
        cells = NAME.column(self.records, "cell")
        return list(zip(self.decoded(self.aside), [cells[number] for number in self.aside], strict=True))

    @property
    def saved(self) -> array[int]:
        """The records to save: no timestamps, gauges with a value for each worker, infos or states."""
        families = NAME.column(self.records, "family")
        found = array("I")
        for number, kind, mode in zip(self.numbers, self.kinds, self._modes, strict=True):
            if kind == Kind.TIMESTAMP or mode != Mode.LAST:
                continue
            if kind == Kind.GAUGE and (family := families[number]):
                declared = self._declaration(family - 1)
                if declared is not None and declared.shown:
                    continue
            found.append(number)
        return found

    @property
    def described(self) -> list[Name]:
        """A name of each saved metric that may have bounds, a help or a unit."""
        families, kinds = NAME.column(self.records, "family").tolist(), NAME.column(self.records, "kind")
        firsts: dict[tuple[bool, int], int] = {}
        for number in self.saved:
            is_histogram, family = kinds[number] == Kind.HISTOGRAM, families[number]
            if family or is_histogram:
                firsts.setdefault((is_histogram, family or -number), number)
        # Histograms last: label sets of an undeclared metric may differ in kind, and the last one is saved.
        return self.decoded([firsts[key] for key in sorted(firsts)])

    def position_of(self, key: bytes) -> int | None:
        """Return the position in `numbers` of the name with a key; None if there is none. The first are found fast."""
        places, lengths = NAME.column(self.records, "key"), NAME.column(self.records, "length")
        found = (
            position
            for position, number in enumerate(self.numbers)
            if lengths[number] == len(key) and self.heap.startswith(key, places[number])
        )
        return next(found, None)

    def position_of_record(self, number: int) -> int | None:
        """Return the position in `numbers` of a record; None if it is not among them."""
        position = bisect_left(self.numbers, number)
        return position if position < len(self.numbers) and self.numbers[position] == number else None

    def width_of(self, number: int) -> int:
        """Return the number of columns of a record's series."""
        return NAME.column(self.records, "width")[number]

    def modes_are_live(self, positions: list[int]) -> bytes:
        """Tell for series at some positions whether they are gauges of a live mode (u8 each)."""
        return bytes([self._modes[position] >= Mode.LIVEALL for position in positions])

    def decoded(self, numbers: Iterable[int]) -> list[Name]:
        """Return the names of some records.

        Raises:
            DamagedBlockError: a name or its declaration is invalid, or does not fit its number of cells.
        """
        numbers = list(numbers)
        try:
            names = _names_of(self.records, numbers, self.heap, self._declaration)
        except (LookupError, ValueError) as error:
            raise DamagedBlockError(f"a name of the block is invalid: {error!r}") from error
        for number, name in zip(numbers, names, strict=True):
            if name.kind is Kind.HISTOGRAM and len(name.bounds) + 1 + BEFORE_BUCKETS != self.width_of(number):
                raise DamagedBlockError(f"record {number} of the block has cells that do not fit its buckets")
        return names

    def _declaration(self, family: int) -> Declaration | None:
        if family not in self._declarations:
            try:
                self._declarations[family] = _declared(self.records, self.heap, family)
            except (LookupError, ValueError, struct.error) as error:
                raise DamagedBlockError(f"record {family} of the block has a declaration that cannot be") from error
        return self._declarations[family]


class NameReader:
    """Reads the names of a block, and their declarations.

    Args:
        buf: the block.
        layout: of the block.
    """

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self._columns = layout.columns
        self._records = buf[layout.names : layout.names + layout.capacity * NAME.size]
        self._heap = buf[layout.heap : layout.heap + layout.heap_bytes]
        self._last: tuple[tuple[int, int, int], Catalog] | None = None
        self._noted: tuple[tuple[int, int, int], list[tuple[Name, int]]] = ((-1, -1, -1), [])

    def close(self) -> None:
        """Release the buffer."""
        del self._records, self._heap

    def catalog(self, revision: int, count: int, heap: int, cells: int) -> Catalog:
        """Return the catalog of a revision, of the first ``count`` records; the previous one if it is still right.

        Args:
            revision: of the header.
            count: number of records.
            heap: bytes of the heap in use.
            cells: columns in use; a damaged header may say fewer of them than before.

        Raises:
            BufferError, LookupError, ValueError: a name was changed during the read, or is damaged.
        """
        last, columns = self._last, min(cells, self._columns)
        if last is not None and last[0] == (revision, count, columns):
            return last[1]
        records, heap_copy = bytes(self._records[: count * NAME.size]), bytes(self._heap[:heap])
        former = None if last is None else last[1].with_names
        catalog = Catalog(_with_replaced(records, heap_copy), heap_copy, columns, former)
        self._last = (revision, count, columns), catalog
        return catalog

    def unchanged(self, catalog: Catalog, number: int) -> bool:
        """Tell whether a record of a catalog has not changed; one that was removed and added again has."""
        place = slice(number * NAME.size, (number + 1) * NAME.size)
        return self._records[place] == catalog.records[place]

    def forget(self) -> None:
        """Copy all names again the next time."""
        self._last = None

    def notes(self, category: str | None, revision: int, count: int, used: int) -> list[tuple[Name, bytes]]:
        """Return the names of a category that have a note, with it; the note of a family is its declaration.

        Args:
            category: of the names; None for all.
            revision: of the header.
            count: records to look at.
            used: bytes of the heap in use, which a name's first note increases.
        """
        key = revision, count, used
        if self._noted[0] != key:
            self._noted = key, self._find_noted(*key)
        found = []
        for name, number in self._noted[1]:
            note = note_in(self._records, self._heap, number)
            if category in (None, name.category) and note:
                found.append((name, note))
        return found

    def _find_noted(self, revision: int, count: int, used: int) -> list[tuple[Name, int]]:
        """Return the names that have room for a note, with the numbers of their records."""
        last, records, heap = self._last, self._records[: count * NAME.size], self._heap
        if last is not None and (last[0][0], len(last[1].records), len(last[1].heap)) == (revision, len(records), used):
            noted = last[1].noted  # the common case: a page has just made its catalog
        else:
            noted = _numbers(list_series(records, _MODE_FORMS, self._columns)[-1])
        names = _names_of(records, noted, heap, cache(partial(_declared, records, heap)))
        return list(zip(names, noted, strict=True))


def _with_replaced(records: bytes, heap: bytes) -> bytes:
    """Return records as they are after the series prepared for a declaration have taken their places."""
    gone, successors = find_replaced(records, heap)
    if not gone and not successors:
        return records
    copy = bytearray(records)
    states, declarations = NAME.column(copy, "state"), NAME.column(copy, "declaration")
    for number in gone:
        states[number] = REMOVED
    for number in successors:
        declarations[number] = 0
    return bytes(copy)


def _numbers(words: bytes) -> list[int]:
    return memoryview(words).cast("I").tolist()


def _places_in(flags: bytes) -> list[int]:
    """Return the positions of set flags; fast if there are none, which is the common case."""
    return [*compress(range(len(flags)), flags)] if flags.strip(b"\0") else []


def _series_key(heap: bytes | memoryview, key: int, length: int) -> SeriesKey:
    category, metric, *rest = str(heap[key : key + length], "utf-8").split("\0")
    return category, metric, tuple(zip(rest[::2], rest[1::2], strict=True)) if rest else ()


def _names_of(
    records: bytes | memoryview,
    numbers: Iterable[int],
    heap: bytes | memoryview,
    declaration: Callable[[int], Declaration | None],
) -> list[Name]:
    """Return the names of some records."""
    names = []
    unpack, size, histogram = NAME.struct.unpack_from, NAME.size, int(Kind.HISTOGRAM)
    for number in numbers:
        _, kind, mode, flags, _, _, family, _, _, key, _, length, _, _, _, created = unpack(records, number * size)
        category, metric, labels = _series_key(heap, key, length)
        if family:
            declared = declaration(family - 1) or _NOTHING_DECLARED
            help_, unit, bounds, shown = declared.help, declared.unit, declared.bounds, declared.shown
        else:
            help_ = unit = shown = ""
            bounds = ()
        if kind == histogram:
            bounds = bounds or DEFAULT_BOUNDS
        monotonic, carried = flags & MONOTONIC == MONOTONIC, flags & CARRIED == CARRIED
        what = _KINDS[kind], labels, monotonic, bounds, help_, unit, _MODES[mode], created, shown, carried
        names.append(Name._make((category, metric, *what)))
    return names


def _declared(records: bytes | memoryview, heap: bytes | memoryview, number: int) -> Declaration | None:
    # A family gets its note before the flag that says that it is declared: a kill may come in between.
    is_declared = NAME.column(records, "flags")[number] & DECLARED
    note = note_in(records, heap, number) if is_declared else b""
    return decode_definition(note).declared if note else None
