"""The fast way to a page in a text format: C writes lines for groups of series, and fills in the totals.

It is for families of a block's snapshot whose samples cannot clash: the series of one metric, in any number of
categories, whose labels are shown unchanged. All other families are rendered in the usual way, and put in their places.
What follows from the names is made once for a catalog.
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from shmstats.core import fill_text, plan_text
from shmstats.export.naming import ExposedFamily, ExposedSeries, Namer
from shmstats.export.page import Member, names_of_samples, system_values
from shmstats.export.view import View
from shmstats.frozen import NamedTuple
from shmstats.layout import BEFORE_BUCKETS
from shmstats.lazy import lazy_property
from shmstats.reading.totals import BlockSnapshot
from shmstats.series import STATE, Kind, Labels, Name

#: Spellings of names that leave the text of labels unchanged.
ESCAPINGS = frozenset({"underscores", "allow-utf-8"})

#: The kinds that C can write.
_KINDS = frozenset({Kind.COUNTER, Kind.GAUGE, Kind.TIMESTAMP, Kind.HISTOGRAM})

_NO_RANK = 2**32 - 1

_ENDS = struct.Struct("<QQ")

#: The form that `shmstats.core.plan_text` takes.
GroupLines = tuple[bytes, bytes, bytes] | tuple[bytes, bytes, bytes, bytes, bytes, int, tuple[tuple[int, bytes], ...]]


class Lines(Protocol):
    """The lines of a page in a text format."""

    def __init__(self, page: Any, parent: Any) -> None: ...

    def fill(self, page: Any, values: list[Any], chosen: frozenset[str]) -> bytes:
        """Return the text with values."""

    @staticmethod
    def header(family: ExposedFamily) -> str:
        """Return the lines before a family."""

    @staticmethod
    def created_name(family: ExposedFamily) -> str:
        """Return the name of the samples with creation times; "" if there are none."""

    @staticmethod
    def sample_text(name: str, pairs: Labels) -> str:
        """Return the name and the labels of a sample."""

    @staticmethod
    def limits(name: Name) -> tuple[int, dict[str, int]]:
        """Return the divisor of a histogram's sum, and limit and number of each bucket line."""


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


class _Part:
    """Consecutive families that C cannot write, as a page for `Lines`."""

    def __init__(self, members: list[Member]) -> None:
        self.own = 0
        self.members = members

    def families(self, chosen: frozenset[str]) -> dict[ExposedFamily, list[int]]:
        """Return the positions of the members of each family."""
        families: dict[ExposedFamily, list[int]] = {}
        for place, member in enumerate(self.members):
            families.setdefault(member.series.family, []).append(place)
        return families


class _Quick(NamedTuple):
    """Consecutive families that C fills in."""

    text: memoryview
    places: memoryview


class _Slow(NamedTuple):
    """Consecutive families that are filled in the usual way."""

    part: _Part
    lines: Lines


class Skeleton:
    """A page without its values.

    Args:
        snapshot: the one that it is for.
        key: escaping, namespace and constant labels.
        form: the format.
        chosen: names of the families, or of their samples, to show; empty: all.
    """

    def __init__(
        self, snapshot: BlockSnapshot, key: tuple[str, str, Labels], form: type[Lines], chosen: frozenset[str]
    ) -> None:
        self._catalog = snapshot.totals.catalog
        self._combined = snapshot.combined[0]
        self._figures = tuple(snapshot.system), tuple(snapshot.health)
        self._form = form
        self._namer = Namer(snapshot.system, *key)
        found = self._families().values()
        families = [each for each in found if not chosen or not chosen.isdisjoint(names_of_samples(each.family))]
        self._records: list[int] = []
        self._slow_records = self._records_of({group for each in families if not each.quick for group in each.numbers})
        slow = {each.family: list(self._members(each)) for each in families if not each.quick}
        found_at = [self._catalog.position_of_record(number) for number in self._records]
        self._positions = [position for position in found_at if position is not None]
        self._chunks = list(self._chunked(families, slow))

    def fits(self, snapshot: BlockSnapshot) -> bool:
        """Tell whether this is the page of a snapshot."""
        figures = tuple(snapshot.system), tuple(snapshot.health)
        same_names = snapshot.totals.catalog is self._catalog and snapshot.combined[0] == self._combined
        return same_names and figures == self._figures

    def fill(self, snapshot: BlockSnapshot) -> bytes:
        """Return the text with the values of a snapshot."""
        totals = snapshot.totals
        values = [*snapshot.combined[1], *system_values(snapshot), *snapshot.health.values()]
        values += totals.at(self._positions)
        pieces = [
            chunk if isinstance(chunk, _Quick) else (chunk.lines.fill(chunk.part, values, frozenset()), b"")
            for chunk in self._chunks
        ]
        return fill_text(tuple(pieces), totals.cells)

    def series_of(self, name: Name) -> ExposedSeries:
        """Return the name of one of the page's series there."""
        found = self._slow_series.get(name[:4])
        if found is None:
            family, is_plain = self._namer.family(name)
            found = ExposedSeries(family, self._namer.head(name, is_plain) + name.labels)
        return found

    @lazy_property
    def _slow_series(self) -> dict[tuple[Any, ...], ExposedSeries]:
        parts = [chunk.part for chunk in self._chunks if isinstance(chunk, _Slow)]
        return {member.name[:4]: member.series for part in parts for member in part.members}

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
            quick = name.kind in _KINDS and not has_empty and clean.get(labels, False)
            quick = quick and name.shown != STATE  # whose label has the name of the family
            if name.kind is Kind.HISTOGRAM:
                width = BEFORE_BUCKETS + len(name.bounds) + 1
                quick = quick and group not in catalog.mixed and catalog.width_of(first) == width
            found.setdefault(family, _Family(family)).add(group, name, is_plain, quick)
        for position, name in enumerate(self._combined):
            family, _ = namer.family(name)
            place = Member(position, ExposedSeries(family, ()), name)
            found.setdefault(family, _Family(family)).add_other(place)
        shown = [*namer.system, *(namer.health[figure] for figure in self._figures[1])]
        figures = (figure for figures in self._figures for figure in figures)
        for position, (series, figure) in enumerate(zip(shown, figures, strict=True), len(self._combined)):
            place = Member(position, series, Name("system", figure, Kind.GAUGE))
            found.setdefault(series.family, _Family(series.family)).add_other(place)
        return found

    def _members(self, family: _Family) -> Iterator[Member]:
        """Give the series of a family that is not quick, in their order; also collects their records."""
        numbers = sorted(number for group in family.numbers for number in self._slow_records[group])
        before = len(self._combined) + sum(map(len, self._figures))
        for number, name in zip(numbers, self._catalog.decoded(numbers), strict=True):
            yield Member(before + len(self._records), self._namer.add(name), name)
            self._records.append(number)
        for member in family.others:
            is_combined = member.position < len(self._combined)
            yield member._replace(series=self._namer.add(member.name)) if is_combined else member

    def _records_of(self, groups: set[int]) -> dict[int, list[int]]:
        """Return the records of some groups."""
        found: dict[int, list[int]] = {group: [] for group in groups}
        for number, group in enumerate(memoryview(self._catalog.group_of).cast("I")) if groups else ():
            if group in groups:
                found[group].append(number)
        return found

    def _chunked(self, families: list[_Family], slow: dict[ExposedFamily, list[Member]]) -> Iterator[_Quick | _Slow]:
        """Give the page in parts: consecutive quick families, and consecutive other families."""
        text, places, ends = self._planned([each for each in families if each.quick])
        start, rank = (0, 0), 0
        for is_quick, run in itertools.groupby(families, lambda each: each.quick):
            row = list(run)
            if is_quick:
                rank += len(row)
                end = ends[rank - 1]
                yield _Quick(text[start[0] : end[0]], places[start[1] : end[1]])
                start = end
            else:
                part = _Part([member for each in row for member in slow[each.family]])
                yield _Slow(part, self._form(part, None))

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
        planned = plan_text(catalog.records, catalog.heap, catalog.group_of, ranks.tobytes(), tuple(lines), heads)
        return memoryview(planned[0]), memoryview(planned[1]), [*_ENDS.iter_unpack(planned[2])]

    def _lines(self, family: ExposedFamily, name: Name, is_plain: bool) -> GroupLines:
        """Return the common parts of the lines of a group."""
        pairs = self._namer.head(name._replace(category="\0"), is_plain)

        def before(sample: str) -> bytes:
            return self._form.sample_text(sample, pairs).rpartition("\0")[0].encode()

        behind = self._form.sample_text("", pairs).rpartition("\0")[2].removesuffix("}").encode()
        created = self._form.created_name(family)
        made = before(created) if created else b""
        exposed = family.exposed_name
        if name.kind is not Kind.HISTOGRAM:
            return before(exposed), behind, made
        divisor, limits = self._form.limits(name)
        texts = tuple([(bucket, f',le="{limit}"'.encode()) for limit, bucket in limits.items()])
        buckets, total, count = (before(exposed + suffix) for suffix in ("_bucket", "_sum", "_count"))
        return buckets, behind, made, total, count, divisor, texts


class Skeletons:
    """The last page of each format and each spelling of names. Threads may share it, and may each make one."""

    def __init__(self) -> None:
        self._last: dict[tuple[Callable[..., Any], str, str, Labels], Skeleton] = {}

    def of(self, snapshot: BlockSnapshot, view: View, escaping: str, form: type[Lines]) -> Skeleton:
        """Return the page for a snapshot."""
        key = escaping, view.namespace, view.labels
        if view.names:
            return Skeleton(snapshot, key, form, view.names)
        skeleton = self._last.get((form, *key))
        if skeleton is None or not skeleton.fits(snapshot):
            skeleton = self._last[form, *key] = Skeleton(snapshot, key, form, frozenset())
        return skeleton
