"""The provider: a counting call appends its operation to the intake of the process's sender, and returns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from ... import lifecycle
from ...config import StatsdSettings
from .operations import COUNTER, GAUGE, TIMING
from .sender import SendFailures, StatsdSender


class StatsdProvider:
    """Sends every operation to a StatsD server.

    Its thread starts with the first operation of a process. The child of a fork starts its own, and
    leaves operations held before the fork to its parent.

    Args:
        settings: the section ``statsd``; ``enabled`` is ignored.
        report: called, by the provider's thread, with `FAILURES` and `OPERATIONS_DROPPED` each time.

    Attributes:
        name: its name in the log.
    """

    #: For guards of providers: only `flush` and `close` wait, and no method counts.
    nonblocking = True
    reentrant = True

    def __init__(self, settings: StatsdSettings, report: Callable[[str], None]) -> None:
        self.name = f"StatsD {settings.host}:{settings.port} ({settings.protocol})"
        self._settings = settings
        self._failures = SendFailures(self.name, report)
        self._sender = StatsdSender(settings, self._failures)
        lifecycle.take_part(lifecycle.Stage.SENDERS, self)

    def incr(self, category: str, metric: str, n: int) -> None:
        """Add n to a counter."""
        self._sender.hold((COUNTER, (category, metric), n))

    def decr(self, category: str, metric: str, n: int) -> None:
        """Take n away from a counter."""
        self._sender.hold((COUNTER, (category, metric), -n))

    def gauge(self, category: str, metric: str, value: int | float) -> None:
        """Set a gauge."""
        self._sender.hold((GAUGE, (category, metric), value))

    def absolute(self, category: str, metric: str, value: int) -> None:
        """Set a gauge."""
        self._sender.hold((GAUGE, (category, metric), value))

    def timing(self, category: str, metric: str, milliseconds: float) -> None:
        """Record a duration."""
        self._sender.hold((TIMING, (category, metric), milliseconds))

    def timestamp(self, category: str, metric: str, moment: datetime) -> None:
        """Set a gauge to a moment, in seconds since 1970 UTC."""
        self._sender.hold((GAUGE, (category, metric), moment.timestamp()))

    def flush(self, timeout: float = 0.9) -> bool:
        """Send everything held now.

        Args:
            timeout: longest time to wait, in seconds.

        Returns:
            Whether all was sent in that time; over UDP, whether it was given to the network.
        """
        return self._sender.ask(stop=False, timeout=timeout)

    def close(self, timeout: float = 0.9) -> bool:
        """Send everything held now, close the connection and end the thread. The next operation starts again.

        Args:
            timeout: longest time to wait, in seconds; the thread ends when it can.

        Returns:
            Whether all was sent in that time; over UDP, whether it was given to the network.
        """
        return self._sender.ask(stop=True, timeout=timeout)

    def forget(self) -> None:
        """Reset in the child of a fork: the parent sends what it held, over its own connection."""
        self._sender.link.close()
        self._sender = StatsdSender(self._settings, self._failures)
