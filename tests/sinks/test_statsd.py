"""The lines that a real server on loopback receives, also after it was down, stuck or not found."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import termios
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers import BOUND, PythonRunner, wait_until

from shmstats.config import StatsdSettings
from shmstats.sinks import Provider
from shmstats.sinks.guarded import GuardedProvider
from shmstats.sinks.statsd import StatsdProvider, links, operations, sender

LONG = 3600  # seconds: an interval that does not end during a test

# the metric types of https://github.com/statsd/statsd/blob/master/docs/metric_types.md
LINE = re.compile(r"([^:|@#\s]+):(-?[0-9]+(?:\.[0-9]+)?)\|(c|g|ms)")


class UdpServer:
    """Receives datagrams."""

    protocol = "udp"

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(BOUND)
        self.port = self.socket.getsockname()[1]
        self.datagrams: list[bytes] = []

    def lines(self, enough: Callable[[list[str]], object]) -> list[str]:
        """Receive until ``enough(lines)``, and return the lines."""
        lines: list[str] = []
        while not enough(lines):
            self.datagrams.append(self.socket.recv(65536))
            lines += self.datagrams[-1].decode().split("\n")
        return lines

    def close(self) -> None:
        self.socket.close()


class TcpServer:
    """Accepts connections, and reads them when the test needs lines."""

    protocol = "tcp"

    def __init__(self, port: int = 0) -> None:
        self.socket = socket.create_server(("127.0.0.1", port))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(BOUND)
        self.port = self.socket.getsockname()[1]
        self.connection: socket.socket | None = None
        self._rest = b""

    def accept(self) -> socket.socket:
        """Return the connection, or wait for the next one."""
        if self.connection is None:
            self.connection, _ = self.socket.accept()
            self.connection.settimeout(BOUND)
        return self.connection

    def lines(self, enough: Callable[[list[str]], object]) -> list[str]:
        """Receive until ``enough(lines)`` of the complete lines, and return them."""
        lines: list[str] = []
        while not enough(lines):
            piece = self.accept().recv(65536)
            assert piece, f"the connection ended after {lines}"
            *whole, self._rest = (self._rest + piece).split(b"\n")
            lines += (line.decode() for line in whole)
        return lines

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.socket.close()


Server = Any
Start = Callable[..., StatsdProvider]


@pytest.fixture
def servers() -> Iterator[Callable[..., Server]]:
    """Start servers: ``servers(TcpServer)``."""
    started: list[Any] = []

    def start(kind: Callable[..., Server], *arguments: Any) -> Server:
        started.append(kind(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(params=[UdpServer, TcpServer])
def server(request: pytest.FixtureRequest, servers: Callable[..., Server]) -> Server:
    return servers(request.param)


@pytest.fixture
def udp(servers: Callable[..., Server]) -> UdpServer:
    started: UdpServer = servers(UdpServer)
    return started


@pytest.fixture
def tcp(servers: Callable[..., Server]) -> TcpServer:
    started: TcpServer = servers(TcpServer)
    return started


@pytest.fixture
def reported() -> Counter[str]:
    """Counts the reports of a provider."""
    return Counter()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, reported: Counter[str]) -> Iterator[Start]:
    """Start a provider for a server: ``start(server, namespace="x.")``. It is closed at the end."""
    monkeypatch.setattr(links, "PATIENCE", 0.2)
    monkeypatch.setattr(links, "PAUSE", 0.05)
    providers: list[StatsdProvider] = []

    def report(metric: str) -> None:
        reported[metric] += 1

    def start(server: Server, **more: Any) -> StatsdProvider:
        settings = {"interval_in_seconds": LONG, "buffer_size": 1_000_000} | more
        address = {"host": "127.0.0.1", "port": server.port, "protocol": server.protocol}
        providers.append(StatsdProvider(StatsdSettings(**(address | settings)), report))
        return providers[-1]

    yield start
    for each in providers:
        each.close(0)
        wait_until(lambda each=each: not each._sender.running)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[PythonRunner]:
    runner = PythonRunner(tmp_path, Path(__file__).parents[2])
    yield runner
    runner.kill_all()


def many(count: int) -> Callable[[list[str]], bool]:
    return lambda lines: len(lines) >= count


def sums(lines: list[str]) -> Counter[str]:
    """Return the sums of the counters in lines that must all be of the protocol."""
    result: Counter[str] = Counter()
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line
        if match[3] == "c":
            result[match[1]] += int(match[2])
    return result


def total(expected: int) -> Callable[[list[str]], bool]:
    """Return a condition: the counters in the lines add up to a number. It parses each line once."""
    counted = seen = 0

    def enough(lines: list[str]) -> bool:
        nonlocal counted, seen
        counted += sum(sums(lines[seen:]).values())
        seen = len(lines)
        return counted >= expected

    return enough


def test_the_client_is_a_nonblocking_provider(start: Start, udp: UdpServer) -> None:
    provider = start(udp)
    assert isinstance(provider, Provider)
    assert provider.nonblocking


def test_each_operation_becomes_its_line(start: Start, server: Server) -> None:
    provider = start(server)
    provider.incr("user_actions", "login", 3)
    provider.decr("user_actions", "logout", 2)
    provider.gauge("pool", "open", 1.5)
    provider.absolute("pool", "size", 12)
    provider.timing("db", "query", 12.5)
    provider.timestamp("backup", "last", datetime(2024, 1, 31, 12, tzinfo=UTC))
    assert provider.flush(BOUND)
    assert server.lines(many(6)) == [
        "app.user_actions.login:3|c",
        "app.user_actions.logout:-2|c",
        "app.pool.open:1.5|g",
        "app.pool.size:12|g",
        "app.backup.last:1706702400|g",
        "app.db.query:12.5|ms",
    ]


def test_between_sends_counters_are_summed_gauges_replaced_and_timings_kept(start: Start, server: Server) -> None:
    provider = start(server, namespace="")
    for n in range(1000):
        provider.incr("a", "up", 2)
        provider.decr("a", "up", 1)
        provider.gauge("a", "level", n)
    for _ in range(3):
        provider.incr("a", "huge", 2**63 - 1)
        provider.timing("a", "took", 7)
    assert provider.flush(BOUND)
    took = ["a.took:7|ms"] * 3
    assert server.lines(many(6)) == ["a.up:1000|c", f"a.huge:{3 * (2**63 - 1)}|c", "a.level:999|g", *took]


def test_sent_lines_are_not_sent_again(start: Start, server: Server) -> None:
    provider = start(server)
    for n in (1, 2, 3):
        provider.incr("a", "b", n)
        assert provider.flush(BOUND)
        assert provider.flush(BOUND)
        assert server.lines(many(1)) == [f"app.a.b:{n}|c"]


@pytest.mark.parametrize(
    ("category", "metric", "name"),
    [
        ("a:1|c", "b", "app.a_1_c.b"),
        ("a", "b\nevil:1|c", "app.a.b_evil_1_c"),
        ("a", "b\r\n\x85\u2028\u2029", "app.a.b_____"),
        ("a b", "c\td\xa0e\u3000f", "app.a_b.c_d_e_f"),
        ("a@0.1", "b#tag", "app.a_0.1.b_tag"),
        ("\x01\x1f", "\x7f\x9b", "app.__.__"),
        ("größe", "日本", "app.größe.日本"),
        ("a.b", "c/d-e", "app.a.b.c/d-e"),
    ],
)
def test_a_name_cannot_break_out_of_its_line(
    start: Start, server: Server, category: str, metric: str, name: str
) -> None:
    provider = start(server)
    provider.incr(category, metric, 1)
    assert provider.flush(BOUND)
    assert server.lines(many(1)) == [f"{name}:1|c"]


def test_names_that_become_equal_in_statsd_are_counted_together(start: Start, server: Server) -> None:
    provider = start(server)
    provider.incr("a", "b c", 1)
    provider.incr("a", "b:c", 2)
    provider.gauge("g", "b c", 1)
    provider.gauge("g", "b:c", 2)
    provider.gauge("g", "b c", 3)
    assert provider.flush(BOUND)
    lines = server.lines(many(4))
    assert sums(lines) == {"app.a.b_c": 3}
    assert lines[-1] == "app.g.b_c:3|g"


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        (-5, ["app.a.b:0|g", "app.a.b:-5|g"]),
        (-2.5, ["app.a.b:0|g", "app.a.b:-2.5|g"]),
        (-0.0, ["app.a.b:0|g"]),
        (12.0, ["app.a.b:12|g"]),
        (1e-7, ["app.a.b:0.0000001|g"]),
        (-1.5e-7, ["app.a.b:0|g", "app.a.b:-0.00000015|g"]),
        (1e22, ["app.a.b:10000000000000000000000|g"]),
        (0.1, ["app.a.b:0.1|g"]),
        (-(2**63), ["app.a.b:0|g", "app.a.b:-9223372036854775808|g"]),
        (True, ["app.a.b:1|g"]),
    ],
)
def test_a_gauge_is_absolute_and_has_no_exponent(start: Start, udp: UdpServer, value: float, lines: list[str]) -> None:
    provider = start(udp)
    provider.gauge("a", "b", value)
    assert provider.flush(BOUND)
    assert udp.lines(many(len(lines))) == lines
    assert len(udp.datagrams) == 1


def test_a_moment_before_1970_is_a_negative_gauge(start: Start, udp: UdpServer) -> None:
    provider = start(udp)
    provider.timestamp("a", "b", datetime(1970, 1, 1, tzinfo=UTC) - timedelta(seconds=1.5))
    assert provider.flush(BOUND)
    assert udp.lines(many(2)) == ["app.a.b:0|g", "app.a.b:-1.5|g"]


def test_datagrams_are_filled_with_whole_lines_up_to_the_size_of_a_frame(start: Start, udp: UdpServer) -> None:
    provider = start(udp)
    for n in range(500):
        provider.incr("requests", f"path{n}", 1)
        provider.gauge("level", f"path{n}", -1)
    assert provider.flush(BOUND)
    lines = udp.lines(many(1500))
    assert len(sums(lines)) == 500
    sizes = [len(datagram) for datagram in udp.datagrams]
    assert max(sizes) <= 1432
    assert len(sizes) <= sum(sizes) // 1350 + 1
    for datagram in udp.datagrams:
        zeros, values = datagram.count(b":0|g"), datagram.count(b":-1|g")
        assert zeros == values  # the lines of one timing stay together


def test_a_line_longer_than_a_frame_is_sent_alone(start: Start, udp: UdpServer) -> None:
    provider = start(udp, namespace="n" * 1500 + ".")
    provider.incr("a", "b", 1)
    provider.incr("a", "c", 1)
    assert provider.flush(BOUND)
    assert [len(line) for line in udp.lines(many(2))] == [1508, 1508]
    assert len(udp.datagrams) == 2


def test_a_line_that_fits_no_datagram_is_a_failure_and_the_others_are_sent(
    start: Start, reported: Counter[str], udp: UdpServer, caplog: pytest.LogCaptureFixture
) -> None:
    provider = start(udp, namespace="n" * 65_400 + ".")
    provider.incr("a", "b" * 200, 1)
    provider.incr("a", "c", 1)
    provider.flush(BOUND)
    assert udp.lines(many(1))[0].endswith("n.a.c:1|c")
    assert reported[sender.FAILURES] == 1
    assert "cannot send" in caplog.text


@pytest.mark.parametrize("buffer_size", [1, 10, 1000])
def test_a_full_buffer_is_sent(start: Start, server: Server, buffer_size: int) -> None:
    provider = start(server, buffer_size=buffer_size)
    for _ in range(3):
        for _ in range(buffer_size):
            provider.incr("a", "b", 1)
        assert sums(server.lines(total(buffer_size))) == {"app.a.b": buffer_size}


@pytest.mark.slow
def test_the_buffer_is_sent_when_the_interval_has_passed(start: Start, server: Server) -> None:
    provider = start(server, interval_in_seconds=1)
    provider.incr("a", "b", 1)
    assert server.lines(many(1)) == ["app.a.b:1|c"]
    provider.incr("a", "b", 2)
    assert server.lines(many(1)) == ["app.a.b:2|c"]


@pytest.mark.parametrize("buffer_size", [1, 100, 1_000_000])
def test_nothing_is_lost_or_doubled_between_threads(start: Start, tcp: TcpServer, buffer_size: int) -> None:
    provider = start(tcp, buffer_size=buffer_size)

    def count() -> None:
        for n in range(2000):
            provider.incr("a", f"b{n % 7}", 1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    lines = tcp.lines(total(4000)) if buffer_size < 1000 else []
    for thread in threads:
        thread.join(BOUND)
    assert provider.close(BOUND)
    lines += tcp.lines(lambda more: sum(sums(lines + more).values()) >= 8000)
    assert sum(sums(lines).values()) == 8000
    assert tcp.accept().recv(1) == b""


def test_signal_handlers_that_count_at_any_moment_lose_nothing(start: Start, tcp: TcpServer) -> None:
    provider = start(tcp, buffer_size=20)
    handled = counted = 0

    def handle(number: int, frame: object) -> None:
        nonlocal handled
        handled += 1
        for _ in range(7):
            provider.incr("a", "b", 1)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while handled < 300:
            provider.incr("a", "b", 1)
            counted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.extend(tcp.lines(total(counted + 7 * handled))))
    reader.start()
    assert provider.close(BOUND)
    reader.join(BOUND)
    assert sums(received) == {"app.a.b": counted + 7 * handled}


def test_counts_made_while_a_tcp_server_is_away_arrive_later(
    start: Start, reported: Counter[str], servers: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    gone = TcpServer()
    gone.close()
    provider = start(gone)
    for n in range(5):
        provider.incr("a", f"b{n % 2}", n)
        provider.gauge("a", "level", n)
        provider.timing("a", "took", n)
        assert not provider.flush(BOUND)
    assert reported == {sender.FAILURES: 5}
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        f"StatsD 127.0.0.1:{gone.port} (tcp): cannot connect"
    ]
    server = servers(TcpServer, gone.port)
    assert provider.flush(BOUND)
    timings = [f"app.a.took:{n}|ms" for n in range(5)]
    assert server.lines(many(8)) == ["app.a.b0:6|c", "app.a.b1:4|c", "app.a.level:4|g", *timings]


@pytest.mark.slow
def test_the_client_reconnects_by_itself(start: Start, reported: Counter[str], servers: Callable[..., Server]) -> None:
    gone = TcpServer()
    gone.close()
    provider = start(gone, interval_in_seconds=1)
    provider.incr("a", "b", 1)
    wait_until(lambda: reported[sender.FAILURES])
    provider.incr("a", "b", 2)
    assert servers(TcpServer, gone.port).lines(many(1)) == ["app.a.b:3|c"]


def test_the_buffer_for_an_absent_server_is_bounded_and_drops_are_counted(
    start: Start,
    reported: Counter[str],
    servers: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(operations, "MAX_NAMES", 10)
    monkeypatch.setattr(operations, "MAX_TIMINGS", 5)
    gone = TcpServer()
    gone.close()
    provider = start(gone)
    for _ in range(3):
        for n in range(12):
            provider.incr("a", f"b{n}", 1)
        assert not provider.flush(BOUND)
    for n in range(8):
        provider.timing("a", "took", n)
    assert not provider.flush(BOUND)
    assert reported[sender.OPERATIONS_DROPPED] == 2 * 3 + 3
    assert caplog.text.count("dropped") == 1
    server = servers(TcpServer, gone.port)
    assert provider.flush(BOUND)
    lines = server.lines(many(15))
    assert sums(lines) == {f"app.a.b{n}": 3 for n in range(10)}
    assert lines[10:] == [f"app.a.took:{n}|ms" for n in range(3, 8)]


def test_a_restarted_tcp_server_gets_the_counts_made_meanwhile(start: Start, servers: Callable[..., Server]) -> None:
    first = servers(TcpServer)
    provider = start(first)
    provider.incr("a", "b", 1)
    assert provider.flush(BOUND)
    assert first.lines(many(1)) == ["app.a.b:1|c"]
    first.close()
    provider.incr("a", "b", 2)
    assert not provider.flush(BOUND)
    second = servers(TcpServer, first.port)
    provider.incr("a", "b", 4)
    assert provider.flush(BOUND)
    assert second.lines(many(1)) == ["app.a.b:6|c"]


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the kernel's buffers small for bytes that the server has not read."""
    monkeypatch.setattr(
        links.Stream,
        "_prepare",
        lambda self, ours: ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096),
    )


def count_more_than_buffers_hold(provider: StatsdProvider) -> int:
    for n in range(3000):
        provider.incr("requests", f"{n:0200}", 1)
    return 3000


@pytest.mark.usefixtures("small_buffers")
def test_a_tcp_server_that_reads_late_delays_nothing_and_gets_each_line_once(start: Start, tcp: TcpServer) -> None:
    provider = start(tcp, buffer_size=50)
    counted = 0
    for _ in range(4):
        counted += count_more_than_buffers_hold(provider)
        assert not provider.flush(0.05)
    assert not provider.close(0.05)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.extend(tcp.lines(total(counted))))
    reader.start()
    wait_until(lambda: provider.flush(BOUND))
    reader.join(BOUND)
    assert sum(sums(received).values()) == counted


@pytest.mark.usefixtures("small_buffers")
def test_a_line_cut_by_a_broken_connection_is_sent_whole_over_the_next(start: Start, tcp: TcpServer) -> None:
    provider = start(tcp)
    counted = count_more_than_buffers_hold(provider)
    assert not provider.flush(BOUND)  # the sender has paused in the middle of a line
    link = provider._sender.link
    assert link._begun
    first = tcp.accept()
    received = b""

    def all_was_read() -> bool:
        nonlocal received
        assert link._socket is not None
        unread = struct.unpack("i", fcntl.ioctl(link._socket, termios.TIOCOUTQ, b"\0" * 4))[0]
        with suppress(BlockingIOError):
            while piece := first.recv(65536):
                received += piece
        return bool(unread == 0)

    first.setblocking(False)
    wait_until(all_was_read)
    assert not received.endswith(b"\n")
    first.close()
    tcp.connection = None
    *whole, _ = received.decode().split("\n")
    rest: list[str] = []
    missing = counted - len(whole)
    reader = threading.Thread(target=lambda: rest.extend(tcp.lines(many(missing))))
    reader.start()
    wait_until(lambda: provider.flush(BOUND))
    reader.join(BOUND)
    assert sums(whole + rest) == {f"app.requests.{n:0200}": 1 for n in range(3000)}


def test_a_name_lookup_that_hangs_delays_no_count(
    start: Start, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, real = threading.Event(), socket.getaddrinfo

    def hang(*arguments: Any, **more: Any) -> Any:
        assert answered.wait(BOUND)
        return real(*arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    provider = start(server, buffer_size=10)
    for _ in range(5000):
        provider.incr("a", "b", 1)
    assert not provider.flush(0.01)
    assert not provider.close(0.01)
    provider.incr("a", "b", 1)
    answered.set()
    assert provider.flush(BOUND)
    assert sums(server.lines(total(5001))) == {"app.a.b": 5001}


@pytest.mark.parametrize("host", ["name.invalid", "a..b", "x" * 70 + ".invalid"])
def test_an_unknown_host_is_a_failure(
    start: Start,
    reported: Counter[str],
    udp: UdpServer,
    host: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if host == "name.invalid":  # no real resolver is used in a test

        def unknown(*arguments: Any, **more: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    provider = start(udp, host=host)
    provider.incr("a", "b", 1)
    assert not provider.flush(BOUND)
    assert not provider.flush(BOUND)
    assert reported[sender.FAILURES] == 2
    assert len(caplog.records) == 1


def test_a_closed_udp_port_is_noticed_and_delays_nothing(
    start: Start, reported: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    gone = UdpServer()
    gone.close()
    provider = start(gone)

    def refused() -> bool:
        provider.incr("a", "b", 1)
        return provider.flush(BOUND) and reported[sender.FAILURES] > 2

    wait_until(refused)
    assert len(caplog.records) == 1
    assert "cannot send" in caplog.text


def test_localhost_is_tried_as_ipv4_first(start: Start, udp: UdpServer) -> None:
    provider = start(udp, host="localhost")
    provider.incr("a", "b", 1)
    assert provider.flush(BOUND)
    assert udp.lines(many(1)) == ["app.a.b:1|c"]


def test_an_operation_after_close_is_sent(start: Start, server: Server) -> None:
    provider = start(server)
    for n in range(20):
        provider.incr("a", "b", 1)
        assert provider.close(BOUND), n
        assert server.lines(many(1)) == ["app.a.b:1|c"]
        if isinstance(server, TcpServer):
            assert server.accept().recv(1) == b""
            server.accept().close()
            server.connection = None
    assert provider.close(BOUND)


def test_a_guarded_client_is_called_directly_and_gets_every_operation(start: Start, server: Server) -> None:
    provider = start(server)
    reported: list[str] = []
    guarded = GuardedProvider(provider, reported.append)
    guarded.deliver("incr", "a", "b", 2)
    guarded.deliver("timing", "a", "c", 3)
    assert guarded.flush(BOUND)
    assert server.lines(many(2)) == ["app.a.b:2|c", "app.a.c:3|ms"]
    assert guarded.close(BOUND)
    assert reported == []


FORK = """
    import os, sys
    from shmstats.config import StatsdSettings
    from shmstats.sinks.statsd import StatsdProvider

    settings = StatsdSettings(
        host="127.0.0.1", port=int(sys.argv[1]), protocol=sys.argv[2], interval_in_seconds=3600,
        buffer_size=1000000,
    )
    provider = StatsdProvider(settings, print)
    provider.incr("before", "fork", 1)
    assert provider.flush(60)  # there is a connection now, and a thread
    for _ in range(700):
        provider.incr("parent", "held", 1)
    provider.timing("parent", "took", 1)
    inherited = provider._sender.link._socket
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            assert inherited.fileno() == -1
            provider.incr("child", "own", 1)
            os._exit(0 if provider.close(60) else 1)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    provider.incr("parent", "held", 1)
    assert provider.close(60)
"""


def test_over_udp_a_forked_child_and_its_parent_each_send_their_own_counts(run: PythonRunner, udp: UdpServer) -> None:
    run.run(FORK, udp.port, "udp")
    lines = udp.lines(many(6))
    assert sums(lines) == {"app.before.fork": 1, "app.parent.held": 701, "app.child.own": 3}
    assert lines.count("app.parent.took:1|ms") == 1


def test_a_forked_child_has_its_own_tcp_connection(run: PythonRunner, tcp: TcpServer) -> None:
    child = run.start(FORK, tcp.port, "tcp")
    received = []
    for _ in range(4):
        connection, _ = tcp.socket.accept()
        connection.settimeout(BOUND)
        received.append((connection, b""))
    texts = []
    for connection, text in received:
        with connection:
            while piece := connection.recv(65536):
                text += piece
        texts.append(text.decode())
    child.finish()
    assert texts[0] == "app.before.fork:1|c\napp.parent.held:701|c\napp.parent.took:1|ms\n"
    assert texts[1:] == ["app.child.own:1|c\n"] * 3


def test_a_stuck_server_does_not_delay_the_end_of_the_process(run: PythonRunner, tcp: TcpServer) -> None:
    out = run.run(
        """
        import atexit, logging, socket, sys, threading
        from shmstats.config import StatsdSettings
        from shmstats.sinks.statsd import StatsdProvider

        logging.getLogger("shmstats").addHandler(logging.NullHandler())
        socket.getaddrinfo = lambda *arguments, **more: threading.Event().wait()
        provider = StatsdProvider(StatsdSettings(host="127.0.0.1", port=int(sys.argv[1]), protocol="tcp"), print)
        atexit.register(lambda: print(provider.close(0.1)))
        provider.incr("a", "b", 1)
        """,
        tcp.port,
    )
    assert out == "False\n"


def test_close_sends_the_held_lines_at_the_end_of_the_process(run: PythonRunner, udp: UdpServer) -> None:
    run.run(
        """
        import atexit, sys
        from shmstats.config import StatsdSettings
        from shmstats.sinks.statsd import StatsdProvider

        provider = StatsdProvider(StatsdSettings(host="127.0.0.1", port=int(sys.argv[1])), print)
        atexit.register(provider.close)
        provider.incr("a", "b", 1)
        """,
        udp.port,
    )
    assert udp.lines(many(1)) == ["app.a.b:1|c"]


DEBIAN_PARSER = "/usr/share/nodejs/statsd-parser"

PARSE = """
const parser = require(process.argv[1]).parser(), read = [];
parser.onstat = (text, stat) => read.push(stat);
parser.onerror = error => { throw error; };
parser.write(require("fs").readFileSync(0).toString());
console.log(JSON.stringify(read));
"""


def test_debians_statsd_parser_reads_every_line(start: Start, tcp: TcpServer) -> None:
    node = shutil.which("node")
    if node is None or not os.path.exists(DEBIAN_PARSER):
        if os.environ.get("CI"):
            pytest.fail("Debian's node-statsd-parser is not installed, and CI must use it")
        pytest.skip("Debian's node-statsd-parser is not installed")
    provider = start(tcp)
    provider.incr("a", "hostile:1|c\nname", 3)
    provider.decr("a", "down", 2)
    provider.gauge("a", "tiny", 1e-12)
    provider.gauge("a", "low", -4.5)
    provider.timing("a", "took", 12.25)
    provider.timestamp("a", "when", datetime(2024, 1, 31, 12, 0, 0, 125_000, tzinfo=UTC))
    assert provider.flush(BOUND)
    lines = tcp.lines(many(7))
    parsed = subprocess.run(
        [node, "-e", PARSE, DEBIAN_PARSER],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=True,
    )
    assert [(stat["stat"], float(stat["value"]), stat["type"]) for stat in json.loads(parsed.stdout)] == [
        ("app.a.hostile_1_c_name", 3.0, "c"),
        ("app.a.down", -2.0, "c"),
        ("app.a.tiny", 1e-12, "g"),
        ("app.a.low", 0.0, "g"),
        ("app.a.low", -4.5, "g"),
        ("app.a.when", 1706702400.125, "g"),
        ("app.a.took", 12.25, "ms"),
    ]
