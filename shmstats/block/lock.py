"""Locks that the kernel drops when their holder dies: record locks (fcntl_locking(2)) on a block's own file.

Record locks do nothing between the threads of a process, which one `Guard` separates, and all locks on a file are
lost when the process closes *any* descriptor of it: so a process opens a segment once. A signal handler that counts
inside a locked section of its own thread must not wait for it: it defers its operation with ``guard.defer``.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import logging
import os
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache, partial, wraps
from types import ModuleType
from typing import Concatenate, ParamSpec, TypeVar

from .. import lifecycle, native
from ..core import PROTOCOL, Section
from ..descriptors import leads_to, open_file
from .errors import BlockError, DeclarationError, KindError
from .layout import FIRST_SLOT, TABLE, WORKER_SLOTS

_Self = TypeVar("_Self")
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

log = logging.getLogger("shmstats")

#: struct flock: type, whence, start, length, pid; macOS has type and whence last.
_FLOCK = struct.Struct("hhqqi4x")
_FLOCK_OF_DARWIN = struct.Struct("qqihh")


#: Seconds until a lock is tried again after the kernel has reported a deadlock.
_DEADLOCK_SECONDS = 0.001


#: The protocol of the fallback, with a lock of the kernel for each cell; see `shmstats.block.layout.PROTOCOLS`.
_RECORD_LOCKS = 2


class Guard(Section):
    """A lock between the threads of this process, and their signal handlers.

    It is reentrant, knows whether the calling thread holds it, and has a queue of calls that wait
    until this thread releases it. There is one for all blocks of a process, see `guards`.

    Attributes:
        lock: the lock, for further sections with it.
        enter: takes it; the same as ``with``, but faster.
        is_held: tells whether the calling thread holds it.
    """

    def __init__(self) -> None:
        self.lock = native.RLock()  # not a greenlet's: none is switched inside
        self.enter = self.lock.acquire
        self.is_held: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        self.deferred = _Deferred(self)
        self._threads = native.original("_thread", "_local")()
        super().__init__(self.lock, after=self.deferred)

    def defer(self, call: Callable[[], object]) -> None:
        """Call ``call()`` after the calling thread, which holds the guard, has released it."""
        self.deferred.append(call)

    def leave(self) -> None:
        """Release the guard, and do the deferred calls."""
        self.lock.release()
        if self.deferred:
            self.do_deferred()

    def do_deferred(self) -> None:
        """Do the deferred calls, if the calling thread does not hold the guard; calls added meanwhile are done too."""
        while self.deferred:
            doing = self._doing()
            if self.is_held() or doing._is_owned():
                return
            with doing:
                self._do_all()

    def _doing(self) -> Section:
        """Return a lock of the calling thread alone, which it holds while it does deferred calls."""
        try:
            return self._threads.doing  # type: ignore[no-any-return]
        except AttributeError:
            self._threads.doing = Section(native.RLock())
            return self._threads.doing  # type: ignore[no-any-return]

    def _do_all(self) -> None:
        while True:
            try:
                call = self.deferred.popleft()
            except IndexError:  # another thread, or a signal handler, was faster
                return
            try:
                call()
            except (BlockError, DeclarationError, KindError):
                # Its caller has returned; the current one must not get its exception.
                log.exception("a deferred operation failed")


class _Deferred(deque[Callable[[], object]]):
    """What waits until a thread has left a guard. To call it does that; it is false while nothing waits."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def __call__(self) -> None:
        self._guard.do_deferred()


class RecordLocks:
    """The record locks of one block, and its file, which this process opens only once.

    Args:
        path: of the file.
        flags: as for `os.open`.

    Attributes:
        path: where the file is.
        inode: its device and inode.
        guard: the guard of this process; a thread that holds a record lock holds it.
        slots: the worker slots of this process: the kernel shows only the locks of other processes.
        was_lost: whether other code has closed our descriptors, perhaps that of the mapping as well.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str, flags: int = os.O_RDWR) -> None:
        self.path = path
        self._fd, self._flags = open_file(path, flags), flags
        self._file = os.fstat(self._fd)
        self.inode = self._file.st_dev, self._file.st_ino
        self._mark = 1 << 30 | self._file.st_ino & (1 << 30) - 1
        self.mark()
        self.was_lost = self._is_closed = False
        self.guard = guards.current
        self.slots: set[int] = set()
        # Made once: making it each time would cost more than locking.
        self._table = Section(self.guard.lock, self._lock_table, self._unlock_table, self.guard.deferred)

    def table(self) -> Section:
        """Hold the table lock. May be nested.

        Raises:
            OSError: the file is closed.
        """
        return self._table

    def descriptor(self) -> int:
        """Return a descriptor of the file.

        A process that becomes a daemon may have closed all descriptors, whose numbers are reused: then it is reopened.

        Raises:
            OSError: the file is closed, or another one has its place.
        """
        try:
            if os.lseek(self._fd, 0, os.SEEK_CUR) == self._mark:
                return self._fd
        except OSError:
            pass
        if self._is_closed:
            raise OSError(errno.EBADF, "the segment is closed")
        self.was_lost = True
        self._fd = open_file(self.path, self._flags)
        if not leads_to(self._fd, self._file):
            os.close(self._fd)
            self._fd = -1
            raise OSError(errno.EBADF, "the file of the segment was removed")
        self.mark()
        self.hold_slots()
        return self._fd

    def mark(self) -> None:
        """Give the descriptor an offset that no other file is at: it is known by that.

        To ask for an offset takes a third of the time of asking for device and inode, and the pure Python core asks at
        each count.
        """
        os.lseek(self._fd, self._mark, os.SEEK_SET)

    def reserve(self, offset: int, length: int) -> None:
        """Reserve memory for a range of bytes, parts of which may be reserved already.

        Raises:
            OSError: shared memory is full, or the file was closed.
        """
        if hasattr(os, "posix_fallocate"):  # else the file has its full size, and only a store notices a full disk
            os.posix_fallocate(self.descriptor(), offset, length)

    def close(self) -> None:
        """Close the file, which drops the locks."""
        if leads_to(self._fd, self._file):  # else the descriptor is not ours to close
            os.close(self._fd)
        else:
            self.was_lost = True
        self._fd, self._is_closed = -1, True

    def _lock_table(self) -> None:
        if PROTOCOL == _RECORD_LOCKS:
            self._await_table()
        else:
            self.lock(TABLE)
        if self.guard is not guards.current:  # the child of a fork that came in between: it must unlock nothing
            self.unlock(TABLE)

    def _await_table(self) -> None:
        """Wait for the table lock without the guard, which in the fallback every counting thread needs.

        The guard is not released if an outer section needs it. After the wait the lock is taken again with the
        guard held, because another thread of this process may have taken and released it meanwhile.
        """
        while not self._try_lock(TABLE):
            held = self.guard.lock._release_save()  # type: ignore[attr-defined]
            try:
                if held[0] == 1:
                    self.lock(TABLE)
            finally:
                self.guard.lock._acquire_restore(held)  # type: ignore[attr-defined]
            if held[0] > 1:
                self.lock(TABLE)
                return

    def _unlock_table(self) -> None:
        if self.guard is guards.current:
            self.unlock(TABLE)

    def lock(self, position: int) -> int:
        """Wait for the lock of byte ``position`` of the file; returns the descriptor that has taken it.

        The guard is held, but see `_await_table`.
        """
        while True:
            try:
                descriptor = self.descriptor()
                fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, position)
                return descriptor
            except OSError as error:
                if error.errno != errno.EDEADLK:
                    raise
            # The kernel takes a process for a thread. Another thread of the holder waits for a lock of one of our
            # threads (mod_wsgi's do, to accept); the holder itself continues, so this is no deadlock.
            native.original("time", "sleep")(_DEADLOCK_SECONDS)

    def try_lock(self, position: int) -> bool:
        """Take or keep the lock of byte ``position``, if no other process has it; returns whether.

        The locks of this process's worker slots are taken again, see `hold_slots`.
        """
        with self.guard:
            self.hold_slots()
            return self._try_lock(position)

    def _try_lock(self, position: int) -> bool:
        try:
            fcntl.lockf(self.descriptor(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EBADF):
                return False
            raise
        return True

    def unlock(self, position: int, descriptor: int = -1) -> None:
        """Release the lock of byte ``position``; do nothing if the file is closed, as in a forked child.

        A caller that has just taken the lock may pass the descriptor, which is then not checked again.
        """
        try:
            fcntl.lockf(self.descriptor() if descriptor < 0 else descriptor, fcntl.LOCK_UN, 1, position)
        except ValueError:  # it was closed in the middle of this
            return
        except OSError as error:
            if error.errno != errno.EBADF:
                raise

    def take_slot(self, slot: int) -> bool:
        """Lock a worker slot for this process, if no process has it; returns whether. The table lock is held."""
        if slot in self.slots or not self._try_lock(FIRST_SLOT + slot):
            return False
        self.slots.add(slot)
        return True

    def leave_slot(self, slot: int) -> None:
        """Release a worker slot, if this process has it. The table lock is held."""
        if slot in self.slots:
            self.slots.discard(slot)
            self.unlock(FIRST_SLOT + slot)

    def hold_slots(self) -> None:
        """Lock the worker slots of this process again, in case other code has closed a descriptor of the file."""
        for slot in self.slots:
            self._try_lock(FIRST_SLOT + slot)

    def held(self, positions: Iterable[int]) -> set[int]:
        """Return the bytes whose locks other processes hold, in any pid namespace."""
        descriptor = self.descriptor()
        return {position for position in positions if is_locked(descriptor, position)}

    def slots_held(self) -> bool:
        """Tell whether other processes hold worker slots, whatever the layout of the block is."""
        return is_locked(self.descriptor(), FIRST_SLOT, WORKER_SLOTS)


def is_locked(descriptor: int, position: int, length: int = 1) -> bool:
    """Tell whether another process, in any pid namespace, holds the lock of one of some bytes of a file."""
    if sys.platform == "darwin":
        asked = _FLOCK_OF_DARWIN.pack(position, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
        return bool(_FLOCK_OF_DARWIN.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[3] != fcntl.F_UNLCK)
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, position, length, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)


class _Guards:
    """The guard of this process; the child of a fork gets a new one.

    The child has no thread that could release the old one. A section that the fork interrupted still releases that.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.current = Guard()


#: The one guard of this process is its ``current``.
guards = _Guards()
lifecycle.take_part(lifecycle.Stage.LOCKS, guards)


def deferred(
    call: Callable[Concatenate[_Self, _Parameters], _Result],
) -> Callable[Concatenate[_Self, _Parameters], _Result | None]:
    """Make a method run as soon as this thread has released the guard of this process; then it returns None.

    That is so if a signal handler has interrupted the thread while it held the guard.
    """

    @wraps(call)
    def now_or_later(self: _Self, /, *arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result | None:
        if os.getpid() != lifecycle.known_pid:
            lifecycle.notice_fork()
        guard = guards.current
        if not guard.is_held():
            return call(self, *arguments, **named)
        guard.defer(partial(now_or_later, self, *arguments, **named))
        return None

    return now_or_later


@cache
def late(module: str) -> ModuleType:
    """Import a module at its first use: forks of other threads wait meanwhile, and so do counting signal handlers.

    Raises:
        BlockError: this user cannot import it.
    """
    try:
        with guards.current, lifecycle.no_fork():
            return importlib.import_module(module)
    except ImportError as error:
        raise BlockError(
            f"user {os.geteuid()} cannot import {error.name} ({error}): restart this process if the package was"
            " upgraded meanwhile; else let that user read Python's library and this package, or import it before the"
            " process gives up root"
        ) from None


def tell(text: str, level: int = logging.ERROR) -> None:
    """Log a line, but only after the guard is released: a log handler may count, or wait for a thread that does."""
    guard = held_guard()
    if guard is None:
        log.log(level, text)
    else:
        guard.defer(partial(log.log, level, text))


def held_guard() -> Guard | None:
    """Return the guard if the calling thread holds it, else None."""
    guard = guards.current
    return guard if guard.is_held() else None
