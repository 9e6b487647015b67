"""Sends the operations of a registry to the shared block and to the further providers.

Further providers do not get labels: they get all operations of a metric under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..attachment.slow_path import SharedProvider
from ..core import Series
from ..series import Labels

if TYPE_CHECKING:
    from .guarded import GuardedProvider


class FanOut:
    """The destinations of one configuration. An object never changes; a new configuration makes a new one.

    Args:
        shared: the shared block; None if nothing is counted, and no operation may be called.
        others: the further providers, which then get nothing either.

    Attributes:
        shared: as the argument.
        others: as the argument.
    """

    def __init__(self, shared: SharedProvider | None, others: tuple[GuardedProvider, ...] = ()) -> None:
        self.shared = shared
        self.others = others

    def count(self, sign: int, series: Series, n: int) -> None:
        """Add n to a counter or gauge, or subtract it, by the sign."""
        SharedProvider.count(self.shared, series, sign * n)
        self._tell("incr" if sign > 0 else "decr", series, n)

    def move(self, series: Series, n: int | float) -> None:
        """Add a number that is not an integer to a gauge; further providers get the result."""
        SharedProvider.count(self.shared, series, n)
        if self.others:
            value = SharedProvider.value(self.shared, series.category, series.metric, series.labels)
            if isinstance(value, (int, float)):
                self._tell("gauge", series, value)

    def set(self, series: Series, value: int | float) -> None:
        """Set a gauge."""
        SharedProvider.set(self.shared, series, value)
        self._tell("gauge", series, value)

    def set_total(self, series: Series, value: int) -> None:
        """Set a gauge, or the total of a counter."""
        SharedProvider.set(self.shared, series, value)
        self._tell("absolute", series, value)

    def observe(self, series: Series, value: float) -> None:
        """Add one observation to a histogram."""
        SharedProvider.observe(self.shared, series, value)
        self._tell("timing", series, value)

    def note(self, series: Series, moment: datetime, since_1970: timedelta) -> None:
        """Record a moment."""
        SharedProvider.note(self.shared, series, since_1970 // timedelta(microseconds=1))
        self._tell("timestamp", series, moment)

    def annotate(self, series: Series, change: Callable[[bytes], bytes]) -> None:
        """Change the note of a series; further providers have none."""
        SharedProvider.annotate(self.shared, series, change)

    def show(self, category: str, metric: str, base: Labels, wanted: Mapping[Labels, int]) -> None:
        """Make the series of a thing exactly these; further providers have neither infos nor states."""
        SharedProvider.show(self.shared, category, metric, base, wanted)

    def flush(self) -> None:
        """Flush what this process has buffered.

        Raises:
            BlockError: the block is damaged.
        """
        if self.shared is not None:
            self.shared.flush()
        for other in self.others:
            other.flush()

    def close(self) -> None:
        """Leave the block; the next operation attaches it again."""
        for other in self.others:
            other.flush()
        if self.shared is not None:
            self.shared.close()

    def _tell(self, method: str, series: Series, value: int | float | datetime) -> None:
        for other in self.others:
            other.deliver(method, series.category, series.metric, value)
