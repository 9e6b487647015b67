"""Failures of sending to a StatsD server: counted each time, logged the first time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from ...once import Once

log = logging.getLogger("shmstats")

#: Reported events: a failed attempt to send, and a dropped operation.
FAILURES = "statsd_failures"
OPERATIONS_DROPPED = "statsd_operations_dropped"


class SendFailures:
    """Counts and logs the failures of one provider.

    Args:
        name: of the provider, for the log.
        report: called with `FAILURES` and `OPERATIONS_DROPPED` each time, if given.
    """

    def __init__(self, name: str, report: Callable[[str], None] | None) -> None:
        self.name = name
        self._report_to = report
        self._logged = Once()

    def note_failure(self, kind: str, error: object) -> None:
        """Count a failure, and log the first of its kind."""
        self._report(FAILURES)
        if self._logged.first(kind):
            log.error("%s: %s, further ones are only counted: %s", self.name, kind, error)

    def note_dropped(self, operations: int) -> None:
        """Count dropped operations, and log the first time."""
        for _ in range(operations):
            self._report(OPERATIONS_DROPPED)
        if self._logged.first("dropped"):
            log.error("%s: operations were dropped because too many were held, or for too long", self.name)

    def _report(self, metric: str) -> None:
        if self._report_to is not None:
            with suppress(Exception):
                self._report_to(metric)
