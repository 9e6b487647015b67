"""Labels: what they may be, and handles of metrics that have them.

A series of a metric with labels is told from the others by its label set: a value for each label name. The
rules for names are Prometheus' (https://prometheus.io/docs/concepts/data_model/), less the names that mean
something in what is exported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from .block.names import MAX_TEXT_BYTES, OVERFLOW
from .core import Series
from .series import Labels

#: Label names that mean something in what is exported.
RESERVED_NAMES = ("category", "le", "metric", "pid", "quantile", "raw_labels")

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

#: Handles that a metric keeps; where there are more, all are dropped and made again.
_KEPT = 10_000

_Handle = TypeVar("_Handle", bound=Series)


def check_label_names(what: str, names: object) -> tuple[str, ...]:
    """Check the label names of a metric.

    Args:
        what: the argument's name, for the error.
        names: an iterable of label names.

    Returns:
        The names, in the order given.

    Raises:
        TypeError: it is no iterable of str.
        ValueError: there is none, one is there twice, or one is not allowed.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{what} must be a sequence of str, not {type(names).__name__} ({names!r:.80})")
    checked = tuple(_check_name(what, name) for name in names)
    if not checked:
        raise ValueError(f"{what} must have a label name")
    twice = next((name for name in checked if checked.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{what} has {twice!r} twice")
    return checked


def check_labels(labels: object) -> Labels:
    """Check a label set.

    Args:
        labels: a mapping of label name to label value; None for no labels.

    Returns:
        Its pairs, sorted by name.

    Raises:
        TypeError: it is no mapping, or a name or value is not a str.
        ValueError: a name or value is not allowed.
    """
    if labels is None:
        return ()
    if not isinstance(labels, Mapping):
        raise TypeError(
            f"labels must be a mapping of label name to value, not {type(labels).__name__} ({labels!r:.80})"
        )
    return tuple(sorted((_check_name("labels", name), _check_value(name, value)) for name, value in labels.items()))


def _check_name(what: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a label name in {what} must be a str, not {type(name).__name__} ({name!r:.80})")
    name = str.__str__(name)
    if not _NAME.fullmatch(name) or name.startswith("__"):
        raise ValueError(
            f"label name {name!a:.80} in {what} must be of letters, digits and underscores, not begin with a digit"
            " or with two underscores"
        )
    if name in RESERVED_NAMES:
        raise ValueError(f"label name {name!r} in {what} is reserved, as are {', '.join(RESERVED_NAMES)}")
    if len(name) > MAX_TEXT_BYTES:
        raise ValueError(f"a label name in {what} must be at most {MAX_TEXT_BYTES} bytes: {name!r:.80}…")
    return name


def _check_value(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the value of label {name!r} must be a str, not {type(value).__name__} ({value!r:.80})")
    value = str.__str__(value)
    if "\0" in value:
        raise ValueError(f"the value of label {name!r} must not contain a NUL character: {value!r:.80}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the value of label {name!r} must not contain a lone surrogate: {value!a:.80}") from None
    if size > MAX_TEXT_BYTES:
        raise ValueError(
            f"the value of label {name!r} must be at most {MAX_TEXT_BYTES} bytes of UTF-8, not {size}: {value!r:.80}…"
        )
    return value


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
            sorted((name, _check_value(name, value)) for name, value in zip(self.labelnames, values, strict=True))
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
