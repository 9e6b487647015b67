"""The one background thread of a process that has a block attached.

It does what is due from time to time (flush the buffer, save a snapshot) and answers the questions of
other processes. It knows nothing of what these tasks do.

A thread does not survive a fork, and a fork while it runs may copy a lock that it holds. So it is
stopped before a fork, started again in the parent, and forgotten in the child, which starts its own
when it attaches.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from .questions import Listener

log = logging.getLogger("shmstats")

_STOP_SECONDS = 5.0
_FORK_SECONDS = 0.5


class Task(NamedTuple):
    """Something that is due again and again.

    Attributes:
        interval: seconds between two runs.
        run: what to call.
    """

    interval: float
    run: Callable[[], object]


class Agent:
    """The background thread.

    Args:
        tasks: what to do from time to time.
        socket: path of the socket where questions are asked.
        answers: for each question, what gives its answer.
    """

    def __init__(
        self, tasks: Sequence[Task], socket: str, answers: Mapping[str, Callable[[], Any]]
    ) -> None:
        self._tasks = tasks
        self._answers = answers
        self._socket = socket
        self._listener: Listener | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._due = [0.0] * len(tasks)
        self._lock = threading.Lock()
        self._stopped = False
        _agents.add(self)

    def start(self) -> None:
        """Start the thread; without a socket where none can be made. Nothing where it was stopped before."""
        with self._lock:
            if self._stopped:
                return
            try:
                self._listener = Listener(self._socket)
            except OSError as error:
                log.warning("the debug endpoints will not show process %d: %s", os.getpid(), error)
            self._due = [time.monotonic() + task.interval for task in self._tasks]
            self._resume()

    def stop(self) -> None:
        """End the thread and remove the socket, for good."""
        with self._lock:
            self._stopped = True
            self._pause(_STOP_SECONDS)
            if self._listener is not None:
                self._listener.close()
                self._listener = None

    def _resume(self) -> None:
        """Start the thread; where that is not possible this process goes on without it."""
        stop, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        thread = threading.Thread(
            target=self._run, args=(stop, self._listener), name="shmstats-agent", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            os.close(stop)
            os.close(self._wake)
            log.warning(
                "process %d flushes and saves nothing at intervals, and answers no questions: %s", os.getpid(), error
            )
            return
        self._thread = thread

    def _pause(self, seconds: float) -> bool:
        """Have the thread end; returns whether there was one."""
        thread, self._thread = self._thread, None
        if thread is None:
            return False
        # Written, not only closed: another process may have inherited this end.
        os.write(self._wake, b"x")
        os.close(self._wake)
        if thread is not threading.current_thread():
            thread.join(seconds)
        return True

    def _forget(self) -> None:
        """Drop what the child of a fork inherited."""
        self._thread = None
        self._listener = None
        self._lock = threading.Lock()

    def _run(self, stop: int, listener: Listener | None) -> None:
        """Work until the other end of the pipe ``stop`` is closed."""
        due = self._due  # kept over a fork, or a process that forks often would never come to its tasks
        with selectors.DefaultSelector() as selector:
            selector.register(stop, selectors.EVENT_READ)
            if listener is not None:
                # Closed already, if the block was left before this thread came to begin.
                with suppress(ValueError, OSError):
                    selector.register(listener.fileno(), selectors.EVENT_READ)
            while True:
                wait = max(min(due, default=time.monotonic() + 60.0) - time.monotonic(), 0.0)
                ready = {key.fd for key, _ in selector.select(wait)}
                if stop in ready:
                    break
                if ready and listener is not None:
                    self._do(lambda: listener.serve(self._answers))
                for number, task in enumerate(self._tasks):
                    if due[number] <= time.monotonic():
                        self._do(task.run)
                        due[number] = time.monotonic() + task.interval
        os.close(stop)

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            log.exception("the background thread goes on after an error")


_agents: weakref.WeakSet[Agent] = weakref.WeakSet()
_paused: list[Agent] = []


def _before_fork() -> None:
    _paused[:] = [agent for agent in list(_agents) if agent._pause(_FORK_SECONDS)]


def _after_fork_in_parent() -> None:
    for agent in _paused:
        if not agent._stopped:  # by another thread, in the middle of the fork
            agent._resume()
    _paused.clear()


def _after_fork_in_child() -> None:
    _paused.clear()
    for agent in _agents:
        agent._forget()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
