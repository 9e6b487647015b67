"""Keeps a provider that raises or hangs from disturbing whoever counts.

A provider says by ``nonblocking = True`` that its methods never wait. Such a one is called in the
caller's own thread. Any other has a *courier*: one daemon thread that hands the operations over, in their
order. The caller waits for its own operation, but only for a small budget of time; then it goes on, and
the operation stays in the courier's queue, which is bounded.

An operation *failed* if the provider raised, or if it was not done within the budget. It was *dropped* if
it was never handed over. After some failures in a row the provider is *cut off*: from then on nothing is
handed to it, and nobody waits for it. Several operations that run over the budget at the same time, in
several threads, are one failure in that row, because one hiccup of the provider makes them all late.

A provider may itself count. What it counts during one of its calls reaches no guarded provider, or it would
go round in circles; only a provider with ``reentrant = True``, which promises never to count, gets such
operations too. It also gets those of a signal handler that interrupts one of its calls.

A signal handler may interrupt any line here and come in again. So nothing here holds a lock while it does
something else: the queue's ``put`` is reentrant, and a lock is only ever taken without waiting (as a
test-and-set), or waited for with a bound (as a signal that an operation is done).
"""

from __future__ import annotations

import _thread
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from .. import lifecycle
from ..once import Once
from . import Provider

log = logging.getLogger("shmstats")

#: What is reported: a failed operation, one that was never handed over, and a provider that was given up.
FAILURES = "provider_failures"
OPERATIONS_DROPPED = "provider_operations_dropped"
CUT_OFF = "providers_cut_off"

#: Seconds that a caller waits for its operation.
BUDGET = 0.1

#: Failures in a row after which a provider is cut off.
STRIKES = 3

#: Operations that wait for a provider at most.
CAPACITY = 1000


class GuardedProvider:
    """A provider whose every call returns within a bound, and raises nothing of the provider's.

    KeyboardInterrupt, SystemExit and what else is no `Exception` pass through where the provider is called
    in the caller's thread: they are meant for that thread. In the courier's thread they are failures.

    Args:
        provider: an object with the methods of `shmstats.sinks.Provider`. It may also have ``flush()``,
            ``close()``, ``name``, ``nonblocking`` and ``reentrant``.
        report: called with one of `FAILURES`, `OPERATIONS_DROPPED` and `CUT_OFF` each time. It runs in the
            thread that counts, and must not hand anything to providers.
        budget: seconds that a caller waits for its operation.
        strikes: failures in a row after which the provider is cut off.
        capacity: operations that wait for the provider at most.

    Attributes:
        provider: the guarded one.
        name: what it is called in the log.
        cut_off: whether the provider was given up.
    """

    def __init__(
        self,
        provider: Provider,
        report: Callable[[str], None],
        *,
        budget: float = BUDGET,
        strikes: int = STRIKES,
        capacity: int = CAPACITY,
    ) -> None:
        self.provider = provider
        name = getattr(provider, "name", None)
        self.name = name if isinstance(name, str) else type(provider).__name__
        self._report_to = report
        self._budget = budget
        self._strikes_allowed = strikes
        self._capacity = capacity
        self._direct = getattr(provider, "nonblocking", False) is True
        self._reentrant = self._direct and getattr(provider, "reentrant", False) is True
        self._courier = _Courier(provider)
        self._strikes = 0
        self._struck_at = float("-inf")
        self._logged = Once()
        self.cut_off = False
        self._cutting = _thread.allocate_lock()
        lifecycle.tell_of_forks(lifecycle.Stage.PROVIDERS, self)

    def incr(self, category: str, metric: str, n: int) -> None:
        """Add n to a counter."""
        self._operate("incr", (category, metric, n))

    def decr(self, category: str, metric: str, n: int) -> None:
        """Take n away from a counter."""
        self._operate("decr", (category, metric, n))

    def gauge(self, category: str, metric: str, value: int | float) -> None:
        """Set a gauge."""
        self._operate("gauge", (category, metric, value))

    def absolute(self, category: str, metric: str, value: int) -> None:
        """Set a counter or an integer gauge."""
        self._operate("absolute", (category, metric, value))

    def timing(self, category: str, metric: str, milliseconds: float) -> None:
        """Record a duration."""
        self._operate("timing", (category, metric, milliseconds))

    def timestamp(self, category: str, metric: str, moment: datetime) -> None:
        """Record a moment."""
        self._operate("timestamp", (category, metric, moment))

    def flush(self, timeout: float = 1.0) -> bool:
        """Have the provider send what it holds, after the operations that wait for it.

        Running over ``timeout`` is a failure, but no reason to cut the provider off.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether it was done in that time, without an exception, and the provider did not return False.
            A provider without ``flush`` has done it when all operations were handed over.
        """
        return self._finish("flush", timeout)

    def close(self, timeout: float = 1.0) -> bool:
        """Have the provider close, after the operations that wait for it, and end the courier.

        An operation that comes later is handed over all the same, by a new courier.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether it was done in that time, without an exception, and the provider did not return False.
        """
        done = self._finish("close", timeout)
        self._courier.stop()
        return done

    def forget(self) -> None:
        """Start anew in the child of a fork: the parent hands over what waits."""
        self._courier = _Courier(self.provider)
        self._strikes = 0

    def _operate(self, method: str, arguments: tuple[object, ...]) -> None:
        if self.cut_off:
            self._report(OPERATIONS_DROPPED)
        elif self._reentrant:
            self._call(method, arguments)
        elif _here.inside:
            self._report(OPERATIONS_DROPPED)
        elif self._direct:
            _here.inside = True
            try:
                self._call(method, arguments)
            finally:
                _here.inside = False
        elif self._courier.waiting >= self._capacity:
            self._report(OPERATIONS_DROPPED)
        else:
            self._hand_over(_Operation(method, arguments))

    def _call(self, method: str, arguments: tuple[object, ...]) -> None:
        try:
            getattr(self.provider, method)(*arguments)
        except Exception as error:
            self._strike(_described(method, error))
        else:
            self._strikes = 0

    def _hand_over(self, operation: _Operation) -> None:
        courier = self._courier
        if not courier.take(operation):
            self._strike(f"{operation.method}: no thread could be started")
        elif operation.done.acquire(timeout=self._budget):
            self._settle(operation)
        elif courier is self._courier:  # not so where a signal handler forked, and this is the child
            self._strike_late(f"{operation.method} took longer than {self._budget} s")

    def _settle(self, operation: _Operation) -> None:
        """Judge an operation that the courier, or the one who cut the provider off, is done with."""
        if operation.failure:
            self._strike(operation.failure)
        elif operation.delivered:
            self._strikes = 0

    def _finish(self, method: str, timeout: float) -> bool:
        """Do one of the optional methods, behind all operations that wait; returns whether it was done."""
        if self.cut_off or _here.inside:
            return False
        operation = _Operation(method if callable(getattr(self.provider, method, None)) else "", ())
        courier = self._courier
        if not operation.method and not courier.waiting and not courier.running:
            return True
        if not courier.take(operation):
            # The interpreter is about to end. Who never waits may be called here, too.
            if self._direct:
                self._call(method, ())
            return self._direct
        if not operation.done.acquire(timeout=max(timeout, 0.0)):
            self._fail(f"{method} took longer than {timeout} s")
            return False
        self._settle(operation)
        return operation.delivered and operation.answer is not False

    def _strike(self, reason: str) -> None:
        """Note a failed operation, and cut the provider off if there were too many in a row."""
        self._fail(reason)
        self._struck_at = time.monotonic()
        self._strikes += 1
        if self._strikes >= self._strikes_allowed:
            self._cut(reason)

    def _strike_late(self, reason: str) -> None:
        """Note an operation over budget; those of several threads at one time are one in the row."""
        if time.monotonic() - self._struck_at >= self._budget * 0.9:
            self._strike(reason)
        else:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        self._report(FAILURES)
        if self._logged.first("failure"):
            log.warning("provider %s failed, further failures are only counted: %s", self.name, reason)

    def _cut(self, reason: str) -> None:
        if not self._cutting.acquire(blocking=False):
            return
        self.cut_off = True
        log.error("provider %s is cut off after %d failures in a row: %s", self.name, self._strikes, reason)
        self._report(CUT_OFF)
        for _ in range(self._courier.abandon()):
            self._report(OPERATIONS_DROPPED)

    def _report(self, metric: str) -> None:
        with suppress(Exception):
            self._report_to(metric)


class _Operation:
    """A call that waits for the courier.

    Attributes:
        method: of the provider; empty: none, only its turn is waited for.
        arguments: of the call.
        done: locked until the operation is over.
        delivered: whether the provider was called, and did not raise.
        answer: what it returned.
        failure: the exception in words, if it did.
    """

    __slots__ = ("answer", "arguments", "delivered", "done", "failure", "method")

    def __init__(self, method: str, arguments: tuple[object, ...]) -> None:
        self.method = method
        self.arguments = arguments
        self.delivered = False
        self.answer: object = None
        self.failure = ""
        self.done = _thread.allocate_lock()
        self.done.acquire()


class _Courier:
    """A queue of operations and the thread, started when there is one, that calls the provider with them.

    The thread is not one of `threading`: to start one takes a lock that the thread which a signal handler
    interrupts may hold.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._one = _thread.allocate_lock()  # held by the one thread
        self._abandoned = False

    @property
    def waiting(self) -> int:
        """How many operations wait, about."""
        return self._queue.qsize()

    @property
    def running(self) -> bool:
        """Whether the thread has been started, and has not ended."""
        return self._one.locked()

    def take(self, operation: _Operation) -> bool:
        """Queue an operation; False where there is no thread for it, and none can be started."""
        if not self.running and not self._start():
            return False
        self._queue.put(operation)
        # It may have ended in between.
        return self.running or self._start()

    def stop(self) -> None:
        """Have the thread end when it has done what was queued before."""
        if self.running:
            self._queue.put(None)

    def abandon(self) -> int:
        """Have the thread end when it can, and hand over nothing more; returns how many were waiting."""
        self._abandoned = True
        dropped = 0
        with suppress(queue.Empty):
            while True:
                operation = self._queue.get_nowait()
                if operation is not None:
                    operation.done.release()
                    dropped += 1
        self.stop()
        return dropped

    def _start(self) -> bool:
        if not self._one.acquire(blocking=False):
            return True
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            self._one.release()
            return False
        return True

    def _run(self) -> None:
        _here.inside = True
        while True:
            operation = self._queue.get()
            if operation is not None:
                self._deliver(operation)
                del operation  # nothing of it is to stay while the next one is waited for
                continue
            self._one.release()
            # Who queued an operation just now saw this thread still there, and started none.
            if self._queue.empty() or not self._one.acquire(blocking=False):
                return

    def _deliver(self, operation: _Operation) -> None:
        try:
            if operation.method and not self._abandoned:
                operation.answer = getattr(self._provider, operation.method)(*operation.arguments)
            operation.delivered = not self._abandoned
        except BaseException as error:
            operation.failure = _described(operation.method, error)
        operation.done.release()


class _Here(threading.local):
    """What this thread is doing.

    Attributes:
        inside: whether a provider that may count is being called.
    """

    inside = False


def _described(method: str, error: BaseException) -> str:
    try:
        return f"{method} raised {type(error).__name__}: {error}"[:300]
    except Exception:
        return f"{method} raised {type(error).__name__}"


_here = _Here()
