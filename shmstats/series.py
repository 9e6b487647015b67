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
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from .bounds import Bounds
from .frozen import Frozen, NamedTuple

#: Units of histograms of times, which are kept in ms.
TIME_UNITS = frozenset({"", "seconds", "milliseconds", "ms"})

#: The category of the metrics that another library names and exports.
FOREIGN = "prometheus_client"

#: What a gauge may be shown as; the latter's series have this label as well, with the state that they stand for.
INFO, STATE = "info", "state"

#: (label name, label value) pairs, sorted by name.
Labels = tuple[tuple[str, str], ...]


class Kind(enum.IntEnum):
    """What a statistic is; the number is what the block and the saved snapshot store."""

    COUNTER = 1
    GAUGE = 2
    HISTOGRAM = 3
    TIMESTAMP = 4


class Mode(enum.IntEnum):
    """How the values that workers have of one gauge become one; the number is what the block stores.

    The words are prometheus_client's. Of a *live* mode only the contributions of living workers count.
    """

    LAST = 0  # not by worker: the last write of any worker wins
    ALL = 1  # a series for each worker
    SUM = 2
    MIN = 3
    MAX = 4
    MOSTRECENT = 5
    LIVEALL = 9
    LIVESUM = 10
    LIVEMIN = 11
    LIVEMAX = 12
    LIVEMOSTRECENT = 13

    @property
    def live(self) -> bool:
        """Whether only the contributions of living workers count."""
        return self >= Mode.LIVEALL

    @property
    def base(self) -> Mode:
        """The mode without ``live``."""
        return Mode(self & 7)


class Declaration(NamedTuple):
    """What is declared about a metric: all its series, whatever their labels.

    Attributes:
        kind: of its series.
        help: a sentence for people; may be empty.
        unit: the unit of the value, in the plural ("bytes"); may be empty.
        bounds: of a histogram's buckets: in ms if the unit is empty or one of time, else in the unit. Other kinds:
            empty.
        mode: of a gauge.
        labelnames: the label names that its series must have, sorted; None: any.
        shown: what a gauge is shown as: `INFO`, `STATE`, or empty.
    """

    kind: Kind
    help: str = ""
    unit: str = ""
    bounds: Bounds = ()
    mode: Mode = Mode.LAST
    labelnames: tuple[str, ...] | None = None
    shown: str = ""


class Name(NamedTuple):
    """A statistic's name and what is declared about it.

    Attributes:
        category: 1 to 255 bytes of UTF-8, without NUL.
        metric: as ``category``.
        kind: what the value is, see `Value`.
        labels: of the series; empty for most.
        monotonic: a counter that was never decremented. Other kinds: False.
        bounds: as in `Declaration`.
        help: as in `Declaration`.
        unit: as in `Declaration`.
        mode: of a gauge.
        created: when the series was made, in ns since 1970; 0 where that is not known.
        shown: as in `Declaration`.
        carried: a histogram with observations that were made with other buckets, and may be in wrong ones of these: the
            error of its percentiles is not known.
    """

    category: str
    metric: str
    kind: Kind
    labels: Labels = ()
    monotonic: bool = False
    bounds: Bounds = ()
    help: str = ""
    unit: str = ""
    mode: Mode = Mode.LAST
    created: int = 0
    shown: str = ""
    carried: bool = False


class Exemplar(NamedTuple):
    """One count or observation, by which to find more about it.

    Attributes:
        labels: of the exemplar itself: of a trace, say.
        value: what was counted or observed.
        moment: seconds since 1970.
    """

    labels: Labels
    value: float
    moment: float


class Distribution(Frozen):
    """The value of a histogram.

    Attributes:
        sum: of all observations, in ms or the declared unit.
        max: the largest observation; 0.0 where there is none.
        buckets: observations in each bucket (not cumulative), one more than there are bounds: the
            last one counts what lies above every bound.
        min: the smallest observation; 0.0 where there is none, or it is not known.
    """

    sum: float
    max: float
    buckets: tuple[int, ...]
    min: float = 0.0

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.buckets)


#: A counter's or timestamp's value is an int (a timestamp: microseconds since 1970-01-01 UTC), a
#: gauge's an int or a finite float, a histogram's a Distribution.
Value = int | float | Distribution


#: Figures of histograms over the last minutes, by category, metric and labels.
Recent = Mapping[tuple[str, str, Labels], Mapping[str, float]]

_NONE: Mapping[Any, Any] = {}

_Item = TypeVar("_Item")


class Deferred(Sequence[_Item]):
    """A sequence whose items are made when somebody looks at them, by `_make`; who has no need of them saves the time.

    Args:
        length: of it.
    """

    __slots__ = ("_items", "_length")

    def __init__(self, length: int) -> None:
        self._length = length
        self._items: Sequence[_Item] | None = None

    def _make(self) -> Sequence[_Item]:
        """Make the items."""
        raise NotImplementedError

    @property
    def items(self) -> Sequence[_Item]:
        """The items, made once."""
        items = self._items
        if items is None:
            items = self._items = self._make()
        return items

    def at(self, positions: Sequence[int]) -> list[_Item]:
        """Return the items at some positions, none of them negative."""
        items = self.items
        return [items[position] for position in positions]

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> _Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[_Item]: ...
    def __getitem__(self, place: int | slice) -> _Item | Sequence[_Item]:
        return self.items[place]

    def __iter__(self) -> Iterator[_Item]:
        return iter(self.items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return self is other or list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.items)


def items_at(items: Sequence[_Item], positions: Sequence[int]) -> list[_Item]:
    """Return the items at some positions, none of them negative; of a deferred sequence no others are made."""
    return items.at(positions) if isinstance(items, Deferred) else [items[position] for position in positions]


class Snapshot(Frozen):
    """Every statistic at one moment.

    Attributes:
        names: the names, in the order of their registration; no two have the same category,
            metric and labels. The same object as in the reader's last snapshot if nothing changed.
        values: the values, ``values[i]`` being that of ``names[i]``.
        system: figures of the machine and the workers, by metric: the category ``system``.
        exemplars: of series that have some, the last one of each sample last.
        recent: what was observed in histograms in the last minutes, as far as the history has it.
        health: how the statistics themselves fare, for the Prometheus page: metrics of the category ``shmstats``.
        workers: for a breakdown by worker row: row number to values (as ``values``; None where the
            row holds nothing of that name). Empty unless it was asked for.
    """

    names: Sequence[Name]
    values: Sequence[Value]
    system: Mapping[str, int | float] = _NONE
    workers: Mapping[int, Sequence[Value | None]] = _NONE
    health: Mapping[str, int | float] = _NONE
    exemplars: Sequence[tuple[Name, tuple[Exemplar, ...]]] = ()
    recent: Recent = _NONE

    def value_of(self, category: str, metric: str) -> Value | None:
        """Return the value of a series without labels; None where there is none."""
        found = (i for i, name in enumerate(self.names) if name[:2] == (category, metric) and not name.labels)
        place = next(found, None)
        return None if place is None else self.values[place]


_Shown = TypeVar("_Shown")


def by_category(shown: Iterable[tuple[Name, _Shown]]) -> dict[str, dict[str, _Shown]]:
    """Put what is shown of series into ``{category: {series: what is shown}}``, the series as people write them.

    Should a metric without labels be *called* like a series with labels, it keeps its name and the other gets a
    comma before the brace.
    """
    document: dict[str, dict[str, _Shown]] = {}
    labelled = []
    for name, value in shown:
        metrics = document.get(name.category)
        if metrics is None:
            metrics = document[name.category] = {}
        if name.labels:
            labelled.append((metrics, name, value))
        else:
            metrics[name.metric] = value
    for metrics, name, value in labelled:
        key = series_text(name)
        while key in metrics:
            key = f"{key[:-1]},}}"
        metrics[key] = value
    return document


def series_text(name: Name) -> str:
    """Return a series as people write it: its metric, and its labels if it has any."""
    return f"{name.metric}{{{label_text(name.labels)}}}" if name.labels else name.metric


def label_text(labels: Iterable[tuple[str, str]]) -> str:
    """Labels as they stand between the braces of a sample: ``a="1",b="2"``.

    A name that is no identifier is quoted like a value, as Prometheus 3 does with names in UTF-8.
    """
    return ",".join([f"{_quoted_if_needed(name)}={quoted(value)}" for name, value in labels])


def _quoted_if_needed(name: str) -> str:
    return name if is_label_name(name) else quoted(name)


def is_label_name(name: str) -> bool:
    """Tell whether the name of a label needs no quotes."""
    return _IDENTIFIER.fullmatch(name) is not None


def quoted(text: str) -> str:
    """Return text as the value of a label: in quotes, with a back-slash before what needs one."""
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'"{escaped}"'


_IDENTIFIER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
