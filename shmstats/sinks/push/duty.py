"""The push as a duty of the saver: when to push, what to log, how long to wait after a failure."""

from __future__ import annotations

import functools
import logging
import random
import time
from contextlib import suppress
from typing import Any

from shmstats import native
from shmstats.attachment.own_metrics import OWN, add_to_own
from shmstats.block import BlockFullError
from shmstats.block.keys import encode_key
from shmstats.config import Settings
from shmstats.reading.attached import AttachedBlock
from shmstats.series import Kind, Snapshot
from shmstats.sinks.push.encoder import Stale
from shmstats.sinks.push.sender import PushError, Sender

log = logging.getLogger("shmstats")

#: In the package's own category: pushes that a server understood and refused.
PUSHES_REFUSED = "pushes_refused"

_LONGEST_WAIT = 60.0
_LAST_PUSH_SECONDS = 3.0


class PushDuty:
    """Pushes each saved snapshot.

    Args:
        settings: with the directory, and a URL.

    Attributes:
        name: of the duty.
        interval: seconds between two pushes.
    """

    name = "push"

    def __init__(self, settings: Settings) -> None:
        self.interval = float(settings.push.interval_seconds)
        self._settings = settings
        self._sender: Sender | None = None
        self._failures = 0
        self._not_before = 0.0
        self._logged = ""
        self._pushing: Any = native.make_lock()
        self._at: int | PushError | None = None

    def prepare(self) -> None:
        """Choose the time of a push, unless the last failure is too recent."""
        self._at = None if time.monotonic() < self._not_before else self._draw_time()

    def perform(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Push a snapshot with the time that was chosen before it was read; store the outcome in the block's header."""
        if self._at is not None:
            self._push(block, snapshot, self._at, Stale.NONE, None)

    def finish(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Push for the last time, which ends the workers' gauges. Leaving waits for it, so it must not take long."""
        last = functools.partial(self._push, block, snapshot, None, Stale.LIVE, _LAST_PUSH_SECONDS)
        thread = native.Thread(last, "shmstats-push")
        try:
            thread.start()
        except RuntimeError:  # the interpreter is exiting, and starts no thread any more
            last()
        else:
            thread.join(_LAST_PUSH_SECONDS)  # a hanging name lookup has no time limit of its own

    def _draw_time(self) -> int | PushError:
        try:
            if self._sender is None:
                self._sender = Sender(self._settings)
            return self._sender.draw_time()
        except PushError as error:
            return error

    def _push(
        self,
        block: AttachedBlock,
        snapshot: Snapshot,
        at: int | PushError | None,
        stale: Stale,
        timeout: float | None,
    ) -> None:
        """Push a snapshot; ``at`` is the time chosen for it, or the error if none could be, or None: choose it now."""
        if not self._pushing.acquire(blocking=False):
            return
        try:
            at = self._draw_time() if at is None else at
            if isinstance(at, PushError):
                raise at
            assert self._sender is not None
            self._sender.push(snapshot, at, stale, timeout)
        except PushError as error:
            self._fail(error)
            _note(block, error=str(error))
            if error.is_refusal and stale is Stale.NONE:
                _count_refusal(block)
        else:
            self._succeed()
            _note(block, error="")
        finally:
            self._pushing.release()

    def _succeed(self) -> None:
        self._failures = 0
        if self._logged:
            log.info("statistics are pushed again")
        self._logged = ""

    def _fail(self, error: PushError) -> None:
        if not error.is_refusal:
            # Randomised, so that not all machines push at once when the server is back.
            wait = min(self.interval * 2**self._failures, max(self.interval, _LONGEST_WAIT))
            self._not_before = time.monotonic() + max(wait * random.uniform(0.8, 1.0), error.again_in)  # nosec B311
            self._failures = min(self._failures + 1, 10)
        if error.reason != self._logged:
            log.error("statistics were not pushed: %s", error)
        self._logged = error.reason


#: As other modules of duties have it.
make_duty = PushDuty


def _note(block: AttachedBlock, error: str) -> None:
    """Store the outcome of a push in the header of a block, unless the process left it meanwhile."""
    with suppress(ValueError):
        block.header.push_error = error
        if not error:
            block.header.pushed = time.time_ns()


def _count_refusal(block: AttachedBlock) -> None:
    """Count a refused push in the package's own counter, unless the block is full."""
    with suppress(BlockFullError):
        block.find_or_add(encode_key(OWN, PUSHES_REFUSED), Kind.COUNTER)
        add_to_own(block, PUSHES_REFUSED, 1)
