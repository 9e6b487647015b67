"""Keeps a provider that raises or hangs from disturbing the code that counts.

A *courier*, one daemon thread, calls the provider; a caller waits only a short time, its *budget*. After some failures
in a row the provider is *cut off*. What a provider itself counts reaches no guarded provider, or it would loop.
A signal handler may interrupt any line, so nothing here holds a lock while it does something else.
"""

from __future__ import annotations

import _thread
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from .. import lifecycle
from . import Provider
from .courier import Courier

log = logging.getLogger("shmstats")

#: Reported events: a failed operation, one that was never delivered, and a provider that was cut off.
FAILURES = "provider_failures"
OPERATIONS_DROPPED = "provider_operations_dropped"
CUT_OFF = "providers_cut_off"


class GuardedProvider:
    """A guard: each of its calls returns within a time limit, and raises nothing of the provider's.

    A provider with ``nonblocking = True``, which never waits, is called in the caller's thread; there
    KeyboardInterrupt, SystemExit and other exceptions that are no `Exception` pass through, because they are meant for
    that thread. Operations failed if the provider raised or exceeded the budget (several threads at the same time count
    once), and were dropped if they were never delivered. With ``reentrant = True`` a provider also gets operations of
    its own calls.

    Args:
        provider: an object with the methods of `shmstats.sinks.Provider`. It may also have ``flush()``,
            ``close()``, ``name``, ``nonblocking`` and ``reentrant``.
        report: called with one of `FAILURES`, `OPERATIONS_DROPPED` and `CUT_OFF` each time. It runs in the
            thread that counts, and must not call providers.

    Attributes:
        provider: the guarded provider.
        name: its name in the log.
        cut_off: whether the provider was cut off.
    """

    #: Seconds that a caller waits for its operation.
    budget = 0.1

    #: Failures in a row after which the provider is cut off.
    strikes_allowed = 3

    #: Most operations that wait for the provider.
    capacity = 1000

    def __init__(self, provider: Provider, report: Callable[[str], None]) -> None:
        self.provider = provider
        name = getattr(provider, "name", None)
        self.name = name if isinstance(name, str) else type(provider).__name__
        self._report = report
        self._direct = getattr(provider, "nonblocking", False) is True
        self._reentrant = self._direct and getattr(provider, "reentrant", False) is True
        self._courier = _ProviderCourier(provider)
        self._strikes = 0
        self._struck_at = float("-inf")
        self._logged = False
        self.cut_off = False
        self._cutting = _thread.allocate_lock()
        lifecycle.take_part(lifecycle.Stage.PROVIDERS, self)

    def deliver(self, method: str, *arguments: object) -> None:
        """Call one of the methods of `shmstats.sinks.Provider`."""
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
        elif self._courier.waiting >= self.capacity:
            self._report(OPERATIONS_DROPPED)
        else:
            self._hand_over(_Operation(method, arguments))

    def flush(self, timeout: float = 1.0) -> bool:
        """Make the provider send what it holds, after the waiting operations.

        Exceeding ``timeout`` is a failure, but no reason to cut the provider off.

        Args:
            timeout: longest time to wait, in seconds.

        Returns:
            Whether it was done in that time, without an exception, and the provider did not return False.
            For a provider without ``flush``, whether all operations were delivered.
        """
        return self._finish("flush", timeout)

    def close(self, timeout: float = 1.0) -> bool:
        """Close the provider, after the waiting operations, and end the courier.

        A later operation is delivered by a new courier.

        Args:
            timeout: longest time to wait, in seconds.

        Returns:
            Whether it was done in that time, without an exception, and the provider did not return False.
        """
        done = self._finish("close", timeout)
        self._courier.stop()
        return done

    def forget(self) -> None:
        """Reset in the child of a fork: the parent delivers the waiting operations."""
        self._courier = _ProviderCourier(self.provider)
        self._strikes = 0

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
        elif operation.done.acquire(timeout=self.budget):
            self._settle(operation)
        elif courier is self._courier:  # false if a signal handler forked, and this is the child
            self._strike(f"{operation.method} took longer than {self.budget} s", late=True)

    def _settle(self, operation: _Operation) -> None:
        """Judge an operation after the courier, or the cut-off, has finished with it."""
        if operation.failure:
            self._strike(operation.failure)
        elif operation.delivered:
            self._strikes = 0

    def _finish(self, method: str, timeout: float) -> bool:
        """Call one of the optional methods, after all waiting operations; returns whether it succeeded."""
        if self.cut_off or _here.inside:
            return False
        operation = _Operation(method if callable(getattr(self.provider, method, None)) else "", ())
        courier = self._courier
        if not operation.method and not courier.waiting and not courier.running:
            return True
        if not courier.take(operation):
            # The interpreter is exiting. A provider that never waits may be called here, too.
            if self._direct:
                self._call(method, ())
            return self._direct
        if not operation.done.acquire(timeout=max(timeout, 0.0)):
            self._fail(f"{method} took longer than {timeout} s")
            return False
        self._settle(operation)
        return operation.delivered and operation.answer is not False

    def _strike(self, reason: str, *, late: bool = False) -> None:
        """Record a failed operation, and cut the provider off after too many in a row.

        Operations of several threads that are over budget at the same time are one in the row.
        """
        self._fail(reason)
        now = time.monotonic()
        if late and now - self._struck_at < self.budget * 0.9:
            return
        self._struck_at = now
        self._strikes += 1
        if self._strikes >= self.strikes_allowed:
            self._cut(reason)

    def _fail(self, reason: str) -> None:
        self._report(FAILURES)
        if not self._logged:
            self._logged = True
            log.warning("provider %s failed, further failures are only counted: %s", self.name, reason)

    def _cut(self, reason: str) -> None:
        if not self._cutting.acquire(blocking=False):
            return
        self.cut_off = True
        log.error("provider %s is cut off after %d failures in a row: %s", self.name, self._strikes, reason)
        self._report(CUT_OFF)
        for _ in range(self._courier.abandon()):
            self._report(OPERATIONS_DROPPED)


class _Operation:
    """A call that waits for the courier.

    Attributes:
        method: of the provider; empty: none, the caller only waits for its turn.
        arguments: of the call.
        done: locked until the operation is over.
        delivered: whether the provider was called, and did not raise.
        answer: its return value.
        failure: the exception in words, if it raised.
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


class _ProviderCourier(Courier[_Operation]):
    """Calls a provider with the operations of its queue."""

    def __init__(self, provider: Provider) -> None:
        super().__init__()
        self._provider = provider
        self._abandoned = False

    @property
    def waiting(self) -> int:
        """The approximate number of waiting operations."""
        return self._queue.qsize()

    def stop(self) -> None:
        """End the thread after everything queued before."""
        if self.running:
            self._queue.put(None)

    def abandon(self) -> int:
        """End the thread as soon as possible, without delivering anything more; returns how many operations waited."""
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

    def _work(self) -> None:
        _here.inside = True
        while (operation := self._queue.get()) is not None:
            self._deliver(operation)
            del operation  # no reference must remain during the wait for the next one

    def _deliver(self, operation: _Operation) -> None:
        try:
            if operation.method and not self._abandoned:
                operation.answer = getattr(self._provider, operation.method)(*operation.arguments)
            operation.delivered = not self._abandoned
        except BaseException as error:
            operation.failure = _described(operation.method, error)
        operation.done.release()


class _Here(threading.local):
    """The state of this thread.

    Attributes:
        inside: whether it is calling a provider that may count.
    """

    inside = False


def _described(method: str, error: BaseException) -> str:
    try:
        return f"{method} raised {type(error).__name__}: {error}"[:300]
    except Exception:
        return f"{method} raised {type(error).__name__}"


_here = _Here()
