"""Pages in the text formats: `Renderer` makes them, and has C do most of a block's (`Skeleton`).

C writes lines for groups of series, and fills in the totals, in families whose samples cannot clash: the series of one
metric, in any number of categories, whose labels are shown unchanged. All other families are rendered by `TextLines`,
and put in their places. What follows from the names is made once for a catalog.
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from shmstats.core import bulk
from shmstats.export.naming import ExposedFamily, ExposedSeries, Namer, Type
from shmstats.export.page import (
    Member,
    PagePart,
    Pages,
    figure_members,
    figure_values,
    is_chosen,
    placed_exemplars,
    text_limits,
)
from shmstats.export.prometheus import OpenMetricsLines, TextLines, sample_text
from shmstats.export.view import PLAIN, View
from shmstats.layout import BEFORE_BUCKETS
from shmstats.reading.totals import BlockSnapshot
from shmstats.series import FOREIGN, STATE, Exemplar, Kind, Labels, Name, Snapshot, label_text

if TYPE_CHECKING:
    from shmstats.core._bulk import Bulk, GroupLines

#: Spellings of names that leave the text of labels unchanged.
_QUICK_ESCAPINGS = frozenset({"underscores", "allow-utf-8"})

_NO_RANK = 2**32 - 1

_ENDS = struct.Struct("<QQ")


class _Family:
    """A family of the page while it is planned.

    Attributes:
        groups: of series: number, first name, and whether the family's name is the plain form of the metric.
        quick: whether C can write it.
        others: members that are in no group.
    """

    def __init__(self, family: ExposedFamily) -> None:
        self.family = family
        self.groups: list[tuple[int, Name, bool]] = []
        self.quick = True
        self.others: list[Member] = []

    @property
    def numbers(self) -> list[int]:
        """The numbers of its groups."""
        return [group for group, _, _ in self.groups]

    def add(self, group: int, name: Name, is_plain: bool, quick: bool) -> None:
        """Add a group; one of another metric may have the same samples."""
        alike = not self.groups or self.groups[0][1].metric == name.metric
        self.quick = self.quick and quick and alike
        self.groups.append((group, name, is_plain))

    def add_other(self, member: Member) -> None:
        """Add a series that is in no group."""
        self.quick = False
        self.others.append(member)


#: Text and places of consecutive families that C fills in.
_Quick = tuple[memoryview, memoryview]


class Skeleton:
    """A page without its values.

    Args:
        bulk: what writes it.
        snapshot: the one that it is for.
        key: escaping, namespace and constant labels.
        form: the format.
        chosen: names of the families, or of their samples, to show; empty: all.
    """

    def __init__(
        self,
        bulk: Bulk,
        snapshot: BlockSnapshot,
        key: tuple[str, str, Labels],
        form: type[TextLines],
        chosen: frozenset[str],
    ) -> None:
        self._bulk = bulk
        self._names, self._catalog = snapshot.names, snapshot.names.catalog
        self._figures = (*snapshot.system, *snapshot.health)
        self._form = form
        self._namer = Namer(*key)
        families = [each for each in self._families().values() if is_chosen(each.family, chosen)]
        self._records: list[int] = []
        self._slow_records = self._records_of({group for each in families if not each.quick for group in each.numbers})
        slow = {each.family: list(self._members(each)) for each in families if not each.quick}
        found_at = [self._catalog.position_of_record(number) for number in self._records]
        self._positions = [position for position in found_at if position is not None]
        self._chunks = list(self._chunked(families, slow))

    def fits(self, snapshot: BlockSnapshot) -> bool:
        """Tell whether this is the page of a snapshot."""
        figures = (*snapshot.system, *snapshot.health)
        return snapshot.names is self._names and figures == self._figures

    def fill(self, snapshot: BlockSnapshot) -> bytes:
        """Return the text with the values of a snapshot."""
        totals = snapshot.values.totals
        values = [*snapshot.values.combined, *figure_values(snapshot), *totals.at(self._positions)]
        pieces = [(chunk.fill(values), b"") if isinstance(chunk, TextLines) else chunk for chunk in self._chunks]
        return self._bulk.fill_text(tuple(pieces), totals.cells)

    def series_of(self, name: Name) -> ExposedSeries:
        """Return the name of one of the page's series there."""
        slow = (chunk.part.series_of(name) for chunk in self._chunks if isinstance(chunk, TextLines))
        found = next(filter(None, slow), None)
        if found is None:
            family, is_plain = self._namer.family(name)
            found = ExposedSeries(family, self._namer.head(name, is_plain) + name.labels)
        return found

    def _families(self) -> dict[ExposedFamily, _Family]:
        """Return all families in the order of their first series."""
        catalog, namer = self._catalog, self._namer
        found: dict[ExposedFamily, _Family] = {}
        aside = set(catalog.aside)
        clean = dict(enumerate((True, *map(namer.leaves, catalog.label_sets))))
        names = catalog.decoded([first for first, _, _ in catalog.groups])
        for group, (name, (first, labels, has_empty)) in enumerate(zip(names, catalog.groups, strict=True)):
            if first in aside:
                continue
            family, is_plain = namer.family(name)
            # The label of a state has the name of the family.
            quick = not has_empty and clean.get(labels, False) and name.shown != STATE
            if name.kind is Kind.HISTOGRAM:
                width = BEFORE_BUCKETS + len(name.bounds) + 1
                quick = quick and group not in catalog.mixed and catalog.width_of(first) == width
            found.setdefault(family, _Family(family)).add(group, name, is_plain, quick)
        for position, name in enumerate(self._names.combined):
            if name.category == FOREIGN:
                continue
            family, _ = namer.family(name)
            place = Member(position, ExposedSeries(family, ()), name)
            found.setdefault(family, _Family(family)).add_other(place)
        for member in figure_members(namer, self._figures, len(self._names.combined)):
            found.setdefault(member.series.family, _Family(member.series.family)).add_other(member)
        return found

    def _members(self, family: _Family) -> Iterator[Member]:
        """Give the series of a family that is not quick, in their order; also collects their records."""
        numbers = sorted(number for group in family.numbers for number in self._slow_records[group])
        before = len(self._names.combined) + len(self._figures)
        for number, name in zip(numbers, self._catalog.decoded(numbers), strict=True):
            yield Member(before + len(self._records), self._namer.add(name), name)
            self._records.append(number)
        for member in family.others:
            is_combined = member.position < len(self._names.combined)
            yield member._replace(series=self._namer.add(member.name)) if is_combined else member

    def _records_of(self, groups: set[int]) -> dict[int, list[int]]:
        """Return the records of some groups."""
        found: dict[int, list[int]] = {group: [] for group in groups}
        for number, group in enumerate(memoryview(self._catalog.group_of).cast("I")) if groups else ():
            if group in groups:
                found[group].append(number)
        return found

    def _chunked(
        self, families: list[_Family], slow: dict[ExposedFamily, list[Member]]
    ) -> Iterator[_Quick | TextLines]:
        """Give the page in parts: consecutive quick families, and consecutive other families."""
        text, places, ends = self._planned([each for each in families if each.quick])
        start, rank = (0, 0), 0
        for is_quick, run in itertools.groupby(families, lambda each: each.quick):
            row = list(run)
            if is_quick:
                rank += len(row)
                end = ends[rank - 1]
                yield text[start[0] : end[0]], places[start[1] : end[1]]
                start = end
            else:
                yield self._form(PagePart([member for each in row for member in slow[each.family]]))

    def _planned(self, families: list[_Family]) -> tuple[memoryview, memoryview, list[tuple[int, int]]]:
        """Return text and places of quick families, and the ends of each of them."""
        catalog = self._catalog
        ranks = array("I", [_NO_RANK]) * len(catalog.groups)
        lines: list[GroupLines | None] = [None] * len(catalog.groups)
        for rank, each in enumerate(families):
            for group, name, is_plain in each.groups:
                ranks[group] = rank
                lines[group] = self._lines(each.family, name, is_plain)
        heads = tuple([self._form.header(each.family).encode() for each in families])
        records = catalog.records, catalog.heap, catalog.group_of
        text, places, ends = self._bulk.plan_text(*records, ranks.tobytes(), tuple(lines), heads)
        return memoryview(text), memoryview(places), [*_ENDS.iter_unpack(ends)]

    def _lines(self, family: ExposedFamily, name: Name, is_plain: bool) -> GroupLines:
        """Return the common parts of the lines of a group."""
        pairs = self._namer.head(name._replace(category="\0"), is_plain)

        def before(sample: str) -> bytes:
            return sample_text(sample, pairs).rpartition("\0")[0].encode()

        behind = sample_text("", pairs).rpartition("\0")[2].removesuffix("}").encode()
        created = self._form.created_name(family)
        made = before(created) if created else b""
        exposed = family.exposed_name
        if name.kind is not Kind.HISTOGRAM:
            return before(exposed), behind, made
        divisor, limits = text_limits(name)
        texts = tuple([(bucket, f',le="{limit}"'.encode()) for limit, bucket in limits.items()])
        buckets, total, count = (before(exposed + suffix) for suffix in ("_bucket", "_sum", "_count"))
        return buckets, behind, made, total, count, divisor, texts


class Renderer:
    """Renders snapshots, and keeps what follows from the names of the last one. Threads may share it, and may each
    make that.

    The counters and gauges in a snapshot must be ints and floats of Python, not numpy's.
    """

    def __init__(self) -> None:
        self._pages = Pages()
        self._skeletons: dict[tuple[type[TextLines], str, str, Labels], Skeleton] = {}

    def text(self, snapshot: Snapshot, view: View = PLAIN) -> bytes:
        """Return the page in the text format 0.0.4, or 1.0.0 if names are not cleaned.

        Raises:
            ValueError: the number of a histogram's buckets is not one more than its name's bounds.
        """
        return self._rendered(snapshot, view, view.escaping or "underscores", TextLines)[0]

    def text_utf8(self, snapshot: Snapshot, view: View = PLAIN) -> bytes:
        """Return the page in the text format 1.0.0, with names in UTF-8 unchanged.

        Raises:
            ValueError: as for `text`.
        """
        return self._rendered(snapshot, view, view.escaping or "allow-utf-8", TextLines)[0]

    def openmetrics(self, snapshot: Snapshot, view: View = PLAIN) -> bytes:
        """Return the page in OpenMetrics 1.0.0.

        Raises:
            ValueError: as for `text`.
        """
        page, series_of = self._rendered(snapshot, view, view.escaping or "underscores", OpenMetricsLines)
        if snapshot.exemplars:
            page = _with_exemplars(page, snapshot.exemplars, series_of)
        return page + b"# EOF\n"

    def _rendered(
        self, snapshot: Snapshot, view: View, escaping: str, form: type[TextLines]
    ) -> tuple[bytes, Callable[[Name], ExposedSeries | None]]:
        """Return the page, and a function that returns the name of a series there."""
        if bulk is not None and isinstance(snapshot, BlockSnapshot) and escaping in _QUICK_ESCAPINGS:
            skeleton = self._skeleton(bulk, snapshot, view, escaping, form)
            return skeleton.fill(snapshot), skeleton.series_of
        page = self._pages.of(snapshot, view, escaping)
        lines = page.made.get(form)
        if lines is None:
            lines = page.made[form] = form(page)
        return lines.fill(page.values(snapshot), view.names), page.series_of

    def _skeleton(
        self, bulk: Bulk, snapshot: BlockSnapshot, view: View, escaping: str, form: type[TextLines]
    ) -> Skeleton:
        key = escaping, view.namespace, view.labels
        if view.names:
            return Skeleton(bulk, snapshot, key, form, view.names)
        skeleton = self._skeletons.get((form, *key))
        if skeleton is None or not skeleton.fits(snapshot):
            skeleton = self._skeletons[form, *key] = Skeleton(bulk, snapshot, key, form, frozenset())
        return skeleton


#: The renderer that the whole process shares.
shared = Renderer()
render = shared.text


def _with_exemplars(
    page: bytes,
    noted: Sequence[tuple[Name, tuple[Exemplar, ...]]],
    series_of: Callable[[Name], ExposedSeries | None],
) -> bytes:
    """Return a page in OpenMetrics with exemplars after the samples that they belong to.

    The page is made without them, because they are few and change often; then the lines of their samples are searched.

    Args:
        page: without exemplars.
        noted: the series that have exemplars, with them.
        series_of: returns the name of a series on the page; None if it is not there.
    """
    found: dict[bytes, bytes] = {}
    for name, exemplars in noted:
        series = series_of(name)
        if series is None or series.family.type not in (Type.COUNTER, Type.HISTOGRAM):
            continue  # OpenMetrics allows none for a gauge, such as a counter that was decremented
        for suffix, labels, exemplar, value in placed_exemplars(name, exemplars):
            sample = sample_text(series.family.exposed_name + suffix, (*series.labels, *labels))
            found[sample.encode()] = f" # {{{label_text(exemplar.labels)}}} {value!r} {exemplar.moment!r}".encode()
    lines = page.split(b"\n")
    for i, line in enumerate(lines):
        exemplar_text = found.get(line.rpartition(b" ")[0])
        if exemplar_text is not None:
            lines[i] = line + exemplar_text
    return b"\n".join(lines)
