"""Remote write 1.0, the protocol of Prometheus, Mimir, Thanos, Cortex and VictoriaMetrics.

A body is a protobuf WriteRequest, compressed as one snappy block. Between two pushes only values and the timestamp
change, and both have a fixed length: so the message is made once, and the numbers are put into their places.
Source: https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from shmstats.export.page import Member, Page, Pages, TextBuckets
from shmstats.export.protobuf import message_field, text_field, varint
from shmstats.export.view import View
from shmstats.frozen import NamedTuple
from shmstats.series import Distribution, Kind, Labels, Snapshot
from shmstats.sinks.push.encoder import Encoder, Stale

try:
    cramjam: Any = importlib.import_module("cramjam")
except ImportError:
    cramjam = None

#: The value that ends a series: a NaN with these bits.
STALE = np.uint64(0x7FF0000000000002)

_TIME_BYTES = 6
_SAMPLE_BYTES = 1 + 8 + 1 + _TIME_BYTES
#: The bytes after the labels of a series: field 2 of this length, in it field 1 (64 bits) and field 2 (varint).
_SAMPLE_HEAD = bytes([0x12, _SAMPLE_BYTES, 0x09])
_TAIL_BYTES = len(_SAMPLE_HEAD) + 8 + 1 + _TIME_BYTES
_LITERAL_BYTES = 65536


class SampleName(NamedTuple):
    """The identity of one number.

    Attributes:
        name: with the suffix of its family's type.
        labels: sorted by name, none of them empty.
    """

    name: str
    labels: Labels


class RemoteWrite(Encoder):
    """Encodes snapshots for remote write. A server reports a partial success by its status.

    Names, labels and bounds are those of the scraped page.

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
        self._info = SampleName("target_info", _sorted((*view.labels, *info.items())))
        self._pages = Pages()
        self._page: Page | None = None
        self._samples = _Samples((), self._info)
        self._message = Message(())
        self._gone = Message(())
        self._accepted: list[SampleName] = []

    def encode(self, snapshot: Snapshot, at: int, stale: Stale) -> bytes:
        """Return the body of a request."""
        page = self._pages.of(snapshot, self._view, "underscores")
        if page is not self._page:
            self._samples = _Samples(page.members, self._info)
            self._message = Message(self._samples.names)
            self._gone = Message(set(self._accepted).difference(self._samples.names))
            self._page = page
        values = self._samples.values(page.numbers(snapshot)).view(np.uint64)
        if stale is Stale.ALL:
            values[:] = STALE
        elif stale is Stale.LIVE:
            values[self._samples.live] = STALE
        gone = self._gone.filled(np.full(len(self._gone), STALE), at)
        return _compressed(self._message.filled(values, at) + gone)

    def accept(self) -> None:
        """The last body was accepted: the series that it ended need not be ended again."""
        self._accepted = self._samples.names
        self._gone = Message(())


class _Samples:
    """The samples of a page: flat numbers with names.

    Attributes:
        names: of the samples, in the order of `values`.
        live: positions of the samples that end with the last worker.
    """

    def __init__(self, members: Iterable[Member], info: SampleName) -> None:
        self.names = [info]
        self.live: list[int] = []
        self._positions: list[int] = []
        self._places: list[int] = []
        self._histograms: list[_HistogramSamples] = []
        for member in members:
            place = len(self.names)
            if member.name.kind is Kind.HISTOGRAM:
                histogram = _HistogramSamples(member, place)
                self._histograms.append(histogram)
                self.names += histogram.names
                continue
            self._positions.append(member.position)
            self._places.append(place)
            self.names.append(SampleName(member.series.family.exposed_name, _sorted(member.series.labels)))
            if member.name.mode.live:
                self.live.append(place)

    def values(self, given: Sequence[Any]) -> NDArray[np.float64]:
        """Return the numbers of the samples, from those of the page.

        Raises:
            ValueError: the number of a histogram's buckets is not one more than its name's bounds.
        """
        numbers = np.empty(len(self.names))
        numbers[0] = 1.0
        numbers[self._places] = [given[i] for i in self._positions]
        for histogram in self._histograms:
            histogram.fill(numbers, given[histogram.position])
        return numbers


class _HistogramSamples:
    """The samples of one histogram: cumulative buckets, count and sum."""

    __slots__ = ("_buckets", "_place", "names", "position")

    def __init__(self, member: Member, place: int) -> None:
        self.position = member.position
        self._place = place
        self._buckets = TextBuckets(member.name)
        family, labels = member.series.family.exposed_name, member.series.labels
        limits = self._buckets.limits
        self.names = [SampleName(f"{family}_bucket", _sorted((*labels, ("le", limit)))) for limit in limits]
        self.names += [SampleName(family + suffix, _sorted(labels)) for suffix in ("_count", "_sum")]

    def fill(self, numbers: NDArray[np.float64], value: Distribution) -> None:
        counts, total = self._buckets.figures(value)
        numbers[self._place : self._place + len(self.names)] = (*counts, counts[-1], total)


def _sorted(labels: Sequence[tuple[str, str]]) -> Labels:
    return tuple(sorted([pair for pair in labels if pair[1]]))


class Message:
    """A WriteRequest with one sample for each series, and the places of its numbers::

        WriteRequest: 1 repeated TimeSeries       TimeSeries: 1 repeated Label, 2 repeated Sample
        Label: 1 string name, 2 string value      Sample: 1 double value, 2 int64 timestamp (ms since 1970)

    Args:
        names: of the samples, all different.
    """

    def __init__(self, names: Iterable[SampleName]) -> None:
        pieces = [_time_series(name) for name in names]
        self._content = np.frombuffer(b"".join(pieces), np.uint8)
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        starts = (ends - _TAIL_BYTES + len(_SAMPLE_HEAD))[:, np.newaxis]
        self._values = starts + np.arange(8)
        self._times = starts + 9 + np.arange(_TIME_BYTES)

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self._values)

    def filled(self, values: NDArray[np.uint64], at: int) -> bytes:
        """Return the message with the bits of these values, all with one time in ms since 1970."""
        content = self._content.copy()
        content[self._values] = values.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
        content[self._times] = np.frombuffer(_time(at), np.uint8)
        return content.tobytes()


def _time_series(name: SampleName) -> bytes:
    """Return field 1 of a WriteRequest, with zeros for value and time."""
    labels = b"".join(map(_label, *zip(*sorted([("__name__", name.name), *name.labels]), strict=True)))
    return message_field(1, labels + _SAMPLE_HEAD + bytes(8) + b"\x10" + bytes(_TIME_BYTES))


@functools.lru_cache(maxsize=4096)  # most labels are those of many series
def _label(name: str, value: str) -> bytes:
    return message_field(1, text_field(1, name) + text_field(2, value))


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
