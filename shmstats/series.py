"""The vocabulary of readers: names, kinds, values, and a snapshot of all series.

The block, the exporters and the saved snapshot share it. A snapshot is column-wise: as long as nothing was
registered, removed or declared, two snapshots of one reader have the *same* ``names`` object, so data derived from it
may be cached with it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from .bounds import Bounds
from .frozen import Frozen, NamedTuple

#: Units of histograms of times, which are kept in ms.
TIME_UNITS = frozenset({"", "seconds", "milliseconds", "ms"})

#: The category of the metrics that prometheus_client names and exports.
FOREIGN = "prometheus_client"

#: What a gauge may be shown as. The series of a state also have the label `STATE`, with the state of the series.
INFO, STATE = "info", "state"

#: (label name, label value) pairs, sorted by name.
Labels = tuple[tuple[str, str], ...]

#: Category, metric and labels of a series.
SeriesKey = tuple[str, str, Labels]


class Kind(enum.IntEnum):
    """The kind of a statistic; the block and the saved snapshot store the number."""

    COUNTER = 1
    GAUGE = 2
    HISTOGRAM = 3
    TIMESTAMP = 4


class Mode(enum.IntEnum):
    """How a reader combines the workers' values of one gauge; the block stores the number.

    The names are prometheus_client's. In a *live* mode, whose number is that of the mode plus 8, only the values of
    living workers count.
    """

    LAST = 0  # one value for all workers: the last write wins
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
    """The declaration of a metric: it holds for all its series, whatever their labels.

    Attributes:
        kind: of its series.
        help: a sentence for people; may be empty.
        unit: the unit of the value, in the plural ("bytes"); may be empty.
        bounds: of a histogram's buckets: in ms if the unit is empty or one of time, else in the unit; empty for
            other kinds.
        mode: of a gauge.
        labelnames: the label names that its series must have, sorted; None: any.
        shown: of a gauge: `INFO`, `STATE`, or empty.
    """

    kind: Kind
    help: str = ""
    unit: str = ""
    bounds: Bounds = ()
    mode: Mode = Mode.LAST
    labelnames: tuple[str, ...] | None = None
    shown: str = ""


class Name(NamedTuple):
    """A statistic's name with its declaration.

    Attributes:
        category: 1 to 255 bytes of UTF-8, without NUL.
        metric: as ``category``.
        kind: of the value, see `Value`.
        labels: of the series; empty for most.
        monotonic: whether it is a counter that was never decremented.
        bounds: as in `Declaration`.
        help: as in `Declaration`.
        unit: as in `Declaration`.
        mode: of a gauge.
        created: when the series was made, in ns since 1970; 0 if unknown.
        shown: as in `Declaration`.
        carried: whether observations were moved into a histogram from other buckets, and may be in wrong ones: the
            error of its percentiles is unknown.
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

    @property
    def key(self) -> SeriesKey:
        """What tells it from other series."""
        return self.category, self.metric, self.labels


class Exemplar(NamedTuple):
    """One count or observation, with labels that lead to more information about it.

    Attributes:
        labels: of the exemplar itself, such as a trace ID.
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
        max: the largest observation; 0.0 if there is none.
        buckets: observations in each bucket (not cumulative), one more than there are bounds: the
            last one counts the values above every bound.
        min: the smallest observation; 0.0 if there is none, or it is unknown.
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


#: Figures of histograms over the last 15 minutes, by category, metric and labels.
Recent = Mapping[tuple[str, str, Labels], Mapping[str, float]]

_NONE: Mapping[Any, Any] = {}

_Item = TypeVar("_Item")


class Deferred(Sequence[_Item]):
    """A sequence whose items `_make` makes when somebody first looks at one, so that others do not pay for them.

    Args:
        length: number of items.
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
        """Return the items at some positions, which must not be negative."""
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


class DeferredNames(Deferred["Name"]):
    """Names of which the kinds and keys can be told without making a `Name` of each."""

    __slots__ = ()

    @property
    def kinds(self) -> Sequence[int]:
        """The kind of each."""
        raise NotImplementedError

    @property
    def keys(self) -> Sequence[SeriesKey]:
        """Category, metric and labels of each."""
        raise NotImplementedError


def kinds_of(names: Sequence[Name]) -> Sequence[int]:
    """Return the kind of each name."""
    return names.kinds if isinstance(names, DeferredNames) else [name.kind for name in names]


def keys_of(names: Sequence[Name]) -> Sequence[SeriesKey]:
    """Return category, metric and labels of each name."""
    if isinstance(names, DeferredNames):
        return names.keys
    return [name.key for name in names]


def items_at(items: Sequence[_Item], positions: Sequence[int]) -> list[_Item]:
    """Return the items at some positions, which must not be negative; a deferred sequence makes no others."""
    return items.at(positions) if isinstance(items, Deferred) else [items[position] for position in positions]


class Snapshot(Frozen):
    """Every statistic at one moment.

    Attributes:
        names: the names, in the order of their registration; no two have the same category,
            metric and labels. The same object as in the reader's last snapshot if nothing changed.
        values: the values; ``values[i]`` belongs to ``names[i]``.
        system: figures of the machine and the workers, by metric: the category ``system``.
        exemplars: of the series that have some; if several belong to one sample, the last one counts.
        recent: figures of histograms over the last 15 minutes, as far as the history has them.
        health: health of the statistics themselves, for the Prometheus page: metrics of the category ``shmstats``.
        workers: for a breakdown by worker row: row number to values (as ``values``; None if the
            row has no value of that name). Empty unless requested.
    """

    names: Sequence[Name]
    values: Sequence[Value]
    system: Mapping[str, int | float] = _NONE
    workers: Mapping[int, Sequence[Value | None]] = _NONE
    health: Mapping[str, int | float] = _NONE
    exemplars: Sequence[tuple[Name, tuple[Exemplar, ...]]] = ()
    recent: Recent = _NONE

    def value_of(self, category: str, metric: str) -> Value | None:
        """Return the value of a series without labels; None if there is none."""
        found = (i for i, name in enumerate(self.names) if name[:2] == (category, metric) and not name.labels)
        place = next(found, None)
        return None if place is None else self.values[place]


_Shown = TypeVar("_Shown")


def by_category(shown: Iterable[tuple[SeriesKey, _Shown]]) -> dict[str, dict[str, _Shown]]:
    """Sort items of series by their keys into ``{category: {series: item}}``, with series as `series_text` writes them.

    If a metric without labels is *named* like a series with labels, it keeps its name and the other gets a
    comma before the brace.
    """
    document: dict[str, dict[str, _Shown]] = {}
    labelled = []
    for (category, metric, labels), value in shown:
        metrics = document.get(category)
        if metrics is None:
            metrics = document[category] = {}
        if labels:
            labelled.append((metrics, f"{metric}{{{label_text(labels)}}}", value))
        else:
            metrics[metric] = value
    for metrics, key, value in labelled:
        while key in metrics:
            key = f"{key[:-1]},}}"
        metrics[key] = value
    return document


def series_text(name: Name) -> str:
    """Return a series as text for people: its metric, and its labels if it has any."""
    return f"{name.metric}{{{label_text(name.labels)}}}" if name.labels else name.metric


def label_text(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels as between the braces of a sample: ``a="1",b="2"``.

    A name that is not an identifier is quoted like a value, as Prometheus 3 writes names in UTF-8.
    """
    return ",".join([f"{_quoted_if_needed(name)}={quoted(value)}" for name, value in labels])


def _quoted_if_needed(name: str) -> str:
    return name if is_label_name(name) else quoted(name)


def is_label_name(name: str) -> bool:
    """Tell whether the name of a label needs no quotes."""
    return name.isascii() and name.isidentifier()


def quoted(text: str) -> str:
    """Return text as a label value: in quotes, with a backslash before characters that need one."""
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'"{escaped}"'
