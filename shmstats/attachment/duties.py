"""Duties: what the process that saves does besides, each in a thread of its own.

History and push are duties. A further one is an object with the members of `Duty`, and a row in `DUTIES`.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable

from .. import native
from ..config import Settings
from ..once import Once
from ..reading.attached import AttachedBlock
from ..series import Snapshot

log = logging.getLogger("shmstats")

#: The modules of duties, and the settings that ask for each, all of them. A module has ``make_duty(settings)``, which
#: returns a `Duty`; it is imported by the process that saves alone, where it is asked for.
DUTIES: dict[str, tuple[str, ...]] = {
    "shmstats.attachment.expiring": ("stats.expire_idle_seconds",),
    "shmstats.history.recorder": ("stats.persist", "history.enabled"),
    "shmstats.history.archive": ("stats.persist", "stats.archive_interval_hours"),
    "shmstats.sinks.push.duty": ("push.url",),
}


class Duty(Protocol):
    """Something that one process of all does, again and again. It is given what is counted at the moment.

    Attributes:
        name: a word; the thread is called ``shmstats-<name>``.
        interval: seconds from one beginning to the next.
    """

    name: str
    interval: float

    def perform(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Do it once. What is raised is logged the first time, and it is done again at the next interval.

        Args:
            block: which is attached. It may be closed meanwhile, which raises ValueError.
            snapshot: what the duty may show.
        """

    def finish(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Do it for the last time: the last process leaves in good order, and has saved.

        Args:
            block: as for `perform`.
            snapshot: what was saved.
        """


@runtime_checkable
class ExposingDuty(Duty, Protocol):
    """A duty that shows others what it is given, so that is on the disk already: see ``stats.durable_exposition``."""

    def prepare(self) -> None:
        """Do what comes before the values are read.

        No other process has the duty then, nor before they are read: else `perform` is not called for them.
        """


def make_duties(settings: Settings) -> list[Duty]:
    """Return the duties that are configured; one that cannot be made is logged, and keeps nobody from saving."""
    wanted = [module for module, keys in DUTIES.items() if all(attrgetter(key)(settings) for key in keys)]
    made = [_make_duty(module, settings) for module in wanted]
    return [duty for duty in made if duty is not None]


def _make_duty(module: str, settings: Settings) -> Duty | None:
    try:
        duty: Duty | None = importlib.import_module(module).make_duty(settings)
    except Exception as error:
        log.error("the duty of %s is left out: %s: %s", module, type(error).__name__, error)
        return None
    return duty


class DutyThread:
    """The thread of one duty.

    Args:
        duty: to be done.
        look: returns the block and what the duty may show of it; None where there is nothing to be done now.
    """

    def __init__(self, duty: Duty, look: Callable[[Duty], tuple[AttachedBlock, Snapshot] | None]) -> None:
        self._duty = duty
        self._look = look
        self._logged = Once()
        self._stop: Any = native.make_lock()
        self._stop.acquire()
        self._thread = native.Thread(self._work, f"shmstats-{duty.name}")

    def start(self) -> None:
        """Start it.

        Raises:
            RuntimeError: there cannot be a thread now.
        """
        self._thread.start()

    def stop(self) -> None:
        """Have it end after what it is doing."""
        with suppress(RuntimeError):  # another thread has told it
            self._stop.release()

    def join(self, seconds: float) -> bool:
        """Wait for its end, but not for long; returns whether it has ended."""
        return self._thread.join(seconds)

    def _work(self) -> None:
        due = time.monotonic()
        while not self._stop.acquire(timeout=max(due - time.monotonic(), 0.0)):
            due = max(due + self._duty.interval, time.monotonic())
            self._perform()

    def _perform(self) -> None:
        try:
            found = self._look(self._duty)
            if found is not None:
                self._duty.perform(*found)
        except Exception as error:
            if self._stop.locked():  # else the block was left meanwhile
                log_failure(self._duty, error, self._logged)


def finish_all(duties: Iterable[Duty], block: AttachedBlock, snapshot: Snapshot) -> None:
    """Have each duty finish; one that raises is logged."""
    for duty in duties:
        try:
            duty.finish(block, snapshot)
        except Exception as error:
            log_failure(duty, error, Once())


def log_failure(duty: Duty, error: Exception, logged: Once) -> None:
    """Log what a duty raised, with each text once."""
    text = f"{type(error).__name__}: {error}"
    if logged.first(text):
        log.error("the duty %s failed, and is done again at its next interval: %s", duty.name, text)


def stop_all(threads: Sequence[DutyThread], seconds: float) -> None:
    """End threads of duties, and wait for all of them together for so long."""
    for thread in threads:
        thread.stop()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(deadline - time.monotonic())
