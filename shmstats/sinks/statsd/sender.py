"""The operations that one process holds for a StatsD server, and the thread that sends them.

Callers never wait: appending to the intake is atomic, they only try the lock around the held operations (*folding*),
and the thread does all that may take time (name lookup, connecting, sending). So a signal handler may interrupt any
line and count.
"""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from ...config import StatsdSettings
from .failures import SendFailures
from .held import HeldOperations
from .lines import Operation, StatsdEntry, lines_of, packets
from .links import Datagrams, Stream

_FOLD_AT = 512
_INTAKE_MAX = 100_000


class _Request:
    """A caller that waits until everything held was sent."""

    __slots__ = ("done", "sent", "stop")

    def __init__(self, stop: bool) -> None:
        self.stop = stop
        self.sent = False
        self.done = _thread.allocate_lock()
        self.done.acquire()


class StatsdSender:
    """The operations that one process holds, and the thread, started on demand, that sends them.

    The thread is not one of `threading`: starting one takes a lock that the thread which a signal handler
    interrupts may hold.

    Attributes:
        intake: operations in their order.
        fold_at: number of operations at which they are folded.
        running: tells whether the thread is running.
        link: the connection to the server.
    """

    def __init__(self, settings: StatsdSettings, failures: SendFailures) -> None:
        self.intake: deque[Operation] = deque()
        self.fold_at = 1
        self.link = (Datagrams if settings.protocol == "udp" else Stream)(settings.host, settings.port)
        self._failures = failures
        self._settings = settings
        self._held = HeldOperations()
        self._aim()
        self._folding = _thread.allocate_lock()
        self._lost = 0  # operations dropped because the intake was full
        self._requests: deque[_Request] = deque()
        self._wake = _thread.allocate_lock()  # released to wake the thread
        self._wake.acquire()
        self._one = _thread.allocate_lock()  # held by the only thread
        self.running: Callable[[], bool] = self._one.locked

    def hold(self) -> None:
        """Fold the intake, and wake the thread if there is enough to send."""
        if self._folding.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._folding.release()
        elif len(self.intake) > _INTAKE_MAX:
            with suppress(IndexError):
                self.intake.popleft()
                self._lost += 1
        if self._held.operations >= self._settings.buffer_size:
            self.start()
            self._rouse()

    def start(self) -> bool:
        """Start the thread if it is not running; False if that is not possible."""
        if not self._one.acquire(blocking=False):
            return True
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:
            self._one.release()
            self._failures.note_failure("no thread could be started", error)
            return False
        return True

    def ask(self, stop: bool, timeout: float) -> bool:
        """Make the thread send everything, and stop; returns whether all was sent within ``timeout`` seconds."""
        if not self.running() and self._is_empty():
            return True
        request = _Request(stop)
        self._requests.append(request)
        if not self.start():
            return False
        self._rouse()
        return request.done.acquire(timeout=max(timeout, 0.0)) and request.sent

    def _is_empty(self) -> bool:
        return not self.intake and self._held.empty and not self.link.unfinished

    def _fold(self) -> None:
        for _ in range(len(self.intake)):
            self._held.add(self.intake.popleft())
        self._aim()

    def _aim(self) -> None:
        """Decide when to fold next: when there may be enough to send, or so much that folding takes a while."""
        size = self._settings.buffer_size
        lacking = size - self._held.operations
        self.fold_at = min(lacking if lacking > 0 else size, _FOLD_AT)

    def _rouse(self) -> None:
        if self._wake.locked():
            with suppress(RuntimeError):  # another thread was faster
                self._wake.release()

    def _run(self) -> None:
        interval = self._settings.interval_in_seconds
        while True:
            self._wake.acquire(timeout=interval)
            requests = [self._requests.popleft() for _ in range(len(self._requests))]
            sent = self._send_all(urgent=bool(requests))
            stop = any(request.stop for request in requests)
            if stop:
                self.link.close()
            for request in requests:
                request.sent = sent
                request.done.release()
            if stop:
                self._one.release()
                # A caller that came just now saw this thread still running, and started none.
                if not self.intake and not self._requests:
                    return
                if not self._one.acquire(blocking=False):
                    return
                self._rouse()

    def _send_all(self, urgent: bool) -> bool:
        """Send everything held; returns whether that succeeded."""
        try:
            return self._send_held(urgent)
        except OSError as error:
            self._failures.note_failure("cannot connect", error)
        except Exception as error:
            self._failures.note_failure("cannot send", repr(error))
        return False

    def _send_held(self, urgent: bool) -> bool:
        with self._folding:
            self._fold()
            dropped, self._held.dropped = self._held.dropped, 0
            lost, self._lost = self._lost, 0
        if dropped or lost:
            self._failures.note_dropped(dropped + lost)
        if self._held.empty and not self.link.unfinished:
            return True
        if not self.link.open(urgent):
            return False
        with self._folding:
            operations = self._held.take()
            self._aim()
        return self._send(operations)

    def _send(self, operations: list[Operation]) -> bool:
        left: list[StatsdEntry] = []
        stuck = False
        for packet in packets(self._entries(operations), self.link.limit):
            if stuck:
                left += packet
                continue
            unsent, error = self.link.send(packet)
            if error is not None:
                self._failures.note_failure("cannot send", error)
            left += unsent
            stuck = bool(unsent) or self.link.unfinished
        if left:
            with self._folding:
                self._held.put_back(entry.operation for entry in left)
        return not stuck

    def _entries(self, operations: list[Operation]) -> Iterator[StatsdEntry]:
        for operation in operations:
            yield StatsdEntry(operation, lines_of(self._settings.namespace, operation))
