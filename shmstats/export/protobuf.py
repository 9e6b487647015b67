"""Prometheus' protobuf format: length-delimited messages of the type ``io.prometheus.client.MetricFamily``.

The numbers of fields are those of the public definition,
https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from shmstats.bounds import Exponential
from shmstats.export.naming import ExposedFamily, Type
from shmstats.export.page import Member, Pages, TextBuckets, is_chosen, placed_exemplars
from shmstats.export.view import PLAIN, View
from shmstats.series import Distribution, Exemplar, Name, Snapshot

CONTENT_TYPE = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

_NUMBERS = {Type.COUNTER: 0, Type.GAUGE: 1, Type.HISTOGRAM: 4, Type.INFO: 1, Type.STATESET: 1}

#: The field of a Metric for the value of each type.
_VALUES = {Type.COUNTER: 3, Type.GAUGE: 2, Type.HISTOGRAM: 7, Type.INFO: 2, Type.STATESET: 2}

#: The field of a Counter and of a Histogram for the creation time.
_CREATED = {Type.COUNTER: 3, Type.HISTOGRAM: 15}

_VARINT, _FIXED64, _LENGTH = 0, 1, 2

#: Most consecutive empty buckets that are written within a run: a new run takes as many bytes.
_LONGEST_GAP = 3

_DOUBLE = struct.Struct("<d")

_BYTES = [bytes([number]) for number in range(256)]

#: By category, metric, kind and labels of a series.
_Exemplars = Mapping[tuple[Any, ...], tuple[Exemplar, ...]]

_pages = Pages()


def render(snapshot: Snapshot, view: View = PLAIN) -> bytes:
    """Return the page as delimited messages, one for each family.

    Raises:
        ValueError: the number of a histogram's buckets is not one more than its name's bounds.
    """
    page = _pages.of(snapshot, view, view.escaping or "underscores")
    families = page.made.get(_FamilyMessage)
    if families is None:
        families = page.made[_FamilyMessage] = [_FamilyMessage(*family) for family in page.families().items()]
    numbers = page.numbers(snapshot)
    exemplars = {name[:4]: found for name, found in snapshot.exemplars}
    return b"".join([each.message(numbers, exemplars) for each in families if is_chosen(each.family, view.names)])


class _FamilyMessage:
    """The message of a family, except for its numbers."""

    def __init__(self, family: ExposedFamily, members: list[Member]) -> None:
        self.family = family
        self._head = (
            text_field(1, family.exposed_name) + text_field(2, family.help) + _integer(3, _NUMBERS[family.type])
        )
        self._unit = text_field(5, family.unit) if family.unit else b""
        self._metrics = [_Metric(member) for member in members]

    def message(self, numbers: list[Any], exemplars: _Exemplars) -> bytes:
        """Return the message with its length."""
        metrics = [metric.field(numbers, exemplars) for metric in self._metrics]
        content = b"".join([self._head, *metrics, self._unit])
        return varint(len(content)) + content


class _Metric:
    """The field of a family for one series, except for its numbers."""

    __slots__ = ("_before_number", "_buckets", "_created", "_labels", "_member", "_type")

    def __init__(self, member: Member) -> None:
        self._member = member
        self._type = member.series.family.type
        self._labels = _labels(member.series.labels)
        self._created = _created(member.name.created, _CREATED[self._type]) if self._type.has_created else b""
        self._buckets = TextBuckets(member.name) if self._type is Type.HISTOGRAM else None
        self._before_number = self._around(_double(1, 0.0)).removesuffix(_DOUBLE.pack(0.0) + self._created)

    def field(self, numbers: list[Any], exemplars: _Exemplars) -> bytes:
        """Return the field."""
        number = numbers[self._member.position]
        found = exemplars.get(self._member.name[:4], ()) if exemplars else ()
        if self._buckets is not None:
            return self._around(_histogram(self._member.name, self._buckets, number, found))
        if found and self._type is Type.COUNTER:
            return self._around(_double(1, number) + _exemplar(2, found[-1], found[-1].value))
        return self._before_number + _DOUBLE.pack(number) + self._created

    def _around(self, content: bytes) -> bytes:
        """Return the field with this content of its value, of which the creation time is the end."""
        return message_field(4, self._labels + message_field(_VALUES[self._type], content + self._created))


def _labels(labels: Iterable[tuple[str, str]]) -> bytes:
    return b"".join([label_field(*pair) for pair in labels])


def _histogram(name: Name, buckets: TextBuckets, value: Distribution, exemplars: tuple[Exemplar, ...]) -> bytes:
    """Return the content of a Histogram, without its creation time."""
    counts, total = buckets.figures(value)
    limits = dict(zip(_limits(buckets.limits), counts, strict=True))
    marked = _marked(name, exemplars)
    if _INFINITE not in marked:  # without an exemplar this bucket is left out
        del limits[_INFINITE]
    parts = [_integer(1, counts[-1]), _double(2, total)]
    parts += [message_field(3, _integer(1, count) + limit + marked.get(limit, b"")) for limit, count in limits.items()]
    if isinstance(name.bounds, Exponential):
        parts += _native(name.bounds, value.buckets)
    return b"".join(parts)


def _marked(name: Name, exemplars: tuple[Exemplar, ...]) -> dict[bytes, bytes]:
    """Return the fields of buckets with exemplars, by the fields of their limits."""
    fields = {}
    for _, ((_, limit),), exemplar, value in placed_exemplars(name, exemplars):
        fields[_double(2, float(limit))] = _exemplar(3, exemplar, value)
    return fields


def _exemplar(field: int, exemplar: Exemplar, value: float) -> bytes:
    seconds = int(exemplar.moment)
    moment = message_field(3, _integer(1, seconds) + _integer(2, int((exemplar.moment - seconds) * 1e9)))
    return message_field(field, _labels(exemplar.labels) + _double(2, value) + moment)


@lru_cache(maxsize=1000)
def _limits(limits: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(_double(2, float(limit)) for limit in limits)


def _native(bounds: Exponential, buckets: tuple[int, ...]) -> Iterator[bytes]:
    """Give the fields that make a Histogram a native one.

    Values above the highest bound are in the bucket after it: a count must never move from one bucket to another.
    """
    yield _integer(5, _zigzag(bounds.schema))
    yield _double(6, math.ldexp(1.0, bounds.first))
    yield _integer(7, buckets[0])
    end, before, deltas = 0, 0, bytearray()
    for start, counts in _runs(bounds.first << bounds.schema, buckets):
        yield message_field(12, _integer(1, _zigzag(start - end)) + _integer(2, len(counts)))
        end = start + len(counts)
        for count in counts:
            deltas += varint(_zigzag(count - before))
            before = count
    if deltas:
        yield message_field(13, bytes(deltas))


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
    return message_field(number, _integer(1, seconds) + _integer(2, nanoseconds))


# The encoding: https://protobuf.dev/programming-guides/encoding/


def varint(number: int) -> bytes:
    """Return a number from 0 on in 7 bits a byte."""
    encoded = b""
    while number > 0x7F:
        encoded += _BYTES[number & 0x7F | 0x80]
        number >>= 7
    return encoded + _BYTES[number]


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


def _integer(field: int, number: int) -> bytes:
    return varint(field << 3 | _VARINT) + varint(number & 0xFFFF_FFFF_FFFF_FFFF)


def _double(field: int, number: float) -> bytes:
    return varint(field << 3 | _FIXED64) + _DOUBLE.pack(number)


def message_field(field: int, content: bytes) -> bytes:
    """Return a field with a message, or with other bytes."""
    return varint(field << 3 | _LENGTH) + varint(len(content)) + content


def text_field(field: int, text: str) -> bytes:
    """Return a field with a text."""
    return message_field(field, text.encode())


@lru_cache(maxsize=4096)  # most labels are those of many series
def label_field(name: str, value: str) -> bytes:
    """Return the field of a series with one of its labels, as in Prometheus' remote write too."""
    return message_field(1, text_field(1, name) + text_field(2, value))


#: The limit of the bucket above all bounds.
_INFINITE = _double(2, math.inf)
