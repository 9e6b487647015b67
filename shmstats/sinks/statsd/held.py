"""Operations that wait to be sent: counters as one sum for each name, gauges as their last values, timings singly."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .lines import COUNTER, GAUGE, TIMING, Number, Operation, StatsdKey

#: Most distinct names of counters and gauges, and most timings, held while nothing can be sent.
MAX_NAMES = 10_000
MAX_TIMINGS = 10_000


class HeldOperations:
    """Folded operations that wait to be sent. The caller holds their lock.

    Attributes:
        operations: number folded since the last `take`.
        dropped: number dropped and not reported yet.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.dropped = 0
        self._counters: dict[StatsdKey, Number] = {}
        self._gauges: dict[StatsdKey, Number] = {}
        self._timings: deque[tuple[StatsdKey, Number]] = deque()

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not (self._counters or self._gauges or self._timings)

    def add(self, operation: Operation) -> None:
        """Fold an operation in."""
        kind, key, value = operation
        self.operations += 1
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

    def take(self) -> list[Operation]:
        """Return all held operations, and hold none."""
        operations = [(COUNTER, key, value) for key, value in self._counters.items()]
        operations += [(GAUGE, key, value) for key, value in self._gauges.items()]
        operations += [(TIMING, key, value) for key, value in self._timings]
        self._counters.clear()
        self._gauges.clear()
        self._timings.clear()
        self.operations = 0
        return operations

    def put_back(self, operations: Iterable[Operation]) -> None:
        """Hold operations again that could not be sent; operations that came since are newer."""
        newer = self.take()
        for operation in (*operations, *newer):
            self.add(operation)
        self.operations = 0

    def _has_room(self) -> bool:
        if len(self._counters) + len(self._gauges) < MAX_NAMES:
            return True
        self.dropped += 1
        return False
