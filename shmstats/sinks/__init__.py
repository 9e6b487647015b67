"""What a registry can hold: things that take every counting operation.

The shared block is one (`shmstats.attachment.slow_path`). A further one is any object with the methods of
`Provider`; ``stats.register`` takes it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol, runtime_checkable


@runtime_checkable
class Provider(Protocol):
    """Takes every operation of a registry, with arguments that were checked."""

    def incr(self, category: str, metric: str, n: int) -> None:
        """Add n to a counter."""

    def decr(self, category: str, metric: str, n: int) -> None:
        """Take n away from a counter."""

    def gauge(self, category: str, metric: str, value: int | float) -> None:
        """Set a gauge."""

    def absolute(self, category: str, metric: str, value: int) -> None:
        """Set a counter or an integer gauge."""

    def timing(self, category: str, metric: str, milliseconds: float) -> None:
        """Take up one duration."""

    def timestamp(self, category: str, metric: str, moment: datetime) -> None:
        """Note a moment."""
