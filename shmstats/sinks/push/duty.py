"""The push as a duty of the saver: when to push, what to say of it, how long to wait after a failure."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

from shmstats.config import PushSettings
from shmstats.series import Snapshot
from shmstats.sinks.push.sender import PushError, Sender
from shmstats.sinks.push.stale import Stale

log = logging.getLogger("shmstats")

_LONGEST_WAIT = 60.0
_LAST_PUSH_SECONDS = 5.0


class PushDuty:
    """Pushes what was just saved.

    Args:
        settings: where to, and how; it has a URL.
        directory: of the statistics.

    Attributes:
        name: of the duty.
        interval: seconds between two pushes.
        pushed: ns since 1970 of the last push that was accepted; 0: none.
        error: why the last push was not accepted; empty: it was.
        rejected: how many pushes were refused.
    """

    name = "push"

    def __init__(self, settings: PushSettings, directory: Path) -> None:
        self.interval = float(settings.interval_seconds)
        self._settings = settings
        self._directory = directory
        self._sender: Sender | None = None
        self._failures = 0
        self._not_before = 0.0
        self._logged = ""
        self.pushed = 0
        self.error = ""
        self.rejected = 0

    def perform(self, block: object, snapshot: Snapshot) -> None:
        """Push a snapshot, unless the last failure is too recent."""
        if time.monotonic() >= self._not_before:
            self._push(snapshot, Stale.NONE, None)

    def finish(self, block: object, snapshot: Snapshot) -> None:
        """Push for the last time: the workers' own gauges end."""
        self._push(snapshot, Stale.LIVE, _LAST_PUSH_SECONDS)

    def _push(self, snapshot: Snapshot, stale: Stale, timeout: float | None) -> None:
        try:
            if self._sender is None:
                self._sender = Sender.for_directory(self._settings, self._directory)
            self._sender.push(snapshot, stale, timeout)
        except PushError as error:
            self._fail(error)
        else:
            self._succeed()

    def _succeed(self) -> None:
        self.pushed = time.time_ns()
        self._failures = 0
        if self.error:
            log.info("statistics are pushed again")
        self.error = self._logged = ""

    def _fail(self, error: PushError) -> None:
        if error.is_refusal:
            self.rejected += 1
        else:
            # Not all machines at once when the server is back.
            wait = min(self.interval * 2**self._failures, max(self.interval, _LONGEST_WAIT))
            self._not_before = time.monotonic() + max(wait * random.uniform(0.8, 1.0), error.again_in)  # nosec B311
            self._failures = min(self._failures + 1, 10)
        if error.reason != self._logged:
            log.error("statistics were not pushed: %s", error)
        self._logged = error.reason
        self.error = str(error)
