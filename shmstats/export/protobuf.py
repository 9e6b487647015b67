"""Prometheus' protobuf format: length-delimited messages of the type ``io.prometheus.client.MetricFamily``.

The numbers of fields are those of the public definition,
https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from shmstats.bounds import Bounds, Exponential, shown_in_text
from shmstats.export.exemplars import placed
from shmstats.export.naming import ExposedFamily, Type, is_time
from shmstats.export.page import Member, Page, Pages
from shmstats.export.prometheus import bound_text, text_limits
from shmstats.export.view import PLAIN, View
from shmstats.frozen import NamedTuple
from shmstats.series import Distribution, Exemplar, Kind, Name, Snapshot

CONTENT_TYPE = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

_NUMBERS = {Type.COUNTER: 0, Type.GAUGE: 1, Type.HISTOGRAM: 4, Type.INFO: 1, Type.STATESET: 1}

#: The field of a Metric for the value of each type.
_VALUES = {Type.COUNTER: 3, Type.GAUGE: 2, Type.HISTOGRAM: 7, Type.INFO: 2, Type.STATESET: 2}

_VARINT, _FIXED64, _LENGTH = 0, 1, 2

#: Most consecutive empty buckets that are written within a run: a new run takes as many bytes.
_LONGEST_GAP = 3

_DOUBLE = struct.Struct("<d")

#: By category, metric, kind and labels of a series.
_Exemplars = Mapping[tuple[Any, ...], tuple[Exemplar, ...]]

_pages = Pages()


def render(snapshot: Snapshot, view: View = PLAIN) -> bytes:
    """Return the page as delimited messages, one for each family.

    Raises:
        ValueError: the number of a histogram's buckets is not one more than its name's bounds.
    """
    page = _pages.of(snapshot, view, view.escaping or "underscores")
    messages = page.made.get(_Messages)
    if messages is None:
        messages = page.made[_Messages] = _Messages(page, frozenset())
    if view.names:
        messages = _Messages(page, view.names)
    filled: bytes = messages.fill(page, snapshot)
    return filled


class _CounterFamily(NamedTuple):
    """The message of a family of counters in the template.

    Attributes:
        start: of the message, with its length.
        head: of the message.
        members: of the family.
        starts: of each Metric, and the end of the last one.
        end: of the message.
    """

    start: int
    head: bytes
    members: list[Member]
    starts: list[int]
    end: int

    def with_exemplars(self, content: bytes, values: list[Any], exemplars: _Exemplars) -> bytes:
        """Return the message with exemplars, from a filled template."""
        pieces = [self.head]
        for member, (start, end) in zip(self.members, itertools.pairwise(self.starts), strict=True):
            found = exemplars.get(member.name[:4])
            if found:
                exemplar = _exemplar(2, found[-1], found[-1].value)
                counter = _double(1, float(values[member.position])) + exemplar + _created_of(member)
                pieces.append(_message(4, _labels(member.series.labels) + _message(_VALUES[Type.COUNTER], counter)))
            else:
                pieces.append(content[start:end])
        message = b"".join((*pieces, content[self.starts[-1] : self.end]))
        return _varint(len(message)) + message


class _Messages:
    """The messages of a page. All series with one number are in one template, with a place for each number."""

    def __init__(self, page: Page, chosen: frozenset[str]) -> None:
        template = bytearray()
        self._counters: dict[ExposedFamily, _CounterFamily] = {}
        self._positions: list[int] = []
        self._timestamps: list[int] = []
        self._histograms: list[tuple[bytes, bytes, list[tuple[Member, bytes]]]] = []
        self._places: list[int] = []
        for family, members in page.families(chosen).items():
            head = _text(1, family.exposed_name) + _text(2, family.help) + _integer(3, _NUMBERS[family.type])
            unit = _text(5, family.unit) if family.unit else b""
            described = [(page.members[place], _labels(page.members[place].series.labels)) for place in members]
            if family.type is Type.HISTOGRAM:
                self._histograms.append((head, unit, described))
                continue
            metrics = [_message(4, labels + _number(member)) for member, labels in described]
            start, length = len(template), len(head) + sum(map(len, metrics)) + len(unit)
            template += _varint(length) + head
            starts = [*itertools.accumulate(map(len, metrics), initial=len(template))]
            for (member, _), metric in zip(described, metrics, strict=True):
                template += metric
                self._places.append(len(template) - len(_created_of(member)) - _DOUBLE.size)
                self._positions.append(member.position)
                if member.name.kind is Kind.TIMESTAMP:
                    self._timestamps.append(member.position)
            template += unit
            if family.type is Type.COUNTER:
                own = [member for member, _ in described]
                self._counters[family] = _CounterFamily(start, head, own, starts, len(template))
        self._template = bytes(template)

    def fill(self, page: Page, snapshot: Snapshot) -> bytes:
        """Return the messages with the values of a snapshot, and exemplars of counters and histograms."""
        values = page.values(snapshot)
        for i in self._timestamps:
            values[i] /= 1_000_000
        filled = bytearray(self._template)
        for place, position in zip(self._places, self._positions, strict=True):
            _DOUBLE.pack_into(filled, place, values[position])
        content = bytes(filled)
        exemplars = {name[:4]: found for name, found in snapshot.exemplars}
        marked = {series.family for name, _ in snapshot.exemplars if (series := page.series_of(name)) is not None}
        messages: list[bytes] = []
        done = 0
        for counters in sorted(counters for family, counters in self._counters.items() if family in marked):
            messages.append(content[done : counters.start])
            messages.append(counters.with_exemplars(content, values, exemplars))
            done = counters.end
        messages.append(content[done:])
        for head, unit, described in self._histograms:
            metrics = (
                _message(4, labels + _histogram(member, values[member.position], exemplars))
                for member, labels in described
            )
            message = b"".join((head, *metrics, unit))
            messages += (_varint(len(message)), message)
        return b"".join(messages)


def _labels(labels: Iterable[tuple[str, str]]) -> bytes:
    return b"".join([_message(1, _text(1, name) + _text(2, value)) for name, value in labels])


def _number(member: Member) -> bytes:
    """Return the Counter or Gauge of a member, with 0 in the place of its number."""
    return _message(_VALUES[member.series.family.type], _double(1, 0.0) + _created_of(member))


def _created_of(member: Member) -> bytes:
    return _created(member.name.created, 3) if member.series.family.type is Type.COUNTER else b""


def _histogram(member: Member, value: Distribution, exemplars: _Exemplars) -> bytes:
    """Return the field of a Metric with a Histogram."""
    bounds = member.name.bounds
    if len(value.buckets) != len(bounds) + 1:
        raise ValueError(f"a histogram of {len(bounds)} bounds has {len(value.buckets)} buckets")
    divisor = 1000 if is_time(member.name.unit) else 1
    cumulative = list(itertools.accumulate(value.buckets))
    # As in the text: bounds that become equal by the division are one bucket, the later one, which includes both.
    limits = {limit: cumulative[i] for i, limit in zip(shown_in_text(bounds), _limits(bounds, divisor), strict=True)}
    parts = [_integer(1, cumulative[-1]), _double(2, value.sum / divisor)]
    marked = _marked(member.name, exemplars.get(member.name[:4], ()))
    if _INFINITE in marked:  # without an exemplar this bucket is left out
        limits[_INFINITE] = cumulative[-1]
    parts += [_message(3, _integer(1, count) + limit + marked.get(limit, b"")) for limit, count in limits.items()]
    if isinstance(bounds, Exponential):
        parts += _native(bounds, value.buckets)
    return _message(_VALUES[Type.HISTOGRAM], b"".join(parts) + _created(member.name.created, 15))


def _marked(name: Name, exemplars: tuple[Exemplar, ...]) -> dict[bytes, bytes]:
    """Return the fields of buckets with exemplars, by the fields of their limits."""
    fields = {}
    for _, ((_, limit),), exemplar, value in placed(name, exemplars, text_limits):
        fields[_double(2, float(limit))] = _exemplar(3, exemplar, value)
    return fields


def _exemplar(field: int, exemplar: Exemplar, value: float) -> bytes:
    seconds = int(exemplar.moment)
    moment = _message(3, _integer(1, seconds) + _integer(2, int((exemplar.moment - seconds) * 1e9)))
    return _message(field, _labels(exemplar.labels) + _double(2, value) + moment)


@lru_cache(maxsize=1000)
def _limits(bounds: Bounds, divisor: int) -> tuple[bytes, ...]:
    return tuple(_double(2, float(bound_text(bounds[i], divisor))) for i in shown_in_text(bounds))


def _native(bounds: Exponential, buckets: tuple[int, ...]) -> Iterator[bytes]:
    """Give the fields that make a Histogram a native one.

    Values above the highest bound are in the bucket after it: a count must never move from one bucket to another.
    """
    yield _integer(5, _zigzag(bounds.schema))
    yield _double(6, math.ldexp(1.0, bounds.first))
    yield _integer(7, buckets[0])
    end, before, deltas = 0, 0, bytearray()
    for start, counts in _runs(bounds.first << bounds.schema, buckets):
        yield _message(12, _integer(1, _zigzag(start - end)) + _integer(2, len(counts)))
        end = start + len(counts)
        for count in counts:
            deltas += _varint(_zigzag(count - before))
            before = count
    if deltas:
        yield _message(13, bytes(deltas))


def _runs(zero: int, buckets: tuple[int, ...]) -> list[tuple[int, list[int]]]:
    """Return runs of non-empty buckets, without the zero bucket: the index of the first, and the counts.

    Args:
        zero: the index of the zero bucket's upper bound.
        buckets: all buckets.
    """
    runs: list[tuple[int, list[int]]] = []
    for i, count in enumerate(buckets):
        if not count or not i:
            continue
        gap = zero + i - runs[-1][0] - len(runs[-1][1]) if runs else _LONGEST_GAP + 1
        if gap <= _LONGEST_GAP:
            runs[-1][1].extend([0] * gap + [count])
        else:
            runs.append((zero + i, [count]))
    return runs


def _created(moment: int, number: int) -> bytes:
    """Return a field with a Timestamp, of ns since 1970; empty for 0."""
    if not moment:
        return b""
    seconds, nanoseconds = divmod(moment, 1_000_000_000)
    return _message(number, _integer(1, seconds) + _integer(2, nanoseconds))


# The encoding: https://protobuf.dev/programming-guides/encoding/


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


def _integer(field: int, number: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(number & 0xFFFF_FFFF_FFFF_FFFF)


def _double(field: int, number: float) -> bytes:
    return _varint(field << 3 | _FIXED64) + _DOUBLE.pack(number)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


#: The limit of the bucket above all bounds.
_INFINITE = _double(2, math.inf)
