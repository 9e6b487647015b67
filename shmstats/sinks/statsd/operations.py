"""Operations for a StatsD server: held until they are sent, and as lines of its protocol.

Lines (https://github.com/statsd/statsd/blob/master/docs/metric_types.md) are ``<name>:<sum>|c``, ``<name>:<value>|g``
and ``<name>:<milliseconds>|ms``. A gauge with a sign is relative there, so a negative one is set to 0 first, in the
same datagram.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from decimal import Decimal

COUNTER, GAUGE, TIMING = "c", "g", "ms"

#: Most distinct names of counters and gauges, and most timings, held while nothing can be sent.
MAX_NAMES = 10_000
MAX_TIMINGS = 10_000

_Key = tuple[str, str]
_Number = int | float

#: Kind, category and metric, and n, value or milliseconds.
Operation = tuple[str, _Key, _Number]

# All Unicode blanks and line breaks, control characters, and characters with a meaning in a line.
_NOT_IN_NAMES = re.compile(r"[:|@#\s\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class HeldOperations:
    """Counters as one sum for each name, gauges as their last values, timings singly. The caller holds their lock.

    Attributes:
        dropped: number dropped and not reported yet.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._counters: dict[_Key, _Number] = {}
        self._gauges: dict[_Key, _Number] = {}
        self._timings: deque[tuple[_Key, _Number]] = deque()

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not (self._counters or self._gauges or self._timings)

    def add(self, operation: Operation) -> None:
        """Fold an operation in."""
        kind, key, value = operation
        if kind is COUNTER:
            if key in self._counters:
                self._counters[key] += value
            elif self._has_room():
                self._counters[key] = value
        elif kind is GAUGE:
            # To the end: of names that are equal on the wire, the last one written wins.
            if self._gauges.pop(key, None) is not None or self._has_room():
                self._gauges[key] = value
        else:
            self._timings.append((key, value))
            if len(self._timings) > MAX_TIMINGS:
                self._timings.popleft()
                self.dropped += 1

    def take(self, namespace: str) -> list[bytes]:
        """Return the lines of all held operations, and hold none; ``namespace`` is the prefix of their names."""
        lines = [_lines(namespace, COUNTER, key, value) for key, value in self._counters.items()]
        lines += [_lines(namespace, GAUGE, key, value) for key, value in self._gauges.items()]
        lines += [_lines(namespace, TIMING, key, value) for key, value in self._timings]
        self._counters.clear()
        self._gauges.clear()
        self._timings.clear()
        return lines

    def _has_room(self) -> bool:
        if len(self._counters) + len(self._gauges) < MAX_NAMES:
            return True
        self.dropped += 1
        return False


def packets(entries: Iterable[bytes], limit: int) -> Iterator[list[bytes]]:
    """Split lines into lists that have, with a line feed each, at most ``limit`` bytes; a longer one goes alone."""
    packet: list[bytes] = []
    size = 0
    for entry in entries:
        length = len(entry) + 1
        if packet and size + length > limit:
            yield packet
            packet, size = [], 0
        packet.append(entry)
        size += length
    if packet:
        yield packet


def _lines(namespace: str, kind: str, key: _Key, value: _Number) -> bytes:
    """Return the lines of an operation, which stay together."""
    category, metric = key
    name = _NOT_IN_NAMES.sub("_", f"{namespace}{category}.{metric}")
    number = _decimal(value)
    line = f"{name}:{number}|{kind}"
    if kind is GAUGE and number.startswith("-"):
        line = f"{name}:0|{kind}\n{line}"
    return line.encode()


def _decimal(value: _Number) -> str:
    """Write a number without an exponent, which not every server reads."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    text = repr(float(value))
    return format(Decimal(text), "f") if "e" in text else text
