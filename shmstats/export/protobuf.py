"""Prometheus' protobuf format: length-delimited messages of the type ``io.prometheus.client.MetricFamily``.

The numbers of fields are those of the public definition,
https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from typing import Any

from shmstats.export.naming import Type, is_time
from shmstats.export.page import Member, Page, Pages
from shmstats.export.prometheus import bound_text
from shmstats.export.view import PLAIN, View
from shmstats.series import Distribution, Kind, Snapshot

CONTENT_TYPE = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

_NUMBERS = {Type.COUNTER: 0, Type.GAUGE: 1, Type.HISTOGRAM: 4}

#: Where a Metric has the value of each type.
_VALUES = {Type.COUNTER: 3, Type.GAUGE: 2, Type.HISTOGRAM: 7}

_VARINT, _FIXED64, _LENGTH = 0, 1, 2

_DOUBLE = struct.Struct("<d")

_pages = Pages()

#: What a page hands on to one with more names: the labels of its own series, without those of the system.
_KNOWN = "protobuf labels"


def render(snapshot: Snapshot, view: View = PLAIN) -> bytes:
    """Return the page as delimited messages, one a family.

    Raises:
        ValueError: a histogram's value has not one bucket more than its name has bounds.
    """
    page = _pages.of(snapshot, view, view.escaping or "underscores")
    labels = _labels_of(page)
    values = page.values(snapshot)
    messages: list[bytes] = []
    for family, places in page.families(view.names).items():
        parts = [_text(1, family.exposed_name), _text(2, family.help), _integer(3, _NUMBERS[family.type])]
        number = _VALUES[family.type]
        for place in places:
            member = page.members[place]
            value = _value(member, values[member.position])
            parts.append(_message(4, labels[place] + _message(number, value)))
        if family.unit:
            parts.append(_text(5, family.unit))
        message = b"".join(parts)
        messages += (_varint(len(message)), message)
    return b"".join(messages)


def _labels_of(page: Page) -> list[bytes]:
    """Return the encoded labels of all members, made once for a page."""
    labels: list[bytes] | None = page.made.get(render)
    if labels is None:
        known: list[bytes] = page.inherited.pop(_KNOWN, [])
        labels = known + [_labels(member.series.labels) for member in page.members[len(known) :]]
        page.made[render], page.made[_KNOWN] = labels, labels[: page.own]
    return labels


def _labels(labels: Iterable[tuple[str, str]]) -> bytes:
    return b"".join([_message(1, _text(1, name) + _text(2, value)) for name, value in labels])


def _value(member: Member, value: Any) -> bytes:
    """Return the Counter, Gauge or Histogram of a value; a counter beyond 2^53 is a double, as every sample is."""
    name = member.name
    if name.kind is Kind.HISTOGRAM:
        return _histogram(value, name.bounds, 1000 if is_time(name.unit) else 1) + _created(name.created, 15)
    number = value / 1_000_000 if name.kind is Kind.TIMESTAMP else float(value)
    created = _created(name.created, 3) if name.kind is Kind.COUNTER and name.monotonic else b""
    return _double(1, number) + created


def _histogram(value: Distribution, bounds: tuple[float, ...], divisor: int) -> bytes:
    if len(value.buckets) != len(bounds) + 1:
        raise ValueError(f"a histogram of {len(bounds)} bounds has {len(value.buckets)} buckets")
    cumulative = list(itertools.accumulate(value.buckets))
    # As in the text: bounds that are the same when divided are one bucket, and the later one has it all.
    limits = {float(bound_text(bound, divisor)): count for bound, count in zip(bounds, cumulative, strict=False)}
    parts = [_integer(1, cumulative[-1]), _double(2, value.sum / divisor)]
    parts += [_message(3, _integer(1, count) + _double(2, limit)) for limit, count in limits.items()]
    return b"".join(parts)


def _created(moment: int, number: int) -> bytes:
    """Return a field with a Timestamp, of ns since 1970; nothing where it is 0."""
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


def _integer(field: int, number: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(number & 0xFFFF_FFFF_FFFF_FFFF)


def _double(field: int, number: float) -> bytes:
    return _varint(field << 3 | _FIXED64) + _DOUBLE.pack(number)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())
