"""Saving: one of the processes that have a block attached, the saver, saves snapshots; values are saved before shown.

Each save takes a *ticket* before it reads the values, and one after. Under the table lock, just before the rename, it
gives up if the existing snapshot was read after it began: a process that was stopped or stuck in fsync replaces nothing
newer. The saver has the *term*: its number, pid and heartbeat are in the header; another process takes over if it dies.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import lifecycle, native
from ..block import BlockError
from ..block.errors import OF_LEAVING
from ..block.identity import stats_directory
from ..block.layout import SAVER
from ..block.lock import late
from ..block.outdated import remove_outdated
from ..config import Settings
from ..reading.attached import AttachedBlock
from ..series import Snapshot
from .duties import NO_THREADS, Duty, Threads, is_exposing, make_duties
from .peers import Watch

log = logging.getLogger("shmstats")

#: Intervals without a heartbeat after which another process takes over, and the least seconds, for short intervals.
_PATIENCE, _LEAST_PATIENCE = 2.0, 0.8

#: Checks of who saves in an interval.
_LOOKS = 4

#: Seconds that leaving waits for a save and for duties.
_STOP_SECONDS = 5.0

#: Seconds that a page waits for the save of its values. If it takes longer, the page shows the last saved values.
_EXPOSE_SECONDS = 3.0

#: Seconds for which pages do that. A disk that takes longer has failed, and pages show the current values.
_HANG_SECONDS = 30.0

#: Average seconds between two saves for pages, and how many may follow each other after a pause.
_EXPOSE_INTERVAL, _EXPOSE_AT_ONCE = 1.0, 3

_POLL_SECONDS = 0.005


class Saver:
    """The saving of one attached block.

    Args:
        block: to save.
        settings: where, and how often.
        tell: logs a line.
        tell_once: logs a line that was not logged before.

    Attributes:
        look_interval: seconds between two calls of `look`.
    """

    def __init__(
        self,
        block: AttachedBlock,
        settings: Settings,
        tell: Callable[[str], object],
        tell_once: Callable[[str], object],
    ) -> None:
        self._block = block
        self._locks = block.locks
        self._settings = settings
        self._directory = stats_directory(block.identity.directory)
        self._interval = settings.stats.snapshot_interval_ms / 1000
        self.look_interval = self._interval / _LOOKS
        self._tell, self._tell_once = tell, tell_once
        self._began = time.monotonic()
        self._stopped = False
        self._term = 0
        self._threads = NO_THREADS
        self._begins = False
        self._duties: list[Duty] | None = None
        self._saved: tuple[int, Snapshot] | None = None
        self._hanging: tuple[int, float] | None = None
        self._exposing: Any = native.make_lock()
        self._fails = False
        self._watch: Watch | None = None

    # Who saves -------------------------------------------------------------------------------------

    @property
    def elected(self) -> bool:
        """Whether this process has the term, and has not left the block."""
        return bool(self._term) and not self._stopped and self._block.header.saver_term == self._term

    def look(self) -> None:
        """Take the term, if no process has it that could save; called by the background thread."""
        try:
            if self._stopped or not self._wanted():
                return
            if self.elected:
                self._locks.try_lock(SAVER)
                self._watch = self._watch or Watch(self._tell)
                self._watch.look(self._block.name, self._block.workers.live())
                if not self._threads.live:
                    self._begin()
            elif self._is_vacant():
                self._take_term()
        except (ValueError, OSError, BlockError):  # the process has left the block, or has no descriptors left
            if not self._stopped and self._term:
                log.debug("process %d could not check which process saves", os.getpid(), exc_info=True)

    def _wanted(self) -> bool:
        """Whether a saver has anything to do."""
        return self._settings.stats.persist or bool(self._made_duties())

    def _is_vacant(self) -> bool:
        header = self._block.header
        if not header.saver_pid or self._locks.try_lock(SAVER):
            return True
        return _now() - header.saver_heartbeat > max(_PATIENCE * self._interval, _LEAST_PATIENCE) * 1e9

    def _take_term(self) -> None:
        with self._locks.table():
            if self._stopped or not self._is_vacant():
                return
            self._locks.try_lock(SAVER)
            header = self._block.header
            header.saver_heartbeat = _now()
            header.saver_pid = os.getpid()
            self._term = header.saver_term = header.saver_term + 1
        self._begin()

    def _give_up(self) -> None:
        """Let another process take the term."""
        term, self._term = self._term, 0
        with self._locks.table():
            header = self._block.header
            if term and header.saver_term == term:
                header.saver_pid = 0
            self._locks.unlock(SAVER)

    def _begin(self) -> None:
        """Start the saving thread; if that is impossible now, another process, or a later check, takes the term."""
        self._threads.stop(0.0)
        self._threads = Threads(self._tell_once)
        self._begins = True
        if not self._threads.start("saver", self._interval, self._keep):
            self._give_up()

    def _keep(self) -> None:
        """Save, if this process still has the term and it is time; begin the duties the first time."""
        try:
            if not self.elected:
                self._threads.stop(0.0)
                return
            self._block.header.saver_heartbeat = _now()
            if self._begins:
                self._begins = False
                self._begin_duties()
            if self._settings.stats.persist and time.monotonic() >= self._began + self._interval:
                self.save_or_tell()
        except (ValueError, AttributeError):
            if not self._stopped:  # else the process has left the block
                raise

    # Duties ----------------------------------------------------------------------------------------

    def _made_duties(self) -> list[Duty]:
        """Return the duties; a process without duties imports nothing for them."""
        if self._duties is None:
            with lifecycle.no_fork():
                self._duties = make_duties(self._settings)
        return self._duties

    def _begin_duties(self) -> None:
        for duty in self._made_duties():
            if not self._threads.start(duty.name, duty.interval, partial(self._perform, duty)):
                self._give_up()
                return
        with suppress(BlockError, OSError):  # the next save reports what is wrong
            snapshots().remove_stale(self._directory)

    def _perform(self, duty: Duty) -> None:
        """Do a duty with the values that it may show, if this process still has the term."""
        try:
            if not self.elected:
                self._threads.stop(0.0)
                return
            if is_exposing(duty):
                duty.prepare()
                snapshot = self.exposed()
                if not self.elected:
                    return
            else:
                snapshot = self._block.reader.read()
            duty.perform(self._block, snapshot)
        except Exception as error:
            if not self._stopped:  # else the process has left the block
                self._tell_failure(duty, error)

    def _tell_failure(self, duty: Duty, error: Exception) -> None:
        self._tell_once(
            f"the duty {duty.name} failed, and is done again at its next interval: {type(error).__name__}: {error}"
        )

    # Saving ----------------------------------------------------------------------------------------

    def save_or_tell(self) -> Snapshot | None:
        """Save and return a snapshot; None if it was not saved. A failure is logged, and stored in the header."""
        try:
            remove_outdated(self._block)
            snapshot = self.save()
        except (BlockError, *OF_LEAVING) as error:
            if self._stopped:  # the process has left the block; the last one to leave saves it
                return None
            if not isinstance(error, (BlockError, OSError)):
                raise
            self._note_failure(error)
            return None
        if snapshot is not None:
            if self._fails:
                log.info("the statistics can be saved in %s again", self._directory)
            self._fails = False
        return snapshot

    def save(self) -> Snapshot | None:
        """Save and return the current values; None if the process left meanwhile, or something newer was saved.

        Raises:
            BlockError: the block is damaged.
            OSError: it cannot be saved.
        """
        header = self._block.header
        begun = self._draw_ticket()
        snapshot = self._block.reader.read()
        saved = self._saved
        if saved is not None and self._is_saved(saved, snapshot):
            self._note_saved(saved[0], begun)
            return snapshot
        ticket = self._draw_ticket()
        written = snapshots().write(self._directory, snapshot)
        try:
            if self._stopped:
                return None
            with self._locks.table():
                if self._stopped or header.saved_ticket > begun or self.is_superseded():
                    return None
                written.put_in_place()
                header.saved_ticket = ticket
                header.saved_count += 1
        finally:
            written.discard()
        written.sync()
        self._note_saved(ticket, begun)
        self._saved = ticket, snapshot
        return snapshot

    def _draw_ticket(self) -> int:
        with self._block.exclusive():  # which repairs what a killed process has left half changed, before it is saved
            ticket = self._block.header.save_ticket = self._block.header.save_ticket + 1
        return ticket

    def finish(self) -> None:
        """Save for the last time: the last process is leaving, and has the table lock."""
        if not self._wanted():
            return
        block = self._block
        snapshot = block.reader.read()
        if self._settings.stats.persist:
            snapshots().remove_stale(self._directory)
            snapshots().save(self._directory, snapshot)
        for duty in self._made_duties():
            try:
                duty.finish(block, snapshot)
            except Exception as error:
                self._tell_failure(duty, error)

    def stop(self, wait: bool = True) -> None:
        """Stop saving, and let another process take the term. A save that is cut off by that is no failure.

        Args:
            wait: whether to wait for a running save, for a short time.
        """
        self._stopped = True
        self._threads.stop(_STOP_SECONDS if wait else 0.0)
        if self._term:
            with suppress(ValueError, OSError):  # another thread has left the block, and given up the term
                self._give_up()

    def _is_saved(self, saved: tuple[int, Snapshot], snapshot: Snapshot) -> bool:
        """Tell whether nothing has changed since this process saved, and no other process has saved since."""
        if saved[0] != self._block.header.saved_ticket or saved[1] != snapshot:
            return False
        file: Path = self._directory / snapshots().FILE
        return file.exists()

    def _note_saved(self, ticket: int, begun: int) -> None:
        """Store that a snapshot is on the disk, with all counts from before a ticket."""
        if self._stopped:
            return
        with self._locks.table():
            header = self._block.header
            if self._stopped:
                return
            if header.saved_ticket == ticket:
                header.durable_ticket = ticket
                header.durable_from = max(header.durable_from, begun)
                header.saved = time.time_ns()
            if header.save_error:
                header.save_error = ""

    def _note_failure(self, error: Exception) -> None:
        if not self._fails:
            self._tell(
                f"the statistics cannot be saved in {self._directory} now; counting goes on, and saving is tried"
                f" again at every interval: {error}"
            )
        self._fails = True
        with suppress(ValueError):  # the process has left the block
            self._block.header.save_error = str(error)

    def is_superseded(self) -> bool:
        """Tell whether another block has replaced this one, whose file was removed by hand."""
        if self._block.is_current():
            return False
        self._tell_once(
            f"the file of block {self._block.name} was removed while it was in use, and another block was made:"
            f" process {os.getpid()} continues in the new one, and adds its counts to it"
        )
        return True

    # What is shown ---------------------------------------------------------------------------------

    def exposed(self) -> Snapshot:
        """Return the values that may be shown, because they are on the disk: pages of all processes share saves.

        If nothing has changed since the last save, nothing is waited for. If saving takes too long the result is the
        last saved values; if it fails, the current values.
        """
        snapshot = self._block.reader.read()
        settings = self._settings.stats
        if not (settings.persist and settings.durable_exposition):
            return snapshot
        header, saved = self._block.header, self._saved
        if saved is not None and saved[0] == header.durable_ticket and self._is_saved(saved, snapshot):
            return snapshot
        last = header.save_ticket
        deadline = time.monotonic() + _EXPOSE_SECONDS
        while header.durable_from <= last:
            if self._stopped or time.monotonic() >= deadline:
                return self._saved_last(snapshot)
            if self._exposing.acquire(blocking=False):
                try:
                    shown = self._save_in_turn(deadline)
                finally:
                    self._exposing.release()
                if shown is not None:
                    return shown
            if header.save_error:
                return snapshot
            time.sleep(_POLL_SECONDS)
        return snapshot

    def _save_in_turn(self, deadline: float) -> Snapshot | None:
        """Return what was saved now; None if it is not yet time for a save, or it fails, or takes longer."""
        header = self._block.header
        with self._locks.table():
            now = _now()
            if header.expose_due - now > (_EXPOSE_AT_ONCE - 1) * _EXPOSE_INTERVAL * 1e9:
                return None
            header.expose_due = max(header.expose_due, now) + int(_EXPOSE_INTERVAL * 1e9)
        saved: list[Snapshot | None] = []
        thread = native.Thread(lambda: saved.append(self.save_or_tell()), "shmstats-expose")
        try:
            thread.start()
        except RuntimeError:  # no thread can be started now: another process saves, or a later attempt
            return None
        thread.join(deadline - time.monotonic())
        return saved[0] if saved else None

    def _saved_last(self, snapshot: Snapshot) -> Snapshot:
        """Return the values known to be on the disk; the current values, if no save has finished for long."""
        header = self._block.header
        durable, now = header.durable_ticket, time.monotonic()
        if self._hanging is None or self._hanging[0] != durable:
            self._hanging = durable, now
        if now - self._hanging[1] > _HANG_SECONDS:
            self._note_failure(TimeoutError(f"no save has finished for {_HANG_SECONDS:.0f} s"))
            return snapshot
        if self._saved is not None and self._saved[0] == durable:
            return self._saved[1]
        file = snapshots().FILE if header.saved_ticket == durable else snapshots().PREVIOUS
        try:
            saved: Snapshot = snapshots().load(self._directory / file)
        except (OSError, snapshots().SnapshotError):
            return Snapshot((), ())
        return saved


def snapshots() -> ModuleType:
    """Return the module for snapshot files: a process that neither saves nor restores does not import it."""
    return late("shmstats.snapshot.store")


def _now() -> int:
    """Return CLOCK_BOOTTIME in ns: the same in all processes, and never set."""
    return time.clock_gettime_ns(native.BOOT_CLOCK)
