"""The destinations of a registry's operations.

The shared block is one (`shmstats.attachment.slow_path`). Any object with the methods of
`Provider` can be a further one; ``stats.register`` takes it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol, runtime_checkable


@runtime_checkable
class Provider(Protocol):
    """Takes every operation of a registry, with checked arguments."""

    def incr(self, category: str, metric: str, n: int) -> None:
        """Add n to a counter."""

    def decr(self, category: str, metric: str, n: int) -> None:
        """Subtract n from a counter."""

    def gauge(self, category: str, metric: str, value: int | float) -> None:
        """Set a gauge."""

    def absolute(self, category: str, metric: str, value: int) -> None:
        """Set a counter or an integer gauge."""

    def timing(self, category: str, metric: str, milliseconds: float) -> None:
        """Add one duration to a histogram."""

    def timestamp(self, category: str, metric: str, moment: datetime) -> None:
        """Record a moment."""


def check_provider(provider: object) -> None:
    """Check that an object has the methods of a provider.

    Raises:
        TypeError: it lacks one of them.
    """
    required = [name for name in vars(Provider) if not name.startswith("_")]
    missing = [name for name in required if not callable(getattr(provider, name, None))]
    if missing:
        raise TypeError(
            f"provider must have the methods {', '.join(required)};"
            f" {type(provider).__name__} lacks {', '.join(missing)}"
        )
