"""The one background thread of a process that has a block attached.

It does what is due from time to time (flush the buffer, save a snapshot) and answers the questions of
other processes. It knows nothing of what these tasks do.

A thread does not survive a fork, and a fork while it runs may copy a lock that it holds. So it is
stopped before a fork, started again in the parent, and forgotten in the child, which starts its own
when it attaches. A fork does not wait for a task that takes long: in the parent the thread then goes on as if
nothing had been, for there must never be a second one beside it.
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

from .peers import Listener

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


class _Run:
    """The thread from its start to its end. Until it has noticed that it is to end, that can be taken back.

    Attributes:
        told: a descriptor that is readable when the thread is to end.
        thread: it.
    """

    def __init__(self) -> None:
        self.told, self._tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.thread: threading.Thread | None = None
        self._lock = threading.RLock()  # a signal handler may fork, in the middle of a fork too
        self._ending = False
        self._over = False

    def end(self) -> None:
        """Tell the thread to end."""
        with self._lock:
            if not self._over and not self._ending:
                self._ending = True
                # Written, not only closed: another process may have inherited this end.
                os.write(self._tell, b"x")

    def go_on(self) -> bool:
        """Tell the thread not to end after all; returns False where that is too late."""
        with self._lock:
            if self._ending and not self._over:
                self._ending = False
                os.read(self.told, 1)
            return not self._over

    def ends(self) -> bool:
        """Tell the thread whether it is to end; if so, that is final."""
        with self._lock:
            if self._ending:
                self._close()
            return self._over

    def abandon(self) -> None:
        """Close what there is, where there is no thread."""
        self._lock = threading.RLock()  # who held it is another process's thread
        if not self._over:
            self._close()

    def _close(self) -> None:
        self._over = True
        os.close(self.told)
        os.close(self._tell)


class Agent:
    """The background thread.

    Args:
        tasks: what to do from time to time.
        socket: path of the socket where questions are asked.
        answers: for each question, what gives its answer.
    """

    def __init__(self, tasks: Sequence[Task], socket: str, answers: Mapping[str, Callable[[], Any]]) -> None:
        self._tasks = tasks
        self._answers = answers
        self._socket = socket
        self._listener: Listener | None = None
        self._run: _Run | None = None
        self._due = [0.0] * len(tasks)
        self._lock = threading.RLock()  # a signal handler may stop what this very thread starts
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
            if self._stopped:
                self._end()

    def stop(self) -> None:
        """End the thread and remove the socket, for good."""
        with self._lock:
            self._stopped = True
            self._end()

    def _end(self) -> None:
        self._pause(_STOP_SECONDS)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _resume(self) -> None:
        """Start the thread; where that is not possible this process goes on without it."""
        run = _Run()
        run.thread = threading.Thread(target=self._work, args=(run, self._listener), name="shmstats-agent", daemon=True)
        try:
            run.thread.start()
        except RuntimeError as error:
            run.abandon()
            self._run = None
            log.warning(
                "process %d flushes and saves nothing at intervals, and answers no questions: %s", os.getpid(), error
            )
            return
        self._run = run

    def _pause(self, seconds: float) -> bool:
        """Have the thread end, and wait for it, but not for long; returns whether there was one."""
        run = self._run
        if run is None:
            return False
        run.end()
        if run.thread is not None and run.thread is not threading.current_thread():
            run.thread.join(seconds)
        return True

    def _go_on(self) -> None:
        """Have the thread work again after a pause."""
        if self._stopped:  # by another thread, in the middle of the fork
            return
        if self._run is None or not self._run.go_on():
            self._resume()
        if self._stopped and self._run is not None:
            self._run.end()

    def _forget(self) -> None:
        """Drop what the child of a fork inherited."""
        run, self._run = self._run, None
        if run is not None and run.thread is not threading.current_thread():
            run.abandon()
        self._listener = None
        self._lock = threading.RLock()

    def _work(self, run: _Run, listener: Listener | None) -> None:
        """Work until the thread is to end."""
        due = self._due  # kept over a fork, or a process that forks often would never come to its tasks
        with selectors.DefaultSelector() as selector:
            selector.register(run.told, selectors.EVENT_READ)
            if listener is not None:
                # Closed already, if the block was left before this thread came to begin.
                with suppress(ValueError, OSError):
                    selector.register(listener.fileno(), selectors.EVENT_READ)
            while not run.ends():
                wait = max(min(due, default=time.monotonic() + 60.0) - time.monotonic(), 0.0)
                ready = {key.fd for key, _ in selector.select(wait)}
                if run.told in ready:
                    continue
                if ready and listener is not None:
                    self._do(lambda: listener.serve(self._answers))
                for number, task in enumerate(self._tasks):
                    if due[number] <= time.monotonic():
                        self._do(task.run)
                        due[number] = time.monotonic() + task.interval

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            log.exception("the background thread goes on after an error")


_agents: weakref.WeakSet[Agent] = weakref.WeakSet()

#: Held from before a fork until after it: threads that fork at once do so one after the other.
_forking = threading.RLock()

#: The agents that were paused for a fork; for each one that a signal handler makes in the middle of it, its own.
_paused: list[list[Agent]] = []


def _before_fork() -> None:
    _forking.acquire()
    _paused.append([agent for agent in list(_agents) if agent._pause(_FORK_SECONDS)])


def _after_fork_in_parent() -> None:
    try:
        for agent in _paused.pop() if _paused else ():
            agent._go_on()
    finally:
        with suppress(RuntimeError):  # it is not held where a signal handler broke off what comes before
            _forking.release()


def _after_fork_in_child() -> None:
    global _forking
    _forking = threading.RLock()
    _paused.clear()
    for agent in _agents:
        agent._forget()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
