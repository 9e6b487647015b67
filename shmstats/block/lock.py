"""The locks that the kernel drops when their holder dies: record locks on a lock file.

A block has one lock file beside it in shared memory. Its byte `TABLE` is the *table lock*, which guards names,
worker slots and the header; in the pure Python core there is one for each cell; `SAVER` is held, as long
as it lives, by the process that saves snapshots; and `ATTACHED` is shared by all that have the block
attached: only the kernel can tell whether a process of another pid namespace lives.

Record locks belong to a process: they do nothing between its threads, and they are all gone as soon as
the process closes *any* descriptor of that file. So there is one `LockFile` for a path in a process,
which opens it once, and a `Guard` in it that keeps the threads apart.

A signal handler that counts may interrupt its own thread inside a locked section. It must neither wait
(for itself) nor go in, so it asks ``guard.held`` and, if so, leaves what it wanted to do with
``guard.defer``; it is done as soon as the section is left.

Or it may raise, at any line: then the section is left, and the lock let go, like the guard. All that is entered
here is a `Section`, which sees to that.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from .. import lifecycle, native
from ..core import Section
from ..interruption import came_from_handler
from ..layout import ATTACHED, TABLE

log = logging.getLogger("shmstats")

_RETRY_SECONDS = 0.001


class Guard(Section):
    """Keeps the threads of this process, and their signal handlers, out of each other's way.

    A reentrant lock that knows whether the calling thread has it, and a queue for what has to wait
    until this thread has left it.

    Attributes:
        lock: the lock, for further sections of it.
        enter: go in; the same as ``with``, for who must be quick.
    """

    def __init__(self) -> None:
        self.lock = native.RLock()  # not a greenlet's: none is switched inside
        self.enter = self.lock.acquire
        self._deferred: deque[Callable[[], object]] = deque()
        self._threads = native.original("_thread", "_local")()
        super().__init__(self.lock, after=self.do_deferred)

    @property
    def held(self) -> bool:
        """Whether the calling thread is inside."""
        return bool(self._is_owned())

    def defer(self, call: Callable[[], object]) -> None:
        """Have ``call()`` done when the calling thread, which is inside, has left."""
        self._deferred.append(call)

    def leave(self) -> None:
        """Go out, and do what was deferred."""
        self.lock.release()
        if self._deferred:
            self.do_deferred()

    def do_deferred(self) -> None:
        """Do what was deferred, if the calling thread is outside: what comes up meanwhile is done by the same loop."""
        while self._deferred:
            doing = self._doing()
            if self.held or doing._is_owned():  # type: ignore[attr-defined]
                return
            with doing:
                self._do_all()

    def _doing(self) -> native.RLock:
        """Return a lock of the calling thread alone, which it has while it does what was deferred."""
        try:
            return self._threads.doing  # type: ignore[no-any-return]
        except AttributeError:
            self._threads.doing = native.RLock()
            return self._threads.doing  # type: ignore[no-any-return]

    def _do_all(self) -> None:
        while True:
            try:
                call = self._deferred.popleft()
            except IndexError:  # another thread, or a signal handler, may have been quicker
                return
            try:
                call()
            except Exception as error:
                if came_from_handler(error):
                    raise
                # It belongs to another caller, who is gone; this one has nothing to do with it.
                log.exception("a deferred operation failed")


class LockFile:
    """The lock file of one block, as this process sees it. Get it by `lock_file`.

    Attributes:
        path: of the file.
        guard: to be held by whoever holds a lock.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.guard = Guard()
        self._fd = -1
        self._inode = (0, 0)
        self._attached = 0
        self._table = self._make_table()

    def forget(self) -> None:
        """Start anew in the child of a fork, which inherits no lock and must not share the descriptor."""
        self._close()
        self._attached = 0
        # New objects: a section that the fork interrupted goes on to leave the old ones.
        self.guard = Guard()
        self._table = self._make_table()

    def _make_table(self) -> Section:
        """Return what holds the table lock, in as many levels as there are.

        It is used again and again: to make one each time would cost more than to lock.
        """
        guard = self.guard

        def lock() -> None:
            self.lock_linked()
            if self.guard is not guard:  # a fork in between: this is the child, where nothing unlocks it
                self.unlock(TABLE)

        def unlock() -> None:
            if self.guard is guard:
                self.unlock(TABLE)

        return Section(guard.lock, lock, unlock, guard.do_deferred)

    def table(self) -> Section:
        """Hold the table lock, creating the lock file where it is missing. May be nested.

        Raises:
            OSError: the file cannot be made, is a link, or belongs to someone else.
        """
        return self._table

    def lock(self, position: int) -> None:
        """Wait for the lock of byte ``position`` of the file, which is open. The guard is held.

        The kernel, which looks at processes and not at threads, may see a deadlock where two threads of one
        wait for two files. There is none: nobody here holds one lock file's lock and waits for another's.
        """
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, position)
            except OSError as error:
                if error.errno != errno.EDEADLK:
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def try_lock(self, position: int) -> bool:
        """Take the lock of byte ``position``, or keep it, if no other process has it; returns whether."""
        with self.guard:
            if self._fd < 0:
                return False
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
            except (BlockingIOError, PermissionError):
                return False
            return True

    def note_attached(self) -> None:
        """Show other processes, until they are told otherwise or this one ends, that it is attached.

        The table lock is held. Each of several attachments is noted.
        """
        self._attached += 1
        fcntl.lockf(self._fd, fcntl.LOCK_SH, 1, ATTACHED)

    def note_left(self) -> None:
        """Take back what `note_attached` noted. The table lock is held."""
        self._attached -= 1
        if self._attached <= 0:
            self._attached = 0
            self.unlock(ATTACHED)

    def others_attached(self) -> bool:
        """Tell whether processes are attached, in whatever pid namespace; this one is not. The table lock is held."""
        if not self.try_lock(ATTACHED):
            return True
        self.unlock(ATTACHED)
        return False

    def unlock(self, position: int) -> None:
        """Let go of the lock of byte ``position``; nothing where the file was closed in between."""
        if self._fd >= 0:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, position)

    def remove(self) -> None:
        """Unlink the file and close it. The table lock is held; who waits for it notices, and opens anew."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self._close()

    def lock_linked(self) -> None:
        """Take the table lock of the file that is at the path *now*, not of one just unlinked by another."""
        while True:
            try:
                if self._fd < 0:
                    self._fd = self._open()
                    if self._attached:
                        fcntl.lockf(self._fd, fcntl.LOCK_SH, 1, ATTACHED)
                self.lock(TABLE)
                found = os.fstat(self._fd)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                self._fd = -1
                continue
            if (found.st_dev, found.st_ino) != self._inode:
                # Somebody closed all descriptors of this process, and the number is that of a file of his.
                self.unlock(TABLE)
            elif found.st_nlink:
                return
            else:
                self._close()
            self._fd = -1

    def _close(self) -> None:
        fd, self._fd = self._fd, -1  # first: once closed, the number may be another file's
        if fd >= 0:
            os.close(fd)

    def _open(self) -> int:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            os.close(fd)
            raise PermissionError(
                f"lock file {self.path} belongs to user {found.st_uid} with mode {found.st_mode & 0o777:o};"
                f" it must belong to user {os.geteuid()} with mode 600"
            )
        self._inode = found.st_dev, found.st_ino
        return fd


_lock_files: dict[str, LockFile] = {}


def lock_file(path: str) -> LockFile:
    """Return the one `LockFile` of this process for ``path``, without opening it."""
    file = _lock_files.get(path)
    if file is None:
        file = _lock_files.setdefault(path, LockFile(path))
        lifecycle.tell_of_forks(lifecycle.Stage.LOCKS, file)
    return file


def held_guard() -> Guard | None:
    """Return a guard that the calling thread is inside of, of whatever block; None where there is none."""
    for file in list(_lock_files.values()):
        if file.guard.held:
            return file.guard
    return None
