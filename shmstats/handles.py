"""Handles: those that a registry keeps for names and label sets, and those of metrics with labels.

The label set of a series, a value for each label name, distinguishes it from the other series of its metric.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .block import DeclarationError
from .block.declarations import Definition
from .block.keys import MAX_TEXT_BYTES, OVERFLOW, check_text
from .bounds import DEFAULT_BOUNDS, scale_of
from .checks import RESERVED, RESERVED_NAMES, check_category, check_label_names, check_label_pairs, label_value
from .core import Children, Counter, Gauge, Histogram, Recorder, Registrar, Series
from .timer import Timer

_Handle = TypeVar("_Handle", bound=Series)


class Labelled(Children, Generic[_Handle]):
    """A metric with labels: returns the handle of each label set.

    Get one by ``stats.counter``, ``stats.gauge``, ``stats.histogram`` or ``stats.timing`` with ``labelnames``.

    Args:
        keeper: the registry.
        kind: of the handles.
        category: of the metric.
        metric: of the category.
        labelnames: in the order in which `labels` takes their values.
    """

    def __init__(
        self, keeper: HandleKeeper, kind: type[_Handle], category: str, metric: str, labelnames: tuple[str, ...]
    ) -> None:
        self.category = category
        self.metric = metric
        self.labelnames = tuple(map(sys.intern, labelnames))  # C compares names of arguments by their addresses
        self._keeper = keeper
        self._kind = kind

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.category!r} {self.metric!r} {self.labelnames!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = self._keeper, self._kind.__name__, self.category, self.metric, None, self.labelnames
        return remade_handle, arguments

    if TYPE_CHECKING:  # the base class does this if the handle is kept

        def labels(self, /, *values: object, **named: object) -> _Handle:
            """Return the handle of one label set, the same object each time.

            Args:
                values: a value for each of `labelnames`, in that order; a value that is not a str is converted.
                named: instead: the values by label name.

            Raises:
                TypeError: values were given in both ways.
                ValueError: a name is wrong or missing, or the number of values is wrong.
            """

    def remove(self, /, *values: object, **named: object) -> int:
        """Remove one label set for all workers; returns the number of removed label sets (1 or 0).

        Args:
            values: as for `labels`.
            named: as for `labels`.

        Raises:
            TypeError: as `labels` does.
            ValueError: as `labels` does.
        """
        given = self._in_order(values, named)
        texts = tuple(map(label_value, given))
        self._drop_child(texts)
        self._drop_child(given)
        return self._keeper.remove(self.category, self.metric, labels=dict(zip(self.labelnames, texts, strict=True)))

    def clear(self) -> int:
        """Remove all label sets for all workers; returns the number of removed label sets."""
        self._drop_child()
        return self._keeper.remove(self.category, self.metric)

    def _labels(self, /, *values: object, **named: object) -> _Handle:
        given = self._in_order(values, named)
        texts = tuple(map(label_value, given))
        handle = self._find_child(texts)
        if handle is None:
            pairs = tuple(sorted(zip(self.labelnames, texts, strict=True)))
            handle = self._kind(self._keeper, self.category, self.metric, pairs)
        for each in _keys_of(given, texts):
            self._keep_child(each, handle)
        return handle  # type: ignore[return-value]

    def _in_order(self, values: tuple[object, ...], named: Mapping[str, object]) -> tuple[object, ...]:
        """Return the given label values in the order of the label names."""
        if named and values:
            raise TypeError("label values are given by position or by name, not both")
        if named and (len(named) != len(self.labelnames) or any(name not in named for name in self.labelnames)):
            raise ValueError(
                f"metric {self.metric!r} of category {self.category!r} takes the labels"
                f" {', '.join(self.labelnames)}, not {', '.join(named)}"
            )
        if named:
            return tuple(map(named.__getitem__, self.labelnames))
        if len(values) != len(self.labelnames):
            raise ValueError(
                f"metric {self.metric!r} of category {self.category!r} takes {len(self.labelnames)} label values"
                f" ({', '.join(self.labelnames)}), not {len(values)}: {values!r:.80}"
            )
        return values


Labelled._own_labels()


class HandleKeeper(Recorder):
    """Finds the handle of a name or a label set, and keeps it for the next call."""

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[tuple[str, str], Definition] = {}
        self._use_timers(Timer)
        self._registrar = Registrar(self._declared, RESERVED, RESERVED_NAMES, scale_of(DEFAULT_BOUNDS))

    def remove(self, category: str, metric: str | None = None, *, labels: Mapping[str, object] | None = None) -> int:
        """Remove series for all workers; returns the number of removed series."""
        raise NotImplementedError

    def _handle_of(
        self,
        category: str,
        metric: str,
        kind: type[_Handle],
        labels: Mapping[str, object] | None,
        labelnames: Iterable[str] | None,
    ) -> _Handle | Labelled[_Handle]:
        """Return the handle of a series, or of a metric with labels."""
        if labelnames is None:
            return self._made(category, metric, kind, labels)
        if labels is not None:
            raise TypeError("labels and labelnames cannot be given both")
        names = check_label_names("labelnames", labelnames)
        category, metric = check_category(category), check_text("metric", metric)
        definition = self._declared.get((category, metric))
        declared = None if definition is None else definition.declared
        if declared is not None and declared.labelnames not in (None, tuple(sorted(names))):
            raise DeclarationError(
                f"metric {metric!r} of category {category!r} is declared with the label names"
                f" {declared.labelnames}, not {names}"
            )
        return Labelled(self, kind, category, metric, names)

    def _made(
        self, category: str, metric: str, kind: type[_Handle], labels: Mapping[str, object] | None = None
    ) -> _Handle:
        """Return the handle of a name, of the requested type: the kept one or a new one."""
        if labels is not None:
            return self._made_of_set(category, metric, kind, labels)
        series = self._handle(category, metric)
        if isinstance(series, kind):
            return series
        category, metric = check_category(category), check_text("metric", metric)
        series = self._handle(category, metric)
        return series if isinstance(series, kind) else kind(self, category, metric)

    def _made_of_set(self, category: str, metric: str, kind: type[_Handle], labels: Mapping[str, object]) -> _Handle:
        """Return the handle of a label set: the kept one or a new one."""
        given = _given_set(category, metric, labels)
        kept = self._find_set(kind, given)
        if kept is not None:
            return kept  # type: ignore[return-value]
        category, metric, pairs = check_category(category), check_text("metric", metric), check_label_pairs(labels)
        texts = (category, metric, *itertools.chain.from_iterable(pairs))
        series = self._find_set(kind, texts) or kind(self, category, metric, tuple(sorted(pairs)))
        for each in _keys_of(given, texts):
            self._keep_set(each, series)
        return series  # type: ignore[return-value]

    def _keep_bound(self, series: Series) -> None:
        """Keep a handle for the next call, unless it is not bound: the number of unbound handles has no limit."""
        if series._bound and not series.labels and self._handle(series.category, series.metric) is not series:
            self._keep(series)

    def _reduce_handle(self, series: Series) -> tuple[Any, ...]:
        """Return how a handle of this registry is pickled."""
        labels = dict(series.labels) or None
        return remade_handle, (self, type(series).__name__, series.category, series.metric, labels, None)


def _given_set(category: object, metric: object, labels: Mapping[str, object]) -> tuple[Any, ...]:
    """Return the given arguments as a key of a label set; empty if labels is not a mapping, which is an error later."""
    try:
        return category, metric, *itertools.chain.from_iterable(labels.items())
    except (AttributeError, TypeError):
        return ()


def _keys_of(given: tuple[Any, ...], texts: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return the keys of a label set's handle: its texts, and the values that they were made of if those are short.

    The overflow set has none, because the number of its label values has no limit.
    """
    if OVERFLOW in texts:
        return []
    is_short = all(type(value) is not str or len(value) <= MAX_TEXT_BYTES for value in given)
    return [texts, given] if is_short else [texts]


def remade_handle(
    keeper: HandleKeeper,
    kind: str,
    category: str,
    metric: str,
    labels: Mapping[str, object] | None,
    labelnames: tuple[str, ...] | None,
) -> Series | Labelled[Any]:
    """Return a handle from a pickle, as it is in this process: of this process's registry, bound on first use."""
    kinds: dict[str, type[Series]] = {each.__name__: each for each in (Counter, Gauge, Histogram, Series)}
    return keeper._handle_of(category, metric, kinds[kind], labels, labelnames)
