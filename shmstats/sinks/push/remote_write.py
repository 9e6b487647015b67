"""Remote write 1.0, the protocol of Prometheus, Mimir, Thanos, Cortex and VictoriaMetrics.

A body is a protobuf WriteRequest, compressed as one snappy block. Between two pushes only values and the timestamp
change, and both have a fixed length: so the message is made once, and the numbers are put into their places.
Source: https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shmstats.export.view import View
from shmstats.series import Snapshot
from shmstats.sinks.push.encoder import Encoder, Stale
from shmstats.sinks.push.samples import SampleName, Samples

#: The value that ends a series: a NaN with these bits.
STALE = np.uint64(0x7FF0000000000002)

_TIME_BYTES = 6
_SAMPLE_BYTES = 1 + 8 + 1 + _TIME_BYTES
#: The bytes after the labels of a series: field 2 of this length, in it field 1 (64 bits) and field 2 (varint).
_SAMPLE_HEAD = bytes([0x12, _SAMPLE_BYTES, 0x09])
_TAIL_BYTES = len(_SAMPLE_HEAD) + 8 + 1 + _TIME_BYTES
_LITERAL_BYTES = 65536


class RemoteWrite(Encoder):
    """Encodes snapshots for remote write. A server reports a partial success by its status.

    Args:
        view: the prefix of names, and the labels of every series, including ``job`` and ``instance``.
        info: further labels of ``target_info``.
    """

    headers: ClassVar[Mapping[str, str]] = {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    }

    def __init__(self, view: View, info: Mapping[str, str]) -> None:
        self._samples = Samples(view, info)
        self._message = Message(())
        self._gone = Message(())
        self._accepted: frozenset[SampleName] = frozenset()
        self._compress = _compressor()

    def encode(self, snapshot: Snapshot, at: int, stale: Stale) -> bytes:
        """Return the body of a request."""
        if self._samples.follow(snapshot):
            self._message = Message(self._samples.names, self._message.series)
            self._gone = Message(self._accepted.difference(self._samples.names))
        values = self._samples.values(snapshot).view(np.uint64)
        if stale is Stale.ALL:
            values[:] = STALE
        elif stale is Stale.LIVE:
            values[self._samples.live] = STALE
        gone = self._gone.filled(np.full(len(self._gone), STALE), at)
        return self._compress(self._message.filled(values, at) + gone)

    def accept(self) -> None:
        """The last body was accepted: the series that it ended need not be ended again."""
        if len(self._gone) or len(self._accepted) != len(self._message):
            self._accepted = frozenset(self._samples.names)
            self._gone = Message(())


class Message:
    """A WriteRequest with one sample for each series, and the places of its numbers::

        WriteRequest: 1 repeated TimeSeries       TimeSeries: 1 repeated Label, 2 repeated Sample
        Label: 1 string name, 2 string value      Sample: 1 double value, 2 int64 timestamp (ms since 1970)

    Args:
        names: of the samples, all different.
        known: the series of another message.

    Attributes:
        series: encoded, with zeros for value and time.
    """

    def __init__(self, names: Iterable[SampleName], known: Mapping[SampleName, bytes] = MappingProxyType({})) -> None:
        self.series = {name: known.get(name) or _time_series(name) for name in names}
        pieces = self.series.values()
        self._content = np.frombuffer(b"".join(pieces), np.uint8)
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64) if pieces else np.empty(0, np.int64)
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
        content[self._times] = np.frombuffer(_varint(at, _TIME_BYTES), np.uint8)
        return content.tobytes()


def _time_series(name: SampleName) -> bytes:
    """Return field 1 of a WriteRequest, with zeros for value and time."""
    labels = b"".join(map(_label, *zip(*sorted([("__name__", name.name), *name.labels]), strict=True)))
    content = labels + _SAMPLE_HEAD + bytes(8) + b"\x10" + bytes(_TIME_BYTES)
    return b"\x0a" + _varint(len(content)) + content


def _label(name: str, value: str) -> bytes:
    encoded = b"\x0a" + _text(name) + b"\x12" + _text(value)
    return b"\x0a" + _varint(len(encoded)) + encoded


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _varint(len(encoded)) + encoded


def _varint(number: int, length: int = 1) -> bytes:
    """Return a varint of at least that many bytes; protobuf allows longer ones than necessary."""
    encoded = bytearray()
    while number > 0x7F or len(encoded) < length - 1:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _compressor() -> Callable[[bytes], bytes]:
    """Return a function that makes a snappy block: cramjam's, or if that is not installed `uncompressed_block`."""
    try:
        cramjam = importlib.import_module("cramjam")
    except ImportError:
        return uncompressed_block

    def compress(content: bytes) -> bytes:
        return bytes(cramjam.snappy.compress_raw(content))

    return compress


def uncompressed_block(content: bytes) -> bytes:
    """Return a valid snappy block with only literals, as long as its content.

    Source: https://github.com/google/snappy/blob/main/format_description.txt
    """
    pieces = [_varint(len(content))]
    for start in range(0, len(content), _LITERAL_BYTES):
        piece = content[start : start + _LITERAL_BYTES]
        pieces += [b"\xf4", (len(piece) - 1).to_bytes(2, "little"), piece]
    return b"".join(pieces)
