"""StatsD as a provider: sends every operation to a StatsD server, over UDP or TCP.

The way of an operation: the counting call appends it to the *intake*, a deque, and returns. When some are
there, a caller folds them into the *held* ones: counters become one sum for a name, a gauge its last value,
timings stay single. When ``buffer_size`` operations are held, or ``interval_in_seconds`` has passed, a
thread of its own takes what is held, writes it as lines and sends it. What could not be sent is held again.

Callers never wait, whatever the server does: to append is atomic, the lock around the held operations
(*folding*) is only tried by them, and all that may take time (names, connections, sending) is done by the
thread. That also makes it safe for a signal handler to interrupt any line and count.

While a server is away, counters and gauges go on being folded, up to a number of distinct names, and the
newest timings are kept. Over UDP nobody can know that; a datagram is sent and forgotten.

Lines are those of the StatsD protocol (https://github.com/statsd/statsd/blob/master/docs/metric_types.md):
``<name>:<sum>|c``, ``<name>:<value>|g``, ``<name>:<milliseconds>|ms``. A gauge with a sign is relative
there, so a negative one is set to 0 first, in the same datagram.
"""

from __future__ import annotations

import _thread
import logging
import re
import socket
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from errno import ECONNREFUSED, EMSGSIZE
from itertools import accumulate
from typing import Any, NamedTuple

from .. import lifecycle
from ..config import StatsdSettings
from ..once import Once

log = logging.getLogger("shmstats")

#: What is reported: a try to send that failed, and an operation that was given up.
FAILURES = "statsd_failures"
OPERATIONS_DROPPED = "statsd_operations_dropped"

#: Bytes of a datagram, so that it fits an Ethernet frame whole.
DATAGRAM_BYTES = 1432

#: Bytes that are written to a TCP connection at once.
STREAM_BYTES = 16384

#: Distinct names of counters and gauges, and timings, that are held at most while nothing can be sent.
MAX_NAMES = 10_000
MAX_TIMINGS = 10_000

#: Seconds that connecting to one address, or a send, may take; and from a failure to the next try.
PATIENCE = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0

#: Seconds after which the host is looked up again (UDP), or a connection without progress given up (TCP).
LOOKUP_LIFE = 60.0
STALLED_LIFE = 30.0

# Addresses of the host that are tried.
_ADDRESSES = 3

_FOLD_AT = 512
_INTAKE_MAX = 100_000

_COUNTER, _GAUGE, _TIMING = "c", "g", "ms"

_Key = tuple[str, str]
_Number = int | float

# Kind, category and metric, and n, value or milliseconds.
_Operation = tuple[str, _Key, _Number]

# Blanks and line breaks of all of Unicode, control characters, and what has a meaning in a line.
_NOT_IN_NAMES = re.compile(r"[:|@#\s\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class StatsdProvider:
    """Sends every operation to a StatsD server.

    Its thread starts with the first operation of a process, and so does that of a fork's child, which
    leaves to its parent what the parent held.

    Args:
        settings: the section ``statsd``; ``enabled`` is not looked at.
        report: called, by the provider's thread, with `FAILURES` and `OPERATIONS_DROPPED` each time.

    Attributes:
        name: what it is called in the log.
        failures: how often something could not be sent.
        dropped: operations that were given up, because too much was held.
    """

    #: For whoever guards providers: no method but `flush` and `close` waits, and none counts.
    nonblocking = True
    reentrant = True

    def __init__(self, settings: StatsdSettings, report: Callable[[str], None] | None = None) -> None:
        self.name = f"StatsD {settings.host}:{settings.port} ({settings.protocol})"
        self.failures = 0
        self.dropped = 0
        self._settings = settings
        self._report_to = report
        self._logged = Once()
        self._sender = _Sender(self, settings)
        lifecycle.tell_of_forks(lifecycle.Stage.SENDERS, self)

    def incr(self, category: str, metric: str, n: int) -> None:
        """Add n to a counter."""
        self._take((_COUNTER, (category, metric), n))

    def decr(self, category: str, metric: str, n: int) -> None:
        """Take n away from a counter."""
        self._take((_COUNTER, (category, metric), -n))

    def gauge(self, category: str, metric: str, value: int | float) -> None:
        """Set a gauge."""
        self._take((_GAUGE, (category, metric), value))

    def absolute(self, category: str, metric: str, value: int) -> None:
        """Set a gauge."""
        self._take((_GAUGE, (category, metric), value))

    def timing(self, category: str, metric: str, milliseconds: float) -> None:
        """Record a duration."""
        self._take((_TIMING, (category, metric), milliseconds))

    def timestamp(self, category: str, metric: str, moment: datetime) -> None:
        """Set a gauge to a moment, in seconds since 1970 UTC."""
        self._take((_GAUGE, (category, metric), moment.timestamp()))

    def flush(self, timeout: float = 0.9) -> bool:
        """Send what is held now.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether all was sent in that time. Over UDP: was given to the network.
        """
        return self._sender.ask(stop=False, timeout=timeout)

    def close(self, timeout: float = 0.9) -> bool:
        """Send what is held now, close the connection and end the thread. The next operation starts anew.

        Args:
            timeout: seconds to wait at most; the thread ends when it can.

        Returns:
            Whether all was sent in that time. Over UDP: was given to the network.
        """
        return self._sender.ask(stop=True, timeout=timeout)

    def forget(self) -> None:
        """Start anew in the child of a fork: the parent sends what it held, over its own connection."""
        self._sender.link.close()
        self._sender = _Sender(self, self._settings)

    def note_failure(self, kind: str, error: object) -> None:
        """Count a failure, and log the first of its kind."""
        self.failures += 1
        self._report(FAILURES)
        if self._logged.first(kind):
            log.error("%s: %s, further ones are only counted: %s", self.name, kind, error)

    def note_dropped(self, operations: int) -> None:
        """Count operations that were given up, and log the first time."""
        self.dropped += operations
        for _ in range(operations):
            self._report(OPERATIONS_DROPPED)
        if self._logged.first("dropped"):
            log.error("%s: operations were dropped because too much is held, or too long", self.name)

    def _take(self, operation: _Operation) -> None:
        sender = self._sender
        intake = sender.intake
        intake.append(operation)
        if len(intake) >= sender.fold_at:
            sender.hold()
        elif not sender.running():
            sender.start()

    def _report(self, metric: str) -> None:
        if self._report_to is not None:
            with suppress(Exception):
                self._report_to(metric)


class _Entry(NamedTuple):
    """An operation, or the sum of many, and its lines, which stay together."""

    operation: _Operation
    lines: bytes


class _Request:
    """Somebody waits until what is held was sent."""

    __slots__ = ("done", "sent", "stop")

    def __init__(self, stop: bool) -> None:
        self.stop = stop
        self.sent = False
        self.done = _thread.allocate_lock()
        self.done.acquire()


class _Held:
    """Operations that were folded, and not sent yet. Whoever uses it has the lock that goes with it.

    Attributes:
        operations: how many were folded in since the last `take`.
        dropped: how many were given up, and are not noted yet.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.dropped = 0
        self._counters: dict[_Key, _Number] = {}
        self._gauges: dict[_Key, _Number] = {}
        self._timings: deque[tuple[_Key, _Number]] = deque()

    @property
    def empty(self) -> bool:
        """Whether there is nothing."""
        return not (self._counters or self._gauges or self._timings)

    def add(self, operation: _Operation) -> None:
        """Fold an operation in."""
        kind, key, value = operation
        self.operations += 1
        if kind is _COUNTER:
            if key in self._counters:
                self._counters[key] += value
            elif self._has_room():
                self._counters[key] = value
        elif kind is _GAUGE:
            # To the end: of names that are the same on the wire, the last written wins.
            if self._gauges.pop(key, None) is not None or self._has_room():
                self._gauges[key] = value
        else:
            self._timings.append((key, value))
            if len(self._timings) > MAX_TIMINGS:
                self._timings.popleft()
                self.dropped += 1

    def take(self) -> list[_Operation]:
        """Return all there is, and hold nothing."""
        operations = [(_COUNTER, key, value) for key, value in self._counters.items()]
        operations += [(_GAUGE, key, value) for key, value in self._gauges.items()]
        operations += [(_TIMING, key, value) for key, value in self._timings]
        self._counters.clear()
        self._gauges.clear()
        self._timings.clear()
        self.operations = 0
        return operations

    def put_back(self, operations: Iterable[_Operation]) -> None:
        """Hold again what was taken and could not be sent; what came in since then is newer."""
        newer = self.take()
        for operation in (*operations, *newer):
            self.add(operation)
        self.operations = 0

    def _has_room(self) -> bool:
        if len(self._counters) + len(self._gauges) < MAX_NAMES:
            return True
        self.dropped += 1
        return False


class _Link:
    """The way to the server, used by one thread.

    Attributes:
        limit: bytes to be sent at once.
    """

    kind: socket.SocketKind
    limit: int

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None
        self._opened_at = 0.0
        self._pause = 0.0
        self._rest_until = 0.0

    @property
    def unfinished(self) -> bool:
        """Whether there is something that `send` took, and has not sent."""
        return False

    def open(self, urgent: bool) -> bool:
        """Connect, if that is not so; False where the last try failed just now, and it is not urgent.

        Raises:
            OSError: it cannot be done.
        """
        if self._socket is not None and self._is_spent(self._socket):
            self.close()
        if self._socket is not None:
            return True
        if not urgent and time.monotonic() < self._rest_until:
            return False
        try:
            self._connect()
        except OSError:
            self.rest()
            raise
        self._opened_at = time.monotonic()
        return True

    def rest(self) -> None:
        """Close, and do not try again for a while, which grows from failure to failure."""
        self.close()
        self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
        self._rest_until = time.monotonic() + self._pause

    def close(self) -> None:
        """Close this process's end, if it is open."""
        ours, self._socket = self._socket, None
        if ours is not None:
            ours.close()

    def send(self, entries: list[_Entry]) -> tuple[list[_Entry], OSError | None]:
        """Send entries over the open link.

        Returns:
            Those that were not sent, and are the caller's again; and what went wrong, if anything did.
        """
        raise NotImplementedError

    def _is_spent(self, ours: socket.socket) -> bool:
        """Whether there should be a new connection."""
        raise NotImplementedError

    def _prepare(self, ours: socket.socket) -> None:
        """Set options before connecting."""

    def _connect(self) -> None:
        refusal: OSError | None = None
        for family, address in self._addresses():
            # In its place before it is used, so that a child of a fork can close it.
            self._socket = socket.socket(family, self.kind)
            try:
                self._prepare(self._socket)
                self._socket.settimeout(PATIENCE)
                self._socket.connect(address)
                if self._socket.getsockname() == self._socket.getpeername():
                    # TCP does this where nobody listens on a port that the kernel gives out to clients.
                    raise ConnectionRefusedError(ECONNREFUSED, "connected to itself")
                return
            except OSError as error:
                refusal = error
                self.close()
        raise refusal or OSError("the host has no address")

    def _addresses(self) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
        """Look the host up; IPv4 first, because over UDP nobody says that the other one was meant."""
        try:
            found = socket.getaddrinfo(self._host, self._port, type=self.kind)
        except UnicodeError as error:
            raise OSError(f"not a host name: {self._host!r} ({error})") from None
        found.sort(key=lambda each: each[0] is not socket.AF_INET)
        return [(family, address) for family, _, _, _, address in found[:_ADDRESSES]]


class _Datagrams(_Link):
    """UDP: one datagram for each send."""

    kind = socket.SOCK_DGRAM
    limit = DATAGRAM_BYTES

    def send(self, entries: list[_Entry]) -> tuple[list[_Entry], OSError | None]:
        assert self._socket is not None
        data = b"\n".join(entry.lines for entry in entries)
        refusal: OSError | None = None
        for _ in range(2):
            try:
                self._socket.send(data)
            except ConnectionRefusedError as error:
                refusal = error  # that was an earlier datagram, and this one was not sent
            except OSError as error:
                if error.errno == EMSGSIZE:
                    return [], error
                self.rest()
                return entries, error
            else:
                break
        if refusal is None:
            self._pause = 0.0
        return [], refusal

    def _is_spent(self, ours: socket.socket) -> bool:
        return time.monotonic() - self._opened_at > LOOKUP_LIFE


class _Stream(_Link):
    """TCP: lines that all end with a line feed.

    The rest of an entry that was sent in part is sent first the next time; over a new connection, the
    whole of it.
    """

    kind = socket.SOCK_STREAM
    limit = STREAM_BYTES

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._begun = b""
        self._unsent = b""

    @property
    def unfinished(self) -> bool:
        return bool(self._unsent)

    def close(self) -> None:
        super().close()
        self._unsent = self._begun

    def send(self, entries: list[_Entry]) -> tuple[list[_Entry], OSError | None]:
        lines = [entry.lines + b"\n" for entry in entries]
        sent, error = self._send_bytes(self._unsent + b"".join(lines))
        sent -= len(self._unsent)
        if sent < 0:  # not even the rest
            self._unsent = self._unsent[sent:]
            unsent = entries
        else:
            starts = list(accumulate(map(len, lines), initial=0))
            whole = bisect_right(starts, sent) - 1
            of_next = sent - starts[whole]
            self._begun = lines[whole] if of_next else b""
            self._unsent = self._begun[of_next:]
            unsent = entries[whole + bool(of_next) :]
        if error is None:
            self._pause = 0.0
        elif not isinstance(error, TimeoutError):
            self.rest()
        return unsent, error

    def _send_bytes(self, data: bytes) -> tuple[int, OSError | None]:
        """Send what can be sent in time; returns how much that was."""
        assert self._socket is not None
        end = time.monotonic() + PATIENCE
        sent = 0
        view = memoryview(data)
        try:
            while sent < len(data):
                self._socket.settimeout(max(end - time.monotonic(), 0.001))
                sent += self._socket.send(view[sent:])
        except OSError as error:
            return sent, error
        return sent, None

    def _is_spent(self, ours: socket.socket) -> bool:
        """Whether the server has closed its end: what is sent then is lost without an error."""
        ours.setblocking(False)
        try:
            for _ in range(16):
                if not ours.recv(4096):
                    return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    def _prepare(self, ours: socket.socket) -> None:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_LIFE * 1000))


class _Sender:
    """What one process holds, and the thread, started when there is something, that sends it.

    The thread is not one of `threading`: to start one takes a lock that the thread which a signal handler
    interrupts may hold.

    Attributes:
        intake: operations as they came.
        fold_at: how many of them are to be folded at once.
        running: tells whether the thread has been started, and has not ended.
        link: the way to the server.
    """

    def __init__(self, provider: StatsdProvider, settings: StatsdSettings) -> None:
        self.intake: deque[_Operation] = deque()
        self.fold_at = 1
        self.link = (_Datagrams if settings.protocol == "udp" else _Stream)(settings.host, settings.port)
        self._provider = provider
        self._settings = settings
        self._held = _Held()
        self._aim()
        self._folding = _thread.allocate_lock()
        self._lost = 0  # operations that found the intake full
        self._requests: deque[_Request] = deque()
        self._wake = _thread.allocate_lock()  # let go of to wake the thread
        self._wake.acquire()
        self._one = _thread.allocate_lock()  # held by the one thread
        self.running: Callable[[], bool] = self._one.locked

    def hold(self) -> None:
        """Fold what came in, and wake the thread if that is enough to be sent."""
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
        """Start the thread if there is none; False where that is not possible."""
        if not self._one.acquire(blocking=False):
            return True
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:
            self._one.release()
            self._provider.note_failure("no thread could be started", error)
            return False
        return True

    def ask(self, stop: bool, timeout: float) -> bool:
        """Have the thread send all, and stop; returns whether it was all sent within ``timeout`` seconds."""
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
        """Say when to fold next: when that may be enough to be sent, or so much that it takes a while."""
        size = self._settings.buffer_size
        lacking = size - self._held.operations
        self.fold_at = min(lacking if lacking > 0 else size, _FOLD_AT)

    def _rouse(self) -> None:
        if self._wake.locked():
            with suppress(RuntimeError):  # another thread was quicker
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
                # Who came just now saw this thread still there, and started none.
                if not self.intake and not self._requests:
                    return
                if not self._one.acquire(blocking=False):
                    return
                self._rouse()

    def _send_all(self, urgent: bool) -> bool:
        """Send all that is held; returns whether that succeeded."""
        try:
            return self._send_held(urgent)
        except OSError as error:
            self._provider.note_failure("cannot connect", error)
        except Exception as error:
            self._provider.note_failure("cannot send", repr(error))
        return False

    def _send_held(self, urgent: bool) -> bool:
        with self._folding:
            self._fold()
            dropped, self._held.dropped = self._held.dropped, 0
            lost, self._lost = self._lost, 0
        if dropped or lost:
            self._provider.note_dropped(dropped + lost)
        if self._held.empty and not self.link.unfinished:
            return True
        if not self.link.open(urgent):
            return False
        with self._folding:
            operations = self._held.take()
            self._aim()
        return self._send(operations)

    def _send(self, operations: list[_Operation]) -> bool:
        left: list[_Entry] = []
        stuck = False
        for packet in _packets(self._entries(operations), self.link.limit):
            if stuck:
                left += packet
                continue
            unsent, error = self.link.send(packet)
            if error is not None:
                self._provider.note_failure("cannot send", error)
            left += unsent
            stuck = bool(unsent) or self.link.unfinished
        if left:
            with self._folding:
                self._held.put_back(entry.operation for entry in left)
        return not stuck

    def _entries(self, operations: list[_Operation]) -> Iterator[_Entry]:
        for operation in operations:
            yield _Entry(operation, _lines(self._settings.namespace, operation))


def _packets(entries: Iterable[_Entry], limit: int) -> Iterator[list[_Entry]]:
    """Cut entries into lists whose lines, with a line feed each, have ``limit`` bytes at most.

    An entry that is longer goes alone. Where there is none at all, there is one empty list.
    """
    packet: list[_Entry] = []
    size = 0
    for entry in entries:
        length = len(entry.lines) + 1
        if packet and size + length > limit:
            yield packet
            packet, size = [], 0
        packet.append(entry)
        size += length
    yield packet


def _lines(namespace: str, operation: _Operation) -> bytes:
    kind, (category, metric), value = operation
    name = _NOT_IN_NAMES.sub("_", f"{namespace}{category}.{metric}")
    number = _decimal(value)
    line = f"{name}:{number}|{kind}"
    if kind is _GAUGE and number.startswith("-"):
        line = f"{name}:0|{kind}\n{line}"
    return line.encode()


def _decimal(value: _Number) -> str:
    """Write a number without an exponent, which not every server reads."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    text = repr(float(value))
    return format(Decimal(text), "f") if "e" in text else text
