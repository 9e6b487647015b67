"""The background thread of every process with a block: a thread of the operating system, never a greenlet.

It runs short tasks at intervals (flush the buffer, check who saves), and answers the questions of other processes. It
starts without descriptors if there are none, and retries. A thread does not survive a fork, and a lock that it holds
would stay locked in the child: so it is paused for a fork, continues in the parent, and the child starts its own.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from .. import lifecycle, native
from ..descriptors import above_standard, leads_to
from ..frozen import NamedTuple
from .peers import BEAT_SECONDS, Listener, beat

log = logging.getLogger("shmstats")

_STOP_SECONDS = 5.0
_FORK_SECONDS = 0.5

#: The process is leaving the block, which removes the socket, or other code has closed its descriptor.
_PASSING = (errno.ENOENT, errno.EBADF, errno.ENOTSOCK)

#: Seconds between two checks whether the thread must end, as long as there is no descriptor that would wake it.
_LOOK_SECONDS = 0.05

#: Seconds between two attempts to get missing descriptors, or a thread.
RETRY_SECONDS = 1.0


class Task(NamedTuple):
    """A short task that is repeated.

    Attributes:
        interval: seconds between two runs.
        run: the function to call.
    """

    interval: float
    run: Callable[[], object]


class _Run:
    """One run of the thread. Until the thread has noticed that it must end, that can be taken back.

    Attributes:
        told: a descriptor that is readable when the thread must end; -1 as long as there is none.
        thread: the thread.
        is_ending: whether the thread must end; that may be taken back.
    """

    thread: native.Thread

    def __init__(self) -> None:
        self.told = self._tell = -1
        self._pipe: os.stat_result | None = None
        self._lock = native.RLock()  # a signal handler may fork, even in the middle of a fork
        self.is_ending = False
        self._over = False
        self.open()

    def open(self) -> None:
        """Get the descriptors, if they are missing and available."""
        with self._lock, suppress(OSError):
            if not self._has_pipe and not self._over:
                self.told = self._tell = -1
                self.told, self._tell = map(above_standard, os.pipe())
                self._pipe = os.fstat(self.told)
                os.set_blocking(self.told, False)
                os.set_blocking(self._tell, False)
                if self.is_ending:
                    os.write(self._tell, b"x")

    def end(self) -> None:
        """Tell the thread to end."""
        with self._lock:
            if not self._over and not self.is_ending:
                self.is_ending = True
                if self._has_pipe:
                    # Written to, not only closed, because another process may have inherited this end.
                    os.write(self._tell, b"x")

    def go_on(self) -> bool:
        """Tell the thread not to end; returns False if it is too late."""
        with self._lock:
            if self.is_ending and not self._over:
                self.is_ending = False
                if self._has_pipe:
                    os.read(self.told, 1)
            return not self._over

    def ends(self) -> bool:
        """Tell the thread whether it must end; if so, that is final."""
        with self._lock:
            if self.is_ending:
                self._close()
            return self._over

    def wait(self, seconds: float, listener: Listener | None) -> bool:
        """Make the thread wait; returns whether the listener has something to do."""
        if self.told < 0:  # nothing could wake it
            native.original("time", "sleep")(min(seconds, _LOOK_SECONDS))
            return listener is not None
        poll = native.original("select", "poll")()
        poll.register(self.told, select.POLLIN)
        for descriptor, events in listener.descriptors() if listener is not None else ():
            poll.register(descriptor, events)
        return any(descriptor != self.told for descriptor, _ in poll.poll(seconds * 1000))

    def abandon(self) -> None:
        """Close the descriptors, if there is no thread."""
        self._lock = native.RLock()  # a thread of another process may have held the old one
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
        """Whether both ends are open: other code that closes one closes all."""
        return self._pipe is not None and leads_to(self.told, self._pipe)


class Agent:
    """The background thread.

    Args:
        tasks: to run at intervals.
        socket: path of the socket for questions.
        owner: user id of the block's owner.
        answers: for each question, the function that returns its answer.
    """

    def __init__(
        self, tasks: Sequence[Task], socket: str, owner: int, answers: Mapping[str, Callable[[], Any]]
    ) -> None:
        self._tasks = (*tasks, Task(BEAT_SECONDS, self._beat))
        self._answers = answers
        self._socket, self._owner = socket, owner
        self._listener: Listener | None = None
        self._listen_at = 0.0
        self._warned = False
        self._run: _Run | None = None
        self._due = [0.0] * len(self._tasks)
        self._lock = native.RLock()  # a signal handler may stop what this very thread starts
        self._stopped = False
        lifecycle.take_part(lifecycle.Stage.AGENTS, self)

    def start(self) -> bool:
        """Start the thread, unless it is running; returns False if no thread can be started now.

        It does nothing after `stop`.
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
        """Use the socket at this path from now on; called by the thread itself."""
        if path != self._socket:
            self._socket, self._listen_at = path, 0.0
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.close()

    def pause(self, seconds: float = _FORK_SECONDS) -> bool:
        """End the thread, for a fork, and wait for it for a short time; returns whether there was one."""
        run = self._run
        if run is None:
            return False
        run.end()
        run.thread.join(seconds)
        return True

    def go_on(self) -> None:
        """Let the thread work again after a fork."""
        if self._stopped:  # by another thread, in the middle of the fork
            return
        if self._run is None or not self._run.go_on():
            self._resume()
        if self._stopped and self._run is not None:
            self._run.end()

    def forget(self) -> None:
        """Drop what the child of a fork has inherited."""
        run, self._run = self._run, None
        if run is not None:
            run.abandon()
        self._listener = None
        self._stopped = True
        self._lock = native.RLock()

    def _end(self) -> None:
        self.pause(_STOP_SECONDS)
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _resume(self) -> None:
        """Start the thread; if that is not possible this process continues without it, for now."""
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

    def _listen(self) -> Listener | None:
        """Return the socket for questions, made as soon as possible."""
        former = self._listener  # another thread may close it meanwhile
        if former is not None and former.is_lost:
            self._listener = None
            former.forget()
        if self._listener is None and not self._stopped and time.monotonic() >= self._listen_at:
            self._listen_at = time.monotonic() + RETRY_SECONDS
            try:
                listener = Listener(self._socket, self._owner)
                beat(self._socket)
                if self._stopped:
                    listener.close()
                else:
                    self._listener = listener
            except OSError as error:
                if self._stopped or error.errno in _PASSING:
                    return None  # a later attempt makes it
                if not self._warned:
                    log.warning("the debug endpoints will not show process %d for now: %s", os.getpid(), error)
                self._warned = True
        return self._listener

    def _work(self, run: _Run) -> None:
        """Work until the thread must end."""
        due = self._due  # kept over forks: otherwise a process that forks often would never run its tasks
        while not run.ends():
            run.open()
            listener = self._listen()
            wait = max(min(due, default=time.monotonic() + 60.0) - time.monotonic(), 0.0)
            try:
                asked = run.wait(wait if listener is not None else min(wait, RETRY_SECONDS), listener)
            except (OSError, ValueError):  # the listener was closed: the process is leaving the block
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
        beat(self._socket)

    def _do(self, work: Callable[..., object], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception:
            if not self._stopped:  # else the process has left the block
                log.exception("the background thread continues after an error")
