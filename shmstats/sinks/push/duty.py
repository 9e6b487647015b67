"""The push as a duty of the process that saves: when to push, what to say of it, how long to wait after a failure."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path
from typing import Any

from shmstats import native
from shmstats.block import Block
from shmstats.config import PushSettings, Settings
from shmstats.series import Snapshot
from shmstats.sinks.push.sender import PushError, Sender
from shmstats.sinks.push.stale import Stale
from shmstats.snapshot import stats_directory

log = logging.getLogger("shmstats")

_LONGEST_WAIT = 60.0
_LAST_PUSH_SECONDS = 3.0


def make_duty(settings: Settings) -> PushDuty | None:
    """Return the duty that is configured; None where nothing is pushed."""
    return PushDuty(settings.push, stats_directory(settings.path.data)) if settings.push.url else None


class PushDuty:
    """Pushes what was just saved.

    Args:
        settings: where to, and how; it has a URL.
        directory: of the statistics.

    Attributes:
        name: of the duty.
        exposes: whether only what is on the disk may be shown.
        interval: seconds between two pushes.
        rejected: how many pushes were refused.
    """

    name = "push"
    exposes = True

    def __init__(self, settings: PushSettings, directory: Path) -> None:
        self.interval = float(settings.interval_seconds)
        self._settings = settings
        self._directory = directory
        self._sender: Sender | None = None
        self._failures = 0
        self._not_before = 0.0
        self._logged = ""
        self._pushing: Any = native.make_lock()
        self.rejected = 0

    def perform(self, block: Block, snapshot: Snapshot) -> None:
        """Push a snapshot, unless the last failure is too recent; note the outcome in the block's header."""
        if time.monotonic() >= self._not_before:
            self._push(block, snapshot, Stale.NONE, None)

    def finish(self, block: Block, snapshot: Snapshot) -> None:
        """Push for the last time: the workers' own gauges end. Not while a push hangs: so would this one."""
        self._push(block, snapshot, Stale.LIVE, _LAST_PUSH_SECONDS)

    def _push(self, block: Block, snapshot: Snapshot, stale: Stale, timeout: float | None) -> None:
        if not self._pushing.acquire(blocking=False):
            return
        try:
            if self._sender is None:
                self._sender = Sender.for_directory(self._settings, self._directory)
            self._sender.push(snapshot, stale, timeout)
        except PushError as error:
            self._fail(error)
            block.header.push_error = str(error)
        else:
            self._succeed()
            block.header.pushed = time.time_ns()
            block.header.push_error = ""
        finally:
            self._pushing.release()

    def _succeed(self) -> None:
        self._failures = 0
        if self._logged:
            log.info("statistics are pushed again")
        self._logged = ""

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
