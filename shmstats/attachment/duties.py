"""Duties: further work of the saver, each in its own thread.

History and push are duties. To add one, write an object with the members of `Duty`, and a row in `DUTIES`.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, Protocol, TypeGuard

from .. import native
from ..config import Settings
from ..once import Once
from ..reading.attached import AttachedBlock
from ..series import Snapshot

log = logging.getLogger("shmstats")

#: The modules of duties, and the settings that enable each, all of them. A module has ``make_duty(settings)``, which
#: returns a `Duty`; only the saver imports it, and only if it is enabled.
DUTIES: dict[str, tuple[str, ...]] = {
    "shmstats.attachment.expiring": ("stats.expire_idle_seconds",),
    "shmstats.history.recorder": ("stats.persist", "history.enabled"),
    "shmstats.history.archive": ("stats.persist", "stats.archive_interval_hours"),
    "shmstats.sinks.push.duty": ("push.url",),
}


class Duty(Protocol):
    """Repeated work of one process for all. It gets the current values.

    Attributes:
        name: a word; the thread is called ``shmstats-<name>``.
        interval: seconds from one beginning to the next.
    """

    name: str
    interval: float

    def perform(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Do it once. An exception is logged the first time, and it is done again at the next interval.

        Args:
            block: the attached block. It may be closed meanwhile, which raises ValueError.
            snapshot: the values that the duty may show.
        """

    def finish(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Do it for the last time: the last process is leaving, and has saved.

        Args:
            block: as for `perform`.
            snapshot: the saved one.
        """


class ExposingDuty(Duty, Protocol):
    """A duty that shows its values to others, so these are saved before: see ``stats.durable_exposition``."""

    def prepare(self) -> None:
        """Do what must happen before the values are read.

        No other process has the duty from then until they are read: otherwise `perform` is not called for them.
        """


def is_exposing(duty: Duty) -> TypeGuard[ExposingDuty]:
    """Tell whether a duty shows its values. From Python 3.12 on, a check of the protocol would import `inspect`."""
    return hasattr(duty, "prepare")


def make_duties(settings: Settings) -> list[Duty]:
    """Return the enabled duties; one that cannot be made is logged, and does not prevent saving."""
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
        look: returns the block and the values that the duty may show; None if there is nothing to do now.
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
            RuntimeError: no thread can be started now.
        """
        self._thread.start()

    def stop(self) -> None:
        """End it after its current work."""
        with suppress(RuntimeError):  # another thread has done so
            self._stop.release()

    def join(self, seconds: float) -> bool:
        """Wait for its end for a short time; returns whether it has ended."""
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
            if self._stop.locked():  # else the process has left the block
                log_failure(self._duty, error, self._logged)


def finish_all(duties: Iterable[Duty], block: AttachedBlock, snapshot: Snapshot) -> None:
    """Finish each duty; exceptions are logged."""
    for duty in duties:
        try:
            duty.finish(block, snapshot)
        except Exception as error:
            log_failure(duty, error, Once())


def log_failure(duty: Duty, error: Exception, logged: Once) -> None:
    """Log an exception of a duty, each text once."""
    text = f"{type(error).__name__}: {error}"
    if logged.first(text):
        log.error("the duty %s failed, and is done again at its next interval: %s", duty.name, text)


def stop_all(threads: Sequence[DutyThread], seconds: float) -> None:
    """End threads of duties, and wait for all of them together for a time."""
    for thread in threads:
        thread.stop()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(deadline - time.monotonic())
