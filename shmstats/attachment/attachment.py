"""What a process has of the block of its data directory: nothing yet, attached, left, or replaced by another.

It attaches on first use and leaves at the end; the last process to leave saves. A block that cannot be attached is
logged once and tried again: no counting call fails for that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .. import lifecycle, native
from ..block import BlockError, BlockFullError
from ..block.declarations import Definition
from ..block.identity import may_have_saved
from ..block.lock import guards, held_guard, importing, tell
from ..block.outdated import remove_outdated
from ..config import Settings
from ..core import Registrar
from ..once import Once
from ..reading.attached import AttachedBlock
from ..series import Declaration, Snapshot
from .agent import RETRY_SECONDS, Agent, Task
from .deferring import deferred
from .own_metrics import OPERATIONS_DROPPED, add_to_own, note_held, register_own
from .peers import remove_stale, socket_path
from .saver import Saver

if TYPE_CHECKING:
    from ..block.declaring import Change
    from .buffer import Buffer

_RETRY_SECONDS = 1.0


class Attachment:
    """The attachment of this process to the block of a data directory.

    Args:
        settings: where the block is and how large it is made.
        registrar: what binds handles at once, as soon as there is a block.
        declared: what the process declares, by category and metric, as soon as there is a block; it is kept.
        former: the attachment that this one takes the place of; it is left before this one attaches.

    Attributes:
        directory: the data directory.
        ending: whether the process is at its end: daemon threads, which may be stopped at any line from then
            on, attach nothing any more.
        retired: whether another one has taken its place, which gets what still comes here.
        successor: that one; None where nothing is counted any more.
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
        self._answers: dict[str, Callable[[], Any]] = {"stacks": _stacks, "memory": _memory}
        lifecycle.tell_of_exit(lifecycle.Stage.BLOCKS, self)

    @property
    def direct(self) -> bool:
        """Whether bound handles count at once; otherwise every operation goes to the recorder."""
        return self._direct

    @direct.setter
    def direct(self, direct: bool) -> None:
        self._direct = direct
        self._direct_cells()

    def _direct_cells(self) -> None:
        """Tell the cells whether handles may use them at once: where there is no thread yet, calls are to come here."""
        for holder in (self._block, self._buffer):
            if holder is not None:
                holder.cells.direct = self._direct and not self._no_thread_until

    def attach(self) -> AttachedBlock:
        """Return the attached block; attach it if it is not.

        Raises:
            BlockError: there is a block that must not be used, or another attachment has the place of this one.
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
        """Attach nothing any more: what still comes goes to the successor. To be followed by `close`."""
        self.successor = successor
        self.retired = True

    @deferred
    def close(self) -> None:
        """Leave the block; the last one saves it. What cannot be saved stays in shared memory."""
        if self._leave():
            self._leave()

    leave = close  # at the end of the process

    def _leave(self) -> bool:
        """Leave the block. Where another one has come in its place, since its file was removed, that is attached.

        Returns whether that is so: what was counted was added to it.
        """
        is_replaced = False
        with guards.current:
            self._leaving = self._block
        self._stop_agent()
        with guards.current:
            block, self._block = self._block, None
            self._leaving = None
            saver, self._saver = self._saver, None
            _holding.discard(self)
            if saver is not None:
                saver.stop(wait=False)  # one of a block that another thread has attached since `_stop_agent`
            if block is not None:
                try:
                    buffer, self._buffer = self._buffer, None
                    if buffer is not None:
                        with block.damage_named():
                            buffer.empty()
                except BlockError as error:
                    tell(f"buffered operations are lost: {error}")
                carried = None
                try:
                    if saver is not None and saver.is_superseded():
                        block.cells.close()
                        carried = block.reader.read()
                    block.leave(partial(_finish, saver))
                except (BlockError, OSError) as error:
                    tell(f"statistics could not be saved, and stay in shared memory for the next process: {error}")
                # In the same guard: no thread may leave, or attach another one, while this is in nobody's hands.
                is_replaced = carried is not None and self._carry_over(carried)
        self._stop_agent(of_left=True)  # one that was started meanwhile, for the block that was left
        return is_replaced

    def _carry_over(self, carried: Snapshot) -> bool:
        """Add what the block before had to the one in its place; tell whether that is attached. The guard is held."""
        try:
            block = self._attach()
            guards.current.defer(self._start_agent)
            with importing():
                from .moving import move
            move(carried, block)
        except (BlockError, OSError) as error:
            tell(f"the counts of a block whose file was removed are lost: {error}")
        return self._block is not None

    def _look(self, saver: Saver) -> None:
        """Look whether this is the block of the directory still, and who saves it."""
        if not saver.is_superseded():
            block, agent = self._block, self._agent
            if block is not None and agent is not None:  # the directory may be another one now, and the block its own
                agent.listen_at(socket_path(block.name, block.worker.slot))
            saver.look()
            return
        self._leave()

    @deferred
    def flush(self) -> None:
        """Add what this process holds in its buffer to the block, if it has one.

        Raises:
            BlockError: the block is damaged.
        """
        with guards.current:
            block, buffer = self._block, self._buffer
            if block is not None and buffer is not None and block.held:
                with block.damage_named():
                    buffer.flush()

    def answer(self, question: str, give: Callable[[], Any]) -> None:
        """Answer a further question of other workers (`shmstats.attachment.peers.ask_all`), from now on.

        Args:
            question: a short text in ASCII, without line breaks.
            give: gives the answer, which must fit JSON. It is called in the background thread.
        """
        self._answers[question] = give

    def forget(self) -> None:
        """Drop what the child of a fork inherited; it attaches by itself when it counts."""
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
        try:
            block = AttachedBlock.attach(self.directory, stats.capacity, stats.max_workers, self._prepare)
        except BaseException:
            self._buffer = None
            raise
        self._saver = Saver(block, self._settings, tell)
        self._block = block
        self._direct_cells()
        if stats.no_buffer:
            block.open_registrar(self._registrar, stats.max_series_per_metric)
        _holding.add(self)
        return block

    def _attached(self) -> AttachedBlock | None:
        """Return the block, or None where it cannot be attached now; that was logged."""
        if self._no_thread_until and time.monotonic() >= self._no_thread_until and held_guard() is None:
            self._start_agent()
        if self.retired or (self._block is None and (guards.current.held or time.monotonic() < self._retry_at)):
            return None
        if self.ending and threading.current_thread() is not threading.main_thread():
            return None
        try:
            return self.attach()
        except (BlockError, OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno is None:
                raise  # not the system's, but what a signal handler raised
            if not self.retired:
                self._retry_at = time.monotonic() + _RETRY_SECONDS
                self._log_once(f"nothing is counted: {error}")
            return None

    def _prepare(self, block: AttachedBlock) -> None:
        """Register in a block what this process counts; a block that was just made is filled from the snapshot."""
        stats = self._settings.stats
        own = register_own(block, not stats.no_buffer, self._log_once)
        if block.is_new and stats.persist and may_have_saved(block.identity.directory):
            self._dropped += _restoring().fill(block, own, tell)
        for metric in list(self._declared):  # before the block was attached
            self._declare(block, *metric)
        remove_outdated(block)
        if block.workers.met_dead:
            remove_stale(block.name, {worker.slot for worker in block.workers.live()})
        if not stats.no_buffer:
            with importing():
                from .buffer import Buffer
            self._buffer = Buffer.of(block, stats.buffer_size, self._flush_or_tell)

    def _declare(self, block: AttachedBlock, category: str, metric: str) -> Change | None:
        """Declare what this process says of a metric; where there is no room that is logged, as is what changes."""
        definition = self._declared[category, metric]
        try:
            with block.damage_named():
                change: Change | None = _declaring().declare(
                    block, category, metric, definition.declared, definition.moment
                )
        except BlockFullError as error:
            self._log_once(f"metric {metric!r} of category {category!r} cannot be declared: {error}")
            return None
        if change is not None:
            tell_change(category, metric, change)
        return change

    def _mine(self, category: str, metric: str) -> Declaration | None:
        """Return what this process declares of a metric; None where it does not."""
        definition = self._declared.get((category, metric))
        return None if definition is None else definition.declared

    # The buffer ------------------------------------------------------------------------------------

    def _flush_or_tell(self) -> None:
        """Flush; where the block is damaged say so, once: no counting call fails for that."""
        try:
            self.flush()
        except BlockError as error:
            self._log_once(f"buffered operations cannot be added to the block: {error}")

    def _flush_and_note(self) -> None:
        """Flush, and show to readers that do not attach how much all workers hold."""
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
                return  # a thread that began now would outlive the block, and keep its socket from the next one's
            if agent is None:
                socket = socket_path(block.name, block.worker.slot)
                agent = self._agent = Agent(self._tasks(), socket, block.identity.owner, self._answers)
        started = not native.forks_unseen() and agent.start()
        self._no_thread_until = 0.0 if started else time.monotonic() + RETRY_SECONDS
        self._direct_cells()

    def _stop_agent(self, of_left: bool = False) -> None:
        """Stop the background thread. The guard is not held, for the thread may be waiting for it.

        Args:
            of_left: unless another thread has attached a block again meanwhile: then the thread is that one's.
        """
        with guards.current:
            if of_left and self._block is not None:
                return
            agent, self._agent = self._agent, None
            saver = self._saver
        if agent is not None:
            agent.stop()
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
            self._dropped += dropped  # the counter is damaged itself; a later block may have one

    def _log_once(self, text: str) -> None:
        if self._logged.first(text):
            tell(text)


def tell_change(category: str, metric: str, change: Change) -> None:
    """Log that a metric is declared otherwise than before."""
    text = f"metric {metric!r} of category {category!r} is declared as {change.now} now; before it was {change.before}"
    if change.outdated:
        text += f", and the {change.outdated} series of that are not shown any more"
    tell(text, logging.WARNING)


@cache
def _restoring() -> ModuleType:
    with importing():
        from . import restoring
    return restoring


@cache
def _declaring() -> ModuleType:
    with importing():
        from ..block import declaring
    return declaring


def _stacks() -> Any:
    with lifecycle.no_fork():
        from ..debug.stacks import stacks
    return stacks()


def _memory() -> Any:
    with lifecycle.no_fork():
        from ..debug.processes import memory
    return memory()


def _finish(saver: Saver | None, block: AttachedBlock) -> None:
    """Do what the last process does before the block goes."""
    remove_stale(block.name, ())
    if saver is not None:
        saver.finish()


#: Those that have a block attached. They live on until they have left it in good order.
_holding: set[Attachment] = set()
