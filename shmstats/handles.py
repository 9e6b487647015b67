"""Handles: those that a registry keeps for names and label sets, and those of metrics with labels.

A series of a metric with labels is told from the others by its label set: a value for each label name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from .block import DeclarationError
from .block.declarations import Definition
from .block.names import OVERFLOW, check_text
from .checks import check_category, check_label_names, check_labels, check_value
from .core import Recorder, Series
from .series import Labels

#: Handles that a metric, and label sets that a registry keeps; where there are more, all are dropped and made again.
_KEPT = 10_000

_Handle = TypeVar("_Handle", bound=Series)


class Labelled(Generic[_Handle]):
    """A metric with labels: gives the handle of each label set.

    Get one by ``stats.counter``, ``stats.gauge``, ``stats.histogram`` or ``stats.timing`` with ``labelnames``.

    Attributes:
        category: of the metric.
        metric: of the category.
        labelnames: in the order in which `labels` takes values.
    """

    def __init__(
        self,
        category: str,
        metric: str,
        labelnames: tuple[str, ...],
        make: Callable[[Labels], _Handle],
        remove: Callable[[Labels | None], int],
    ) -> None:
        self.category = category
        self.metric = metric
        self.labelnames = labelnames
        self._make = make
        self._remove = remove
        self._handles: dict[tuple[str, ...], _Handle] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.category!r} {self.metric!r} {self.labelnames!r}>"

    def labels(self, /, *values: str, **named: str) -> _Handle:
        """Return the handle of one label set; the same one the next time.

        Args:
            values: a value for each of `labelnames`, in that order.
            named: or the values by label name.

        Raises:
            TypeError: a value is not a str, or there are values of both kinds.
            ValueError: a name is wrong or missing, the number of values is wrong, or a value is not allowed.
        """
        if named:
            values = self._in_order(values, named)
        try:
            return self._handles[values]
        except (KeyError, TypeError):
            return self._new_handle(values)

    def remove(self, /, *values: str, **named: str) -> int:
        """Remove one label set, for all workers; returns whether it was there (1 or 0).

        Args:
            values: as for `labels`.
            named: as for `labels`.

        Raises:
            TypeError: as `labels` does.
            ValueError: as `labels` does.
        """
        if named:
            values = self._in_order(values, named)
        pairs = self._pairs(values)
        self._handles.pop(values, None)
        return self._remove(pairs)

    def clear(self) -> int:
        """Remove all label sets, for all workers; returns how many there were."""
        self._handles.clear()
        return self._remove(None)

    def _new_handle(self, values: tuple[str, ...]) -> _Handle:
        handle = self._make(self._pairs(values))
        if OVERFLOW not in values:
            if len(self._handles) >= _KEPT:
                self._handles.clear()
            handle = self._handles.setdefault(values, handle)
        return handle

    def _pairs(self, values: tuple[str, ...]) -> Labels:
        if len(values) != len(self.labelnames):
            raise ValueError(
                f"metric {self.metric!r} of category {self.category!r} takes {len(self.labelnames)} label values"
                f" ({', '.join(self.labelnames)}), not {len(values)}: {values!r:.80}"
            )
        return tuple(
            sorted((name, check_value(name, value)) for name, value in zip(self.labelnames, values, strict=True))
        )

    def _in_order(self, values: tuple[str, ...], named: Mapping[str, str]) -> tuple[str, ...]:
        if values:
            raise TypeError("label values are given by position or by name, not both")
        if len(named) != len(self.labelnames) or any(name not in named for name in self.labelnames):
            raise ValueError(
                f"metric {self.metric!r} of category {self.category!r} takes the labels"
                f" {', '.join(self.labelnames)}, not {', '.join(named)}"
            )
        return tuple(map(named.__getitem__, self.labelnames))


class HandleKeeper(Recorder):
    """Finds the handle of a name or a label set, and keeps it for the next time."""

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[tuple[str, str], Definition] = {}
        self._sets: dict[tuple[Any, ...], Series] = {}

    def remove(self, category: str, metric: str | None = None, *, labels: Mapping[str, str] | None = None) -> int:
        """Remove series, for all workers; returns how many."""
        raise NotImplementedError

    def _handle_of(
        self,
        category: str,
        metric: str,
        kind: type[_Handle],
        labels: Mapping[str, str] | None,
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
        return Labelled(
            category,
            metric,
            names,
            lambda pairs: kind(self, category, metric, pairs),
            lambda pairs: self.remove(category, metric, labels=None if pairs is None else dict(pairs)),
        )

    def _made(
        self, category: str, metric: str, kind: type[_Handle], labels: Mapping[str, str] | None = None
    ) -> _Handle:
        """Return the handle of a name, of the type asked for: the kept one or a new one."""
        if labels is not None:
            return self._made_of_set(category, metric, kind, labels)
        series = self._handle(category, metric)
        if isinstance(series, kind):
            return series
        category, metric = check_category(category), check_text("metric", metric)
        series = self._handle(category, metric)
        return series if isinstance(series, kind) else kind(self, category, metric)

    def _made_of_set(self, category: str, metric: str, kind: type[_Handle], labels: Mapping[str, str]) -> _Handle:
        """Return the handle of a label set: the kept one or a new one."""
        kept = self._kept_of_set(category, metric, kind, labels)
        if kept is not None:
            return kept
        pairs = check_labels(labels)
        series = kind(self, check_category(category), check_text("metric", metric), pairs)
        if len(self._sets) >= _KEPT:
            self._sets.clear()
        items = tuple((str.__str__(name), str.__str__(value)) for name, value in labels.items())
        self._sets[series.category, series.metric, kind, *items] = series
        return series

    def _kept_of_set(
        self, category: str, metric: str, kind: type[_Handle], labels: Mapping[str, str]
    ) -> _Handle | None:
        """Return the handle of a label set that was kept; None where there is none, or an argument is wrong."""
        try:
            kept = self._sets.get((category, metric, kind, *labels.items()))
        except (AttributeError, TypeError):
            return None
        return kept if isinstance(kept, kind) else None

    def _keep_bound(self, series: Series) -> None:
        """Keep a handle for the next time, unless it leads nowhere: those could be without number."""
        if series._bound and not series.labels and self._handle(series.category, series.metric) is not series:
            self._keep(series)
