"""Remote write 1.0, the protocol of Prometheus, Mimir, Thanos, Cortex and VictoriaMetrics.

A body is a protobuf WriteRequest, compressed as one snappy block. Between two pushes only values and the timestamp
change, and both have a fixed length: so what is before each value is encoded once.
Source: https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from shmstats.export.page import Member, Page, Pages, TextBuckets
from shmstats.export.protobuf import label_field, message_field, varint
from shmstats.export.view import View
from shmstats.series import Kind, Snapshot
from shmstats.sinks.push.encoder import Encoder, Stale

try:
    cramjam: Any = importlib.import_module("cramjam")
except ImportError:
    cramjam = None

_DOUBLE = struct.Struct("<d")

#: The value that ends a series: a NaN with these bits.
_STALE = (0x7FF0000000000002).to_bytes(_DOUBLE.size, "little")

#: The bytes from the value of a sample on: the value, the tag of its timestamp, and the timestamp.
_TIME_BYTES = 6
_TAIL_BYTES = _DOUBLE.size + 1 + _TIME_BYTES
_TIME_TAG = b"\x10"

#: The bytes after the labels of a series: field 2, a sample, and in it the tag of its value.
_SAMPLE_HEAD = bytes([0x12, 1 + _TAIL_BYTES, 0x09])

_LITERAL_BYTES = 65536


class RemoteWrite(Encoder):
    """Encodes snapshots for remote write. A server reports a partial success by its status.

    Names, labels and bounds are those of the scraped page::

        WriteRequest: 1 repeated TimeSeries       TimeSeries: 1 repeated Label, 2 repeated Sample
        Label: 1 string name, 2 string value      Sample: 1 double value, 2 int64 timestamp (ms since 1970)

    Args:
        view: the prefix of names, and the labels of every series, including ``job`` and ``instance``; a series' own
            label of the same name gets the prefix ``exported_``.
        info: further labels of ``target_info``, a sample of the value 1 that describes the sender.
    """

    headers: ClassVar[Mapping[str, str]] = {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    }

    def __init__(self, view: View, info: Mapping[str, str]) -> None:
        self._view = view
        self._info = _before_value("target_info", (*view.labels, *info.items()))
        self._pages = Pages()
        self._page: Page | None = None
        self._series: list[_Series] = []
        self._heads: list[bytes] = []
        self._accepted: list[bytes] = []
        self._gone: set[bytes] = set()

    def encode(self, snapshot: Snapshot, at: int, stale: Stale) -> bytes:
        """Return the body of a request.

        Raises:
            ValueError: the number of a histogram's buckets is not one more than its name's bounds.
        """
        page = self._pages.of(snapshot, self._view, "underscores")
        if page is not self._page:
            known = {id(series.member): series for series in self._series}
            self._series = [known.get(id(member)) or _Series(member) for member in page.members]
            self._heads = [self._info, *(head for series in self._series for head in series.heads)]
            self._gone = set(self._accepted).difference(self._heads)
            self._page = page
        numbers = page.numbers(snapshot)
        values = [_DOUBLE.pack(1.0)]
        for series in self._series:
            values += series.values(numbers, stale)
        if stale is Stale.ALL:
            values = [_STALE] * len(values)
        tail = _TIME_TAG + _time(at)
        samples = [head + value + tail for head, value in zip(self._heads, values, strict=True)]
        return _compressed(b"".join([*samples, *(head + _STALE + tail for head in self._gone)]))

    def accept(self) -> None:
        """The last body was accepted: the series that it ended need not be ended again."""
        self._accepted = self._heads
        self._gone = set()


class _Series:
    """A series of the page as samples: one, or those of cumulative buckets, count and sum.

    Attributes:
        member: the series.
        heads: what is before the value of each sample.
    """

    __slots__ = ("_buckets", "heads", "member")

    def __init__(self, member: Member) -> None:
        self.member = member
        self._buckets = TextBuckets(member.name) if member.name.kind is Kind.HISTOGRAM else None
        family, labels = member.series.family.exposed_name, member.series.labels
        if self._buckets is None:
            self.heads = [_before_value(family, labels)]
        else:
            limits = self._buckets.limits
            self.heads = [_before_value(f"{family}_bucket", (*labels, ("le", limit))) for limit in limits]
            self.heads += [_before_value(family + suffix, labels) for suffix in ("_count", "_sum")]

    def values(self, numbers: Sequence[Any], stale: Stale) -> list[bytes]:
        """Return the value of each sample, from the numbers of the page."""
        number = numbers[self.member.position]
        if self._buckets is not None:
            counts, total = self._buckets.figures(number)
            return [_DOUBLE.pack(each) for each in (*counts, counts[-1], total)]
        return [_STALE if stale is Stale.LIVE and self.member.name.mode.live else _DOUBLE.pack(number)]


def _before_value(name: str, labels: Sequence[tuple[str, str]]) -> bytes:
    """Return field 1 of a WriteRequest up to the value of its sample; labels without a value are left out."""
    pairs = sorted([("__name__", name), *(pair for pair in labels if pair[1])])
    fields = b"".join([label_field(*pair) for pair in pairs])
    return message_field(1, fields + _SAMPLE_HEAD + bytes(_TAIL_BYTES))[:-_TAIL_BYTES]


def _time(moment: int) -> bytes:
    """Return a varint of `_TIME_BYTES`; protobuf allows longer ones than necessary."""
    return bytes([moment >> 7 * i & 0x7F | 0x80 for i in range(_TIME_BYTES - 1)] + [moment >> 7 * (_TIME_BYTES - 1)])


def _compressed(content: bytes) -> bytes:
    """Return a snappy block; without cramjam it is an `uncompressed_block`."""
    return uncompressed_block(content) if cramjam is None else bytes(cramjam.snappy.compress_raw(content))


def uncompressed_block(content: bytes) -> bytes:
    """Return a valid snappy block with only literals, as long as its content.

    Source: https://github.com/google/snappy/blob/main/format_description.txt
    """
    pieces = [varint(len(content))]
    for start in range(0, len(content), _LITERAL_BYTES):
        piece = content[start : start + _LITERAL_BYTES]
        pieces += [b"\xf4", (len(piece) - 1).to_bytes(2, "little"), piece]
    return b"".join(pieces)
