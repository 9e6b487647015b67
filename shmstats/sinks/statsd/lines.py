"""Operations, and the lines of the StatsD protocol for them.

Lines (https://github.com/statsd/statsd/blob/master/docs/metric_types.md) are ``<name>:<sum>|c``, ``<name>:<value>|g``
and ``<name>:<milliseconds>|ms``. A gauge with a sign is relative there, so a negative one is set to 0 first, in the
same datagram.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal

from ...frozen import NamedTuple

COUNTER, GAUGE, TIMING = "c", "g", "ms"

StatsdKey = tuple[str, str]
Number = int | float

#: Kind, category and metric, and n, value or milliseconds.
Operation = tuple[str, StatsdKey, Number]

# All Unicode blanks and line breaks, control characters, and characters with a meaning in a line.
_NOT_IN_NAMES = re.compile(r"[:|@#\s\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class StatsdEntry(NamedTuple):
    """An operation, or the sum of many, and its lines, which stay together."""

    operation: Operation
    lines: bytes


def packets(entries: Iterable[StatsdEntry], limit: int) -> Iterator[list[StatsdEntry]]:
    """Split entries into lists whose lines, with a line feed each, have at most ``limit`` bytes.

    A longer entry goes alone. Without entries there is one empty list.
    """
    packet: list[StatsdEntry] = []
    size = 0
    for entry in entries:
        length = len(entry.lines) + 1
        if packet and size + length > limit:
            yield packet
            packet, size = [], 0
        packet.append(entry)
        size += length
    yield packet


def lines_of(namespace: str, operation: Operation) -> bytes:
    """Return the lines of an operation; ``namespace`` is the prefix of its name."""
    kind, (category, metric), value = operation
    name = _NOT_IN_NAMES.sub("_", f"{namespace}{category}.{metric}")
    number = _decimal(value)
    line = f"{name}:{number}|{kind}"
    if kind is GAUGE and number.startswith("-"):
        line = f"{name}:0|{kind}\n{line}"
    return line.encode()


def _decimal(value: Number) -> str:
    """Write a number without an exponent, which not every server reads."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    text = repr(float(value))
    return format(Decimal(text), "f") if "e" in text else text
