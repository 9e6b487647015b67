"""The names of a block, decoded once and kept while the header's revision stands still.

What was only added since is added here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..block.declarations import decode_definition
from ..block.layout import NAME, Layout
from ..block.names import DEFAULT_BOUNDS, FAMILY, LIVE, MONOTONIC, read_note
from ..series import Declaration, Kind, Mode, Name

if TYPE_CHECKING:
    import numpy.typing as npt

_NOTHING_DECLARED = Declaration(Kind.COUNTER)

_KINDS = {int(kind): kind for kind in Kind}
_MODES = {int(mode): mode for mode in Mode}


class Catalog(NamedTuple):
    """The names of one revision, and where their values are.

    Attributes:
        revision: of the header.
        seen: records looked at.
        names: the live ones, but for those in ``combined``.
        cells: the first column of each.
        gauges: positions of gauges that all share, and of timestamps, in ``names``.
        sums: positions of gauges that are sums of contributions.
        histograms: of histograms: position, first column, width; by width.
        combined: of gauges that are something else of contributions: name, first column.
    """

    revision: int
    seen: int
    names: list[Name]
    cells: npt.NDArray[np.intp]
    gauges: list[int]
    sums: list[int]
    histograms: dict[int, list[tuple[int, int, int]]]
    combined: list[tuple[Name, int]]


def empty_catalog(revision: int) -> Catalog:
    """Return the catalog of a revision before any record was looked at."""
    return Catalog(revision, 0, [], np.empty(0, np.intp), [], [], {}, [])


class NameReader:
    """The names of a block, and what is declared about them.

    Args:
        buf: the block.
        layout: of the block.
    """

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self._buf = buf
        self._layout = layout
        self._names = np.frombuffer(buf, NAME, layout.capacity, layout.names)
        self._catalog = empty_catalog(-1)
        self._declarations: dict[int, Declaration | None] = {}

    def close(self) -> None:
        """Let go of the buffer."""
        del self._names, self._buf

    def catalog(self, revision: int, count: int) -> Catalog:
        """Return the names of a revision, of the first ``count`` records.

        Raises:
            LookupError, ValueError: a name was changed just now, or is damaged.
        """
        catalog = self._catalog
        if catalog.revision != revision:
            self._declarations = {}
            catalog = empty_catalog(revision)
        if catalog.seen != count:
            catalog = self._extended(catalog, count)
        self._catalog = catalog
        return catalog

    def forget(self) -> None:
        """Decode all names again the next time."""
        self._catalog = empty_catalog(-1)

    def declaration(self, family: int) -> Declaration | None:
        """Return what is declared about a metric, by the number of its family; None for nothing.

        What was read once is kept until `catalog` finds that names have changed.
        """
        if family < 0:
            return None
        declarations = self._declarations  # another thread, which reads too, may begin a new one meanwhile
        if family not in declarations:
            record = self._names[family]
            note = self._note(int(record["note"]), int(record["note_room"]))
            declarations[family] = decode_definition(note).declared if note else None
        return declarations[family]

    def notes(self, category: str, count: int) -> list[tuple[Name, bytes]]:
        """Return the names of a category that have a note, with it; a family's is what is declared.

        Args:
            category: of the names.
            count: records to look at.
        """
        records = self._names[:count]
        noted = np.flatnonzero(
            (records["state"] == LIVE)
            & (records["note_room"] > 0)
            & (records["flags"] & FAMILY == 0)
            & (records["declaration"] == 0)
        )
        found = []
        for name, record in zip(self._decoded(records[noted]), records[noted], strict=True):
            note = self._note(int(record["note"]), int(record["note_room"]))
            if name.category == category and note:
                found.append((name, note))
        return found

    def _extended(self, catalog: Catalog, count: int) -> Catalog:
        """Return a catalog with the records up to ``count`` added."""
        first = len(catalog.names)
        records = self._names[catalog.seen : count]
        shown = (records["state"] == LIVE) & (records["flags"] & FAMILY == 0) & (records["declaration"] == 0)
        records = records[shown]
        is_combined = (records["mode"] != Mode.LAST) & (records["mode"] & 7 != Mode.SUM)
        aside, records = records[is_combined], records[~is_combined]
        combined = list(zip(self._decoded(aside), aside["cell"].tolist(), strict=True))
        names = self._decoded(records)
        cells, kinds, modes = records["cell"].astype(np.intp), records["kind"], records["mode"]
        shared = (kinds == Kind.TIMESTAMP) | (kinds == Kind.GAUGE) & (modes == Mode.LAST)
        histograms = {width: list(found) for width, found in catalog.histograms.items()}
        for position in np.flatnonzero(kinds == Kind.HISTOGRAM).tolist():
            width = int(records["width"][position])
            histograms.setdefault(width, []).append((first + position, int(cells[position]), width))
        return Catalog(
            revision=catalog.revision,
            seen=count,
            names=[*catalog.names, *names],
            cells=np.concatenate((catalog.cells, cells)),
            gauges=catalog.gauges + (np.flatnonzero(shared) + first).tolist(),
            sums=catalog.sums + (np.flatnonzero(modes != Mode.LAST) + first).tolist(),
            histograms=histograms,
            combined=catalog.combined + combined,
        )

    def _decoded(self, records: npt.NDArray[Any]) -> list[Name]:
        """Return the names of records."""
        if not len(records):
            return []
        heap = bytes(self._buf[self._layout.heap : self._layout.heap + int((records["key"] + records["room"]).max())])
        columns = (records[field].tolist() for field in ("key", "length", "kind", "flags", "mode", "family", "created"))
        names = []
        for key, length, kind, flags, mode, family, created in zip(*columns, strict=True):
            category, metric, *rest = heap[key : key + length].decode().split("\0")
            labels = tuple(zip(rest[::2], rest[1::2], strict=True)) if rest else ()
            if family:
                declared = self.declaration(family - 1) or _NOTHING_DECLARED
                help_, unit, bounds = declared.help, declared.unit, declared.bounds
            else:
                help_ = unit = ""
                bounds = ()
            if kind == Kind.HISTOGRAM:
                bounds = bounds or DEFAULT_BOUNDS
            monotonic = flags & MONOTONIC == MONOTONIC
            what = _KINDS[kind], labels, monotonic, bounds, help_, unit, _MODES[mode], created
            names.append(Name(category, metric, *what))
        return names

    def _note(self, note: int, room: int) -> bytes:
        start = self._layout.heap + note
        return read_note(bytes(self._buf[start : start + room]))
