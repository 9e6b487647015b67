"""What a reader sees of the statistics: names, kinds, values, and a snapshot of them all.

This is the vocabulary that the block, the exporters and the saved snapshot share. It knows nothing
of where the values come from or how they are written.

A *series* is one name with its value. A snapshot holds the series column-wise, names in one
sequence and values in another, because the names change seldom and are worth caching: as long as
nothing was registered, removed or redeclared, two snapshots of one reader hold the *same* ``names``
object, so whatever was derived from it (line prefixes, say) may be kept beside it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Kind(enum.IntEnum):
    """What a statistic is; the number is what the block and the saved snapshot store."""

    COUNTER = 1
    GAUGE = 2
    HISTOGRAM = 3
    TIMESTAMP = 4


class Name(NamedTuple):
    """A statistic's name and what is declared about it.

    Attributes:
        category: 1 to 255 bytes of UTF-8, without NUL.
        metric: as ``category``.
        kind: what the value is, see `Value`.
        labels: (label name, label value) pairs, sorted by label name; empty for most.
        monotonic: a counter that was never decremented. Other kinds: False.
        bounds: a histogram's upper bounds in ms, ascending, without infinity. Other kinds: empty.
        help: a sentence for people; may be empty.
        unit: the unit of the value, in the plural ("bytes"); may be empty.
    """

    category: str
    metric: str
    kind: Kind
    labels: tuple[tuple[str, str], ...] = ()
    monotonic: bool = False
    bounds: tuple[float, ...] = ()
    help: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The value of a histogram.

    Attributes:
        sum: of all observations, in ms.
        max: the largest observation, in ms; 0.0 where there is none.
        buckets: observations in each bucket (not cumulative), one more than there are bounds: the
            last one counts what lies above every bound.
    """

    sum: float
    max: float
    buckets: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.buckets)


#: A counter's or timestamp's value is an int (a timestamp: microseconds since 1970-01-01 UTC), a
#: gauge's an int or a finite float, a histogram's a Distribution.
Value = int | float | Distribution


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every statistic at one moment.

    Attributes:
        names: the names, in the order of their registration; no two have the same category,
            metric and labels. The same object as in the reader's last snapshot if nothing changed.
        values: the values, ``values[i]`` being that of ``names[i]``.
        system: figures of the machine and the workers, by metric: the category ``system``.
        workers: for a breakdown by worker row: row number to values (as ``values``; None where the
            row holds nothing of that name). Empty unless it was asked for.
    """

    names: Sequence[Name]
    values: Sequence[Value]
    system: Mapping[str, int | float] = field(default_factory=dict)
    workers: Mapping[int, Sequence[Value | None]] = field(default_factory=dict)
