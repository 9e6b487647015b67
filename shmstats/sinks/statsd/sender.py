"""The operations that one process holds for a StatsD server, and the thread that sends them.

Callers never wait: appending to the intake is atomic, they only try the lock around the held operations (*folding*),
and the thread does all that may take time (name lookup, connecting, sending). So a signal handler may interrupt any
line and count.
"""

from __future__ import annotations

import _thread
import logging
import queue
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ...config import StatsdSettings
from ...once import Once
from ..courier import Courier
from .links import Datagrams, Stream
from .operations import HeldOperations, Operation, packets

log = logging.getLogger("shmstats")

#: Reported events: a failed attempt to send, and a dropped operation.
FAILURES = "statsd_failures"
OPERATIONS_DROPPED = "statsd_operations_dropped"

_INTAKE_MAX = 100_000


class SendFailures:
    """Failures of sending: counted each time, logged the first time.

    Args:
        name: of the provider, for the log.
        report: called with `FAILURES` and `OPERATIONS_DROPPED` each time.
    """

    def __init__(self, name: str, report: Callable[[str], None]) -> None:
        self.name = name
        self._report = report
        self._logged = Once()

    def note_failure(self, kind: str, error: object) -> None:
        """Count a failure, and log the first of its kind."""
        self._report(FAILURES)
        if self._logged.first(kind):
            log.error("%s: %s, further ones are only counted: %s", self.name, kind, error)

    def note_dropped(self, operations: int) -> None:
        """Count dropped operations, and log the first time."""
        for _ in range(operations):
            self._report(OPERATIONS_DROPPED)
        if operations and self._logged.first("dropped"):
            log.error("%s: operations were dropped because too many were held, or for too long", self.name)


class SendRequest:
    """A caller that waits until everything held was sent."""

    __slots__ = ("done", "sent", "stop")

    def __init__(self, stop: bool) -> None:
        self.stop = stop
        self.sent = False
        self.done = _thread.allocate_lock()
        self.done.acquire()


class StatsdSender(Courier[SendRequest]):
    """The operations that one process holds, and the thread, started on demand, that sends them.

    Attributes:
        link: the connection to the server.
    """

    def __init__(self, settings: StatsdSettings, failures: SendFailures) -> None:
        super().__init__()
        self.link = (Datagrams if settings.protocol == "udp" else Stream)(settings.host, settings.port)
        self._failures = failures
        self._settings = settings
        self._intake: deque[Operation] = deque()
        self._lost = 0  # operations dropped because the intake was full
        self._folding = _thread.allocate_lock()
        self._held = HeldOperations()
        self._folded = 0  # operations since the last attempt to send
        self._unsent: list[bytes] = []  # lines that are not held any more

    def hold(self, operation: Operation) -> None:
        """Hold an operation; wake the thread if there are enough to send."""
        self._intake.append(operation)
        if self._folding.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._folding.release()
        elif len(self._intake) > _INTAKE_MAX:
            with suppress(IndexError):
                self._intake.popleft()
                self._lost += 1
        if not self.start():
            self._failures.note_failure("no thread could be started", "its operations are held")
        elif self._folded >= self._settings.buffer_size and self._queue.empty():
            self._queue.put(None)

    def ask(self, stop: bool, timeout: float) -> bool:
        """Make the thread send everything, and stop; returns whether all was sent within ``timeout`` seconds."""
        if not self.running and not self._is_needed() and self._held.empty and not self._unsent:
            return True
        request = SendRequest(stop)
        return self.take(request) and request.done.acquire(timeout=max(timeout, 0.0)) and request.sent

    def _fold(self) -> None:
        for _ in range(len(self._intake)):
            self._held.add(self._intake.popleft())
            self._folded += 1

    def _is_needed(self) -> bool:
        return bool(self._intake or self._folded) or super()._is_needed()

    def _work(self) -> None:
        stop = False
        while not stop:
            request = None
            with suppress(queue.Empty):
                request = self._queue.get(timeout=self._settings.interval_in_seconds)
            sent = self._send_all(urgent=request is not None)
            if request is not None:
                stop = request.stop
                if stop:
                    self.link.close()
                request.sent = sent
                request.done.release()

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
            self._folded = 0
            dropped, self._held.dropped, self._lost = self._held.dropped + self._lost, 0, 0
        self._failures.note_dropped(dropped)
        if self._held.empty and not self._unsent:
            return True
        if not self.link.open(urgent) or not self._send():
            return False
        with self._folding:
            self._unsent = self._held.take(self._settings.namespace)
        return self._send()

    def _send(self) -> bool:
        """Send the lines that are not held any more; returns whether that succeeded."""
        sent = 0
        for packet in packets(self._unsent, self.link.limit):
            done, error = self.link.send(packet)
            if error is not None:
                self._failures.note_failure("cannot send", error)
            sent += done
            if done < len(packet):
                break
        del self._unsent[:sent]
        return not self._unsent
