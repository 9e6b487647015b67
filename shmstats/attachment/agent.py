"""The one background thread that every process with a block has: it is a thread of the system, never a greenlet.

It does what is due from time to time and quick (flush the buffer, look who saves), and answers the questions of other
processes. It starts without a descriptor, and asks for those that it needs until it has them.

A thread does not survive a fork, and a fork while it runs may copy a lock that it holds. So it is paused for a fork,
goes on in the parent, and is forgotten in the child, which starts its own when it attaches. A fork does not wait for
one that takes long: in the parent it then goes on as if nothing had been, for there must never be a second beside it.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from .. import lifecycle, native
from ..descriptors import above_standard, leads_to
from . import beats
from .peers import Listener

log = logging.getLogger("shmstats")

_STOP_SECONDS = 5.0
_FORK_SECONDS = 0.5

#: Seconds between two tries to get the descriptors that there were not, or a thread.
RETRY_SECONDS = 1.0


class Task(NamedTuple):
    """Something quick that is due again and again.

    Attributes:
        interval: seconds between two runs.
        run: what to call.
    """

    interval: float
    run: Callable[[], object]


class _Run:
    """The thread from its start to its end. Until it has noticed that it is to end, that can be taken back.

    Attributes:
        told: a descriptor that is readable when the thread is to end; -1 as long as there can be none.
        thread: it.
    """

    def __init__(self) -> None:
        self.told = self._tell = -1
        self._pipe: os.stat_result | None = None
        self.thread: native.Thread | None = None
        self._lock = native.RLock()  # a signal handler may fork, in the middle of a fork too
        self._bell: Any = native.make_lock()  # as long as there is no descriptor it is this that tells
        self._bell.acquire()
        self._ending = False
        self._over = False
        self.open()

    def open(self) -> None:
        """Get the descriptors, if there are some now, and none that are still ours."""
        with self._lock, suppress(OSError):
            if not self._has_pipe and not self._over:
                self.told = self._tell = -1
                self.told, self._tell = map(above_standard, os.pipe())
                self._pipe = os.fstat(self.told)
                os.set_blocking(self.told, False)
                os.set_blocking(self._tell, False)
                if self._ending:
                    os.write(self._tell, b"x")

    def end(self) -> None:
        """Tell the thread to end."""
        with self._lock:
            if not self._over and not self._ending:
                self._ending = True
                self._bell.release()
                if self._has_pipe:
                    # Written, not only closed: another process may have inherited this end.
                    os.write(self._tell, b"x")

    def go_on(self) -> bool:
        """Tell the thread not to end after all; returns False where that is too late."""
        with self._lock:
            if self._ending and not self._over:
                self._ending = False
                self._bell.acquire(blocking=False)
                if self._has_pipe:
                    os.read(self.told, 1)
            return not self._over

    def ends(self) -> bool:
        """Tell the thread whether it is to end; if so, that is final."""
        with self._lock:
            if self._ending:
                self._close()
            return self._over

    @property
    def is_ending(self) -> bool:
        """Whether the thread is to end; that may be taken back."""
        return self._ending

    def wait(self, seconds: float, listener: Listener | None) -> bool:
        """Have the thread wait; returns whether the listener has something to do."""
        if self.told < 0:
            if self._bell.acquire(timeout=min(seconds, RETRY_SECONDS)):
                self._bell.release()
            return listener is not None
        poll = native.original("select", "poll")()
        poll.register(self.told, select.POLLIN)
        for descriptor, events in listener.descriptors() if listener is not None else ():
            poll.register(descriptor, events)
        return any(descriptor != self.told for descriptor, _ in poll.poll(seconds * 1000))

    def abandon(self) -> None:
        """Close what there is, where there is no thread."""
        self._lock = native.RLock()  # who held it is another process's thread
        if not self._over:
            self._close()

    def _close(self) -> None:
        self._over = True
        if self._has_pipe:  # else it is not ours to close
            os.close(self.told)
            os.close(self._tell)
        self.told = self._tell = -1
        self._pipe = None

    @property
    def _has_pipe(self) -> bool:
        """Whether both ends are open: whoever else closes one closes all."""
        return self._pipe is not None and leads_to(self.told, self._pipe)


class Agent:
    """The background thread.

    Args:
        tasks: what to do from time to time.
        socket: path of the socket where questions are asked.
        owner: user id of the block's owner.
        answers: for each question, what gives its answer.
    """

    def __init__(
        self, tasks: Sequence[Task], socket: str, owner: int, answers: Mapping[str, Callable[[], Any]]
    ) -> None:
        self._tasks = (*tasks, Task(beats.INTERVAL, self._beat))
        self._answers = answers
        self._socket, self._owner = socket, owner
        self._listener: Listener | None = None
        self._listen_at = 0.0
        self._warned = False
        self._run: _Run | None = None
        self._due = [0.0] * len(self._tasks)
        self._lock = native.RLock()  # a signal handler may stop what this very thread starts
        self._stopped = False
        lifecycle.pause_for_forks(self)

    def start(self) -> bool:
        """Start the thread, if it is not there; returns False where there can be none now.

        Nothing where it was stopped before.
        """
        with self._lock:
            if self._stopped or self._run is not None:
                return True
            self._due = [time.monotonic() + task.interval for task in self._tasks]
            self._resume()
            if self._stopped:
                self._end()
            return self._run is not None

    def stop(self) -> None:
        """End the thread and remove the socket, for good."""
        with self._lock:
            self._stopped = True
            self._end()

    def listen_at(self, path: str) -> None:
        """Have the socket at this path from now on; to be called by the thread itself."""
        if path != self._socket:
            self._socket, self._listen_at = path, 0.0
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.close()

    def pause(self) -> bool:
        """Have the thread end for a fork, and wait for it, but not for long; returns whether there was one."""
        return self._pause(_FORK_SECONDS)

    def go_on(self) -> None:
        """Have the thread work again after a fork."""
        if self._stopped:  # by another thread, in the middle of the fork
            return
        if self._run is None or not self._run.go_on():
            self._resume()
        if self._stopped and self._run is not None:
            self._run.end()

    def forget(self) -> None:
        """Drop what the child of a fork inherited."""
        run, self._run = self._run, None
        if run is not None:
            run.abandon()
        self._listener = None
        self._stopped = True
        self._lock = native.RLock()

    def _end(self) -> None:
        self._pause(_STOP_SECONDS)
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _resume(self) -> None:
        """Start the thread; where that is not possible this process goes on without it, for now."""
        run = _Run()
        run.thread = native.Thread(lambda: self._work(run), "shmstats-agent")
        try:
            run.thread.start()
        except RuntimeError as error:
            run.abandon()
            self._run = None
            if not self._warned and not native.is_at_end(error):
                log.warning(
                    "process %d has no background thread: it does not flush or save at intervals, and answers no"
                    " debug questions, until a thread can be started: %s",
                    os.getpid(),
                    error,
                )
            self._warned = True
            return
        self._run = run

    def _pause(self, seconds: float) -> bool:
        run = self._run
        if run is None:
            return False
        run.end()
        if run.thread is not None and not run.thread.is_current:
            run.thread.join(seconds)
        return True

    def _listen(self) -> Listener | None:
        """Return the socket where questions are asked; it is made as soon as there can be one."""
        former = self._listener  # which another thread may close meanwhile
        if former is not None and former.is_lost:
            self._listener = None
            former.forget()
        if self._listener is None and not self._stopped and time.monotonic() >= self._listen_at:
            self._listen_at = time.monotonic() + RETRY_SECONDS
            try:
                listener = Listener(self._socket, self._owner)
                beats.beat(self._socket)
                if self._stopped:
                    listener.close()
                else:
                    self._listener = listener
            except OSError as error:
                if self._stopped or isinstance(error, FileNotFoundError):
                    return None  # what was made is removed, as a block is left: a later try makes it again
                if not self._warned:
                    log.warning("the debug endpoints will not show process %d for now: %s", os.getpid(), error)
                self._warned = True
        return self._listener

    def _work(self, run: _Run) -> None:
        """Work until the thread is to end."""
        due = self._due  # kept over a fork, or a process that forks often would never come to its tasks
        while not run.ends():
            run.open()
            listener = self._listen()
            wait = max(min(due, default=time.monotonic() + 60.0) - time.monotonic(), 0.0)
            try:
                asked = run.wait(wait if listener is not None else min(wait, RETRY_SECONDS), listener)
            except (OSError, ValueError):  # the listener was closed meanwhile: the block is being left
                continue
            if run.is_ending:
                continue
            if asked and listener is not None:
                self._do(listener.serve, self._answers)
            for number, task in enumerate(self._tasks):
                if due[number] <= time.monotonic():
                    self._do(task.run)
                    due[number] = time.monotonic() + task.interval

    def _beat(self) -> None:
        beats.beat(self._socket)

    def _do(self, work: Callable[..., object], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception:
            if not self._stopped:  # else the block was left meanwhile
                log.exception("the background thread continues after an error")
