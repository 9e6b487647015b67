"""Duties: further work of the saver, each in its own thread.

History and push are duties. To add one, write an object with the members of `Duty`, and a row in `DUTIES`.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable
from operator import attrgetter
from typing import Protocol, TypeGuard

from .. import native
from ..config import Settings
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
    made = []
    for module, keys in DUTIES.items():
        if all(attrgetter(key)(settings) for key in keys):
            try:
                made.append(importlib.import_module(module).make_duty(settings))
            except Exception as error:
                log.error("the duty of %s is left out: %s: %s", module, type(error).__name__, error)
    return made


class Threads:
    """The threads of the saver: one saves, and each duty has its own.

    Args:
        tell: called with a line if one cannot be started.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._threads: list[native.RepeatingThread] = []

    @property
    def live(self) -> bool:
        """Whether there are threads, and the first one is still running."""
        return bool(self._threads) and self._threads[0].lives

    def start(self, name: str, interval: float, do: Callable[[], object]) -> bool:
        """Start one more; returns whether that is possible now.

        Args:
            name: a word for it.
            interval: seconds from one beginning to the next.
            do: called at each interval.
        """
        thread = native.RepeatingThread(do, f"shmstats-{name}", interval)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.remove(thread)
            if not native.is_at_end(error):
                self._tell(
                    f"process {os.getpid()} cannot start the thread {name}, and leaves saving to other processes:"
                    f" {error}. Check the limits of processes (ulimit -u, pids.max)"
                )
            return False
        return True

    def stop(self, seconds: float) -> None:
        """End all of them after their current work, and wait for that together for a time."""
        for thread in self._threads:
            thread.stop()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(deadline - time.monotonic())


#: Those of a process that does not have the term.
NO_THREADS = Threads(log.error)
