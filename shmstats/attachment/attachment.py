"""The attachment of a process to the block of its data directory: not yet attached, attached, left, or replaced.

A process attaches on first use and leaves at exit; the last process to leave saves. A failure to attach is
logged once and tried again: it never makes a counting call fail.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import lifecycle, native
from ..block import BlockError, BlockFullError
from ..block.declarations import Definition
from ..block.declaring import Change, declare
from ..block.identity import may_have_saved
from ..block.lock import deferred, guards, held_guard, late, tell
from ..block.outdated import remove_outdated
from ..config import Settings
from ..core import Registrar
from ..once import Once
from ..reading.attached import AttachedBlock
from ..series import Declaration, Snapshot
from .agent import RETRY_SECONDS, Agent, Task
from .buffer import Buffer
from .late import import_as_root, import_to_save
from .own_metrics import OPERATIONS_DROPPED, add_to_own, note_held, register_own
from .peers import remove_stale, socket_path
from .saver import Saver

_RETRY_SECONDS = 1.0


class Attachment:
    """The attachment of this process to the block of a data directory.

    Args:
        settings: the place and size of the block.
        registrar: binds handles at once, as soon as there is a block.
        declared: the declarations of the process, by category and metric, made as soon as there is a block; it is kept.
        former: the attachment that this one replaces; it is left before this one attaches.

    Attributes:
        directory: the data directory.
        ending: whether the process is exiting: daemon threads, which may be stopped at any line then,
            do not attach any more.
        retired: whether another attachment has replaced this one, and gets its calls.
        successor: that one; None if nothing is counted any more.
    """

    def __init__(
        self,
        settings: Settings,
        registrar: Registrar,
        declared: dict[tuple[str, str], Definition] | None = None,
        former: Attachment | None = None,
    ) -> None:
        self.directory: Path = settings.path.data
        self.ending = False
        self.retired = False
        self.successor: Attachment | None = None
        self._settings = settings
        self._former = former
        self._block: AttachedBlock | None = None
        self._leaving: AttachedBlock | None = None
        self._buffer: Buffer | None = None
        self._agent: Agent | None = None
        self._saver: Saver | None = None
        self._retry_at = 0.0
        self._dropped = 0
        self._logged = Once()
        self._registrar = registrar
        self._declared = {} if declared is None else declared
        self._direct = True
        self._no_thread_until = 0.0
        self._can_save = not settings.stats.persist
        self._answers: dict[str, Callable[[], Any]] = {"stacks": _stacks, "memory": _memory}
        lifecycle.take_part(lifecycle.Stage.BLOCKS, self)

    def count_directly(self, direct: bool) -> None:
        """Let bound handles count at once; otherwise every operation goes to the recorder."""
        self._direct = direct
        self._direct_cells()

    def _direct_cells(self) -> None:
        """Tell the cells whether handles may use them directly: as long as there is no thread, calls must come here."""
        for holder in (self._block, self._buffer):
            if holder is not None:
                holder.cells.direct = self._direct and not self._no_thread_until

    def attach(self) -> AttachedBlock:
        """Return the attached block; attach it if necessary.

        Raises:
            BlockError: the block must not be used, or another attachment has replaced this one.
            OSError: shared memory is full or not usable.
        """
        lifecycle.notice_fork()
        block = self._block
        if block is None:
            lifecycle.arrange_exit()
            former = self._former
            if former is not None:
                former.close()
                self._former = None
            with guards.current:
                block = self._block
                if block is None:
                    if self.retired:
                        raise BlockError(
                            f"the block of {self.directory} was left for the block of another configuration"
                        )
                    block = self._attach()
                    guards.current.defer(self._start_agent)
        return block

    def retire(self, successor: Attachment | None) -> None:
        """Do not attach any more: later calls go to the successor. `close` must follow."""
        self.successor = successor
        self.retired = True

    @deferred
    def close(self) -> None:
        """Leave the block; the last process saves it. If saving fails, the block stays in shared memory."""
        if self._leave():  # the block was replaced, and the new one is attached now
            self._leave()

    leave = close  # at exit

    def _leave(self) -> bool:
        """Leave the block. If its file was removed and another block created since, attach that one.

        Returns whether that was done, and the counts were added to it.
        """
        is_replaced = False
        with guards.current:
            self._leaving = self._block
        try:
            self._stop_agent()
        except BaseException:  # a signal handler's: a process must not stay attached without its threads
            self._leave()
            raise
        with guards.current:
            self._leaving = None
            try:  # still attached: if a signal handler raises meanwhile, the next call finds all that is left
                if self._block is not None and self._buffer is not None:
                    with self._block.damage_named():
                        self._buffer.empty()
            except BlockError as error:
                tell(f"buffered operations are lost: {error}")
            block, self._block, buffer, self._buffer = self._block, None, self._buffer, None
            if buffer is not None:
                buffer.cells.close()
            saver, self._saver = self._saver, None
            _holding.discard(self)
            if saver is not None:
                saver.stop(wait=False)  # of a block that another thread has attached since `_stop_agent`
            if block is not None:
                carried = None
                try:
                    if saver is not None and saver.is_superseded():
                        block.cells.close()
                        carried = block.reader.read()
                    block.leave(partial(_finish, saver))
                except (BlockError, OSError) as error:
                    tell(f"statistics could not be saved, and stay in shared memory for the next process: {error}")
                # Under the same guard: no thread may leave, or attach another one, while the counts are in no block.
                is_replaced = carried is not None and self._carry_over(carried)
        self._stop_agent(of_left=True)  # one that was started meanwhile, for the left block
        return is_replaced

    def _carry_over(self, carried: Snapshot) -> bool:
        """Add the counts of the old block to the one in its place; tell whether that is attached. The guard is held."""
        try:
            block = self._attach()
            guards.current.defer(self._start_agent)
            _restoring().move(carried, block)
        except (BlockError, OSError) as error:
            tell(f"the counts of a block whose file was removed are lost: {error}")
        return self._block is not None

    def _look(self, saver: Saver) -> None:
        """Check whether this still is the block of the directory, and who saves it."""
        if not self._can_save:
            self._can_save = import_to_save()
        if not saver.is_superseded():
            block, agent = self._block, self._agent
            if block is not None and agent is not None:
                # If the directory was replaced, the block becomes the new one's.
                agent.listen_at(socket_path(block.name, block.worker.slot))
            saver.look()
            return
        self._leave()

    @deferred
    def flush(self) -> None:
        """Add this process's buffer to the block, if it has one.

        Raises:
            BlockError: the block is damaged.
        """
        with guards.current:
            block, buffer = self._block, self._buffer
            if block is not None and buffer is not None and block.held:
                with block.damage_named():
                    buffer.flush()

    def answer(self, question: str, give: Callable[[], Any]) -> None:
        """Answer a further question of other workers (`shmstats.attachment.asking.ask_all`), from now on.

        Args:
            question: a short text in ASCII, without line breaks.
            give: returns the answer, which must fit JSON. It is called in the background thread.
        """
        self._answers[question] = give

    def forget(self) -> None:
        """Drop what the child of a fork has inherited; it attaches again when it counts."""
        block, self._block, buffer, self._buffer = self._block, None, self._buffer, None
        self._agent = self._saver = None
        self._dropped = 0
        _holding.discard(self)
        if buffer is not None:
            buffer.cells.close()
        if block is not None:
            block.abandon()

    # What attaching takes --------------------------------------------------------------------------

    def _attach(self) -> AttachedBlock:
        stats = self._settings.stats
        block = None
        try:
            block = AttachedBlock.attach(self.directory, stats.capacity, stats.max_workers, self._prepare)
            if not block.is_new:
                with block.damage_named():
                    remove_outdated(block)  # outside of the table lock, because it reads all names
        except BaseException:
            self._buffer = None
            if block is not None:
                block.leave(partial(_finish, None))
            raise
        self._saver = Saver(block, self._settings, tell, self._log_once)
        self._block = block
        self._direct_cells()
        if stats.no_buffer:
            block.open_registrar(self._registrar, stats.max_series_per_metric)
        _holding.add(self)
        return block

    def _attached(self) -> AttachedBlock | None:
        """Return the block, or None if it cannot be attached now, which was logged."""
        if self._no_thread_until and time.monotonic() >= self._no_thread_until and held_guard() is None:
            self._start_agent()
        if self.retired or (self._block is None and (guards.current.is_held() or time.monotonic() < self._retry_at)):
            return None
        if self.ending and threading.current_thread() is not threading.main_thread():
            return None
        try:
            return self.attach()
        except (BlockError, OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno is None:
                raise  # raised by a signal handler
            if not self.retired:
                self._retry_at = time.monotonic() + _RETRY_SECONDS
                self._log_once(f"nothing is counted: {error}")
            return None

    def _prepare(self, block: AttachedBlock) -> None:
        """Register the names that this process needs in a block; a new block is filled from the snapshot."""
        stats = self._settings.stats
        if block.is_new and stats.persist and may_have_saved(block.identity.directory):
            self._dropped += _restoring().fill(block, tell)
        register_own(block, not stats.no_buffer, self._log_once)
        for metric in list(self._declared):  # those declared before the block was attached
            self._declare(block, *metric)
        if block.workers.met_dead:
            remove_stale(block.name, {worker.slot for worker in block.workers.live()})
        if not stats.no_buffer:
            self._buffer = Buffer(block, stats.buffer_size, self._flush_or_tell)

    def _declare(self, block: AttachedBlock, category: str, metric: str) -> Change | None:
        """Declare a metric in the block; missing room is logged, and so are changes."""
        definition = self._declared[category, metric]
        try:
            with block.damage_named():
                change = declare(block, category, metric, definition.declared, definition.moment)
        except BlockFullError as error:
            self._log_once(f"metric {metric!r} of category {category!r} cannot be declared: {error}")
            return None
        if change is not None:
            tell_change(category, metric, change)
        return change

    def _mine(self, category: str, metric: str) -> Declaration | None:
        """Return this process's declaration of a metric; None for none."""
        definition = self._declared.get((category, metric))
        return None if definition is None else definition.declared

    # The buffer ------------------------------------------------------------------------------------

    def _flush_or_tell(self) -> None:
        """Flush; log damage of the block, once: it never makes a counting call fail."""
        try:
            self.flush()
        except BlockError as error:
            self._log_once(f"buffered operations cannot be added to the block: {error}")

    def _flush_and_note(self) -> None:
        """Flush, and show the number of operations that all workers hold to readers that do not attach."""
        self._flush_or_tell()
        block = self._block
        if block is not None:
            note_held(block)

    # The background thread -------------------------------------------------------------------------

    def _start_agent(self) -> None:
        """Start the background thread of a block that has just been attached."""
        with guards.current:
            block = self._block
            agent = self._agent
            if block is None or block is self._leaving:
                return  # a thread started now would outlive the block, and keep its socket from the next one's
            if agent is None:
                socket = socket_path(block.name, block.worker.slot)
                agent = self._agent = Agent(self._tasks(), socket, block.identity.owner, self._answers)
        started = not native.forks_unseen() and agent.start()
        self._no_thread_until = 0.0 if started else time.monotonic() + RETRY_SECONDS
        self._direct_cells()

    def _stop_agent(self, of_left: bool = False) -> None:
        """Stop the background thread. The guard is not held, because the thread may be waiting for it.

        Args:
            of_left: unless another thread has attached a block again meanwhile, which owns the thread then.
        """
        agent = None
        try:
            with guards.current:
                if of_left and self._block is not None:
                    return
                agent, self._agent = self._agent, None
                saver = self._saver
            if agent is not None:
                agent.stop()
        except BaseException:  # a signal handler's
            if agent is not None:
                agent.stop()
            raise
        if saver is not None:
            saver.stop()

    def _tasks(self) -> list[Task]:
        stats, saver = self._settings.stats, self._saver
        tasks = []
        if not stats.no_buffer:
            tasks.append(Task(stats.flush_interval_ms / 1000, self._flush_and_note))
        if saver is not None:
            tasks.append(Task(saver.look_interval, partial(self._look, saver)))
        return tasks

    # What is said and counted about it -------------------------------------------------------------

    def _count_dropped(self, block: AttachedBlock) -> None:
        """Count the dropped operations in the block; its counter was registered with the block."""
        dropped, self._dropped = self._dropped, 0
        try:
            with suppress(ValueError):  # closed by another thread
                add_to_own(block, OPERATIONS_DROPPED, dropped)
        except Exception as error:
            if not block.accounts_for(error):
                raise
            self._dropped += dropped  # the counter itself is damaged; a later block may have one

    def _log_once(self, text: str) -> None:
        if self._logged.first(text):
            tell(text)


def tell_change(category: str, metric: str, change: Change) -> None:
    """Log that a metric's declaration has changed."""
    text = f"metric {metric!r} of category {category!r} is declared as {change.now} now; before it was {change.before}"
    if change.outdated:
        text += f", and the {change.outdated} series of that are not shown any more"
    tell(text, logging.WARNING)


def _restoring() -> ModuleType:
    return late("shmstats.attachment.restoring")


def _stacks() -> Any:
    return late("shmstats.debug.stacks").stacks()


def _memory() -> Any:
    return late("shmstats.debug.processes").memory()


def _finish(saver: Saver | None, block: AttachedBlock) -> None:
    """Do what the last process does before the block is removed."""
    remove_stale(block.name, ())
    if saver is not None:
        saver.finish()


#: Attachments with an attached block. They stay alive until they have left it.
_holding: set[Attachment] = set()

os.register_at_fork(before=import_as_root)  # later than `lifecycle` does, and so it runs while no thread is paused yet
