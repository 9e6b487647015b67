"""The children of a metric with labels, by label values, in this process.

They replace prometheus_client's dict. A child is put on the block when it is added. A child whose series another
process has removed is dropped, and all label sets beyond the limit share one child, so memory does not grow with what
clients send.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...block.keys import OVERFLOW
from . import asking
from .family import CATEGORY, series_labels
from .internals import metrics
from .values import FamilyRecorder

Labelvalues = tuple[str, ...]

#: The classes whose children `ClientChildren.make` makes: their children differ only in their labels.
_OWN_TYPES = frozenset((metrics.Counter, metrics.Gauge, metrics.Histogram, metrics.Summary))

#: Number of children at which the first search for children removed by other processes happens.
_FIRST_CHECK = 64


class ClientChildren(dict[Labelvalues, Any]):
    """The children of one metric. A lookup is one in a dict, as long as no limit is reached.

    Args:
        recorder: of the metric's family.
        labelnames: of the metric, in its order.
    """

    def __init__(self, recorder: FamilyRecorder, labelnames: tuple[str, ...]) -> None:
        super().__init__()
        self.recorder = recorder
        self.store = recorder.store
        self.labelnames = labelnames
        self.overflow = (OVERFLOW,) * len(labelnames)
        self._model: tuple[Any, dict[str, Any]] | None = None
        self._generation = asking.generation(self.store.shared)
        self._next_check = _FIRST_CHECK

    def __setitem__(self, labelvalues: Labelvalues, child: Any) -> None:
        child._recorder = self.recorder
        if self._model is None and type(child) in _OWN_TYPES:
            self._model = type(child), dict(vars(child))
        self._begin(labelvalues, child)

    def _begin(self, labelvalues: Labelvalues, child: Any) -> None:
        """Put a child on the block, and keep it."""
        child._metric_init()
        if super().__len__() >= self._next_check:  # rarely, so that the total cost stays proportional to their number
            self._next_check = 2 * len(self) + _FIRST_CHECK
        if child._overflows:
            labelvalues = self.overflow
            self.__class__ = _FullChildren
        super().__setitem__(labelvalues, child)

    def make(self, labelvalues: Labelvalues) -> Any:
        """Make a child as prometheus_client makes it; it differs from the first one only in its label values.

        Returns None if there is none yet, or its class may do something else for each child.
        """
        if self._model is None:
            return None
        cls, attributes = self._model
        child = cls.__new__(cls)
        child.__dict__ = {**attributes, "_labelvalues": labelvalues}
        self._begin(labelvalues, child)
        return child

    def __len__(self) -> int:
        self.drop_removed()
        return super().__len__()

    def __iter__(self) -> Iterator[Labelvalues]:
        self.drop_removed()
        return super().__iter__()

    def drop_removed(self) -> None:
        """Drop the children whose series another process has removed; do nothing if no name was removed since."""
        shared = self.store.shared
        generation = asking.generation(shared)
        if generation == self._generation:
            return
        there = set(asking.label_sets(shared, self.recorder.metric))
        for labelvalues in list(super().keys()):
            if labelvalues != self.overflow and series_labels(self.labelnames, labelvalues) not in there:
                super().pop(labelvalues, None)
        self._generation = generation


class _FullChildren(ClientChildren):
    """Children, one of which is shared by all label sets that the block does not admit."""

    def __contains__(self, labelvalues: object) -> bool:
        if super().__contains__(labelvalues):
            return True
        assert isinstance(labelvalues, tuple)
        labels, shared = series_labels(self.labelnames, labelvalues), self.store.shared
        return (
            super().__contains__(self.overflow)
            and shared is not None
            and not shared.admits(CATEGORY, self.recorder.metric, labels)
        )

    def __missing__(self, labelvalues: Labelvalues) -> Any:
        if labelvalues == self.overflow:
            raise KeyError(labelvalues)
        return self[self.overflow]
