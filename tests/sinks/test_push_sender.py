"""A push to servers that are away, refuse, send garbage or never end: one log line, no secret, bounded waits."""

from __future__ import annotations

import functools
import gzip
import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shmstats.attachment.health import health
from shmstats.config import ConfigError, load
from shmstats.instance import FILE as IDENTITY
from shmstats.instance import instance_of
from shmstats.registry import Registry
from shmstats.series import Kind, Name, Snapshot
from shmstats.sinks.push.duty import PushDuty
from shmstats.sinks.push.encoder import Stale
from shmstats.sinks.push.http import post
from shmstats.sinks.push.sender import MEMORY_FILE as MEMORY
from shmstats.sinks.push.sender import Memory

SNAPSHOT = Snapshot([Name("api", "requests", Kind.COUNTER, (), True)], [3])
SECRET = "tok-3141592653"
#: A stand-in for a block, with the attributes that a duty needs; refusals are counted in a real block below.
BLOCK = SimpleNamespace(
    header=SimpleNamespace(pushed=0, push_error=""),
    find_or_add=lambda key, kind: None,
    names=SimpleNamespace(find=lambda key: None),
)
HEADER = BLOCK.header
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
OTLP = bool(find_spec("opentelemetry") and find_spec("opentelemetry.proto"))


class Server:
    """Answers every request with the same bytes, or by a function that gets the connection."""

    def __init__(self, answer: bytes | Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> None:
        self.answer, self._tls = answer, tls
        self.requests: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            if self.stopping.is_set():
                connection.close()
                return
            with connection, suppress(OSError):
                connection.settimeout(20)
                if self._tls:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                with connection:
                    self.requests.append(self._read(connection))
                    if callable(self.answer):
                        self.answer(connection)
                    else:
                        connection.sendall(self.answer)

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536)
        head, _, body = request.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += connection.recv(65536)
        return head

    def close(self) -> None:
        self.stopping.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(20)
        self._listening.close()


@pytest.fixture(autouse=True)
def _new_header() -> None:
    HEADER.pushed, HEADER.push_error = 0, ""


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers = []

    def serve(*args: Any) -> Server:
        servers.append(Server(*args))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


class Prepared(PushDuty):
    """A duty that is prepared as by the thread of duties."""

    def perform(self, block: Any, snapshot: Snapshot) -> None:
        self.prepare()
        super().perform(block, snapshot)


@pytest.fixture
def duty(tmp_path: Path) -> Callable[..., PushDuty]:
    def duty(port: int, scheme: str = "http", **more: Any) -> PushDuty:
        url = f"{scheme}://127.0.0.1:{port}/api/v1/write?key={SECRET}"
        headers = {"Authorization": f"Bearer {SECRET}"}
        settings = {"url": url, "timeout_seconds": 1, "headers": headers, **more}
        return Prepared(load({"path": {"data": str(tmp_path)}, "push": settings}))

    return duty


def drip(connection: socket.socket, status: bytes = b"400 Bad Request") -> None:
    """Send headers until the client disconnects."""
    connection.sendall(b"HTTP/1.1 " + status + b"\r\n")
    while True:
        connection.sendall(b"X-More: 1\r\n")
        time.sleep(0.1)


def drip_body(connection: socket.socket, status: bytes = b"503 Busy") -> None:
    connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
    while True:
        connection.sendall(b"a")
        time.sleep(0.1)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 413 Request Entity Too Large\r\n\r\n")
    while True:
        connection.sendall(b"too large " * 10_000)


def silent(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(65536):
            pass


def partial_success(count: int, message: str) -> bytes:
    """An answer of OTLP, by the official classes if they are installed."""
    if not OTLP:
        return OK
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service

    response = service.ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points, response.partial_success.error_message = count, message
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n\r\n" + response.SerializeToString()


PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Welcome to the shop"
#: Kinds of answers to the format otlp; the others are to remote_write.
TO_OTLP = {"partial success"}
BAD = {
    "wrong token": (
        b"HTTP/1.1 401 Unauthorized\r\n\r\nno such token: " + SECRET.encode(),
        "answered 401: no such token: (not shown)",
    ),
    "redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
        "answered 302 (a redirect, which is not followed",
    ),
    "too large": (endless, "answered 413: too large too large"),
    "wrong path": (b"HTTP/1.1 404 Not Found\r\n\r\n<html>\x1b[2J</html>", "answered 404: <html> [2J</html>"),
    "rubbish": (b"\x00\xff\x00 rubbish\r\n\r\n", "the answer is not HTTP"),
    "nothing": (b"", "the answer is not HTTP: RemoteDisconnected"),
    "silence": (silent, "no answer within 1 s"),
    "headers without end": (drip, "no answer within 1 s"),
    "body without end": (drip_body, "answered 503"),
    "success without end": (functools.partial(drip_body, status=b"200 OK"), "no answer within 1 s"),
    "web page": (PAGE, "answered 200 with text/html: no engine answers so; set push.url to where it accepts"),
    "web page without type": (b"HTTP/1.1 201 OK\r\n\r\n\n<!DOCTYPE html>", "answered 201 with text/html"),
    "partial success": (
        partial_success(3, "out of order\n" + SECRET),
        "answered 200, but did not accept everything: 3 data points were rejected: out of order (not shown)",
    ),
}
if not OTLP:
    del BAD["partial success"]


def format_of(kind: str) -> str:
    return "otlp" if kind in TO_OTLP else "remote_write"


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_answer_is_one_line_without_secrets_and_ends_in_time(
    kind: str, serve: Callable[..., Server], duty: Callable[..., PushDuty], caplog: pytest.LogCaptureFixture
) -> None:
    answer, said = BAD[kind]
    server = serve(answer)
    pushing = duty(server.port, format=format_of(kind))
    began = time.monotonic()
    pushing.perform(BLOCK, SNAPSHOT)
    pushing.perform(BLOCK, SNAPSHOT)
    assert time.monotonic() - began < 10
    [record] = caplog.records
    assert said in record.getMessage()
    assert said in HEADER.push_error
    assert f"http://127.0.0.1:{server.port}/api/v1/write" in HEADER.push_error
    assert SECRET not in caplog.text + HEADER.push_error + repr(pushing._settings)
    assert HEADER.pushed == 0


def self_signed(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a self-signed certificate of 127.0.0.1; return it in the forms for a server and a client."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


@pytest.mark.slow
@pytest.mark.far_from_core
def test_a_bad_server_stops_neither_counting_nor_saving_and_is_shown_in_health(
    core: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    bad = {kind: serve(answer) for kind, (answer, _) in BAD.items()}
    bad["certificate"] = serve(OK, self_signed(tmp_path)[0])
    said = {kind: said for kind, (_, said) in BAD.items()} | {"certificate": "certificate of the server is not trusted"}
    registries = {kind: Registry() for kind in bad}
    for kind, registry in registries.items():
        url = f"{'https' if kind == 'certificate' else 'http'}://127.0.0.1:{bad[kind].port}/api/v1/write?key={SECRET}"
        push = {"url": url, "format": format_of(kind), "headers": {"Authorization": SECRET}}
        push |= {"interval_seconds": 1, "timeout_seconds": 1}
        stats = {"capacity": 256, "max_workers": 2, "snapshot_interval_ms": 1000}
        registry.init({"path": {"data": str(tmp_path / kind)}, "stats": stats, "push": push})
    counted = 0
    healths: dict[str, Any] = {}
    end = time.monotonic() + 30
    while len(healths) < len(bad) and time.monotonic() < end:
        counted += 1
        for kind, registry in registries.items():
            registry.incr("api", "requests")
            assert registry.shared is not None
            block = registry.shared.attach()
            if block.header.push_error and block.header.saved_count:
                healths[kind] = health(block.reader, block.name)
        time.sleep(0.01)
    for kind, registry in registries.items():
        assert said[kind] in healths[kind]["push_error"]
        assert SECRET not in healths[kind]["push_error"]
        assert healths[kind]["pushed_seconds_ago"] is None
        assert healths[kind]["save_error"] is None
        assert registry.get("api", "requests") == counted
    with ThreadPoolExecutor(len(registries)) as leaving:
        list(leaving.map(Registry.close, registries.values()))


@pytest.mark.far_from_core
def test_refusals_are_counted_and_failures_are_retried_later(
    serve: Callable[..., Server], duty: Callable[..., PushDuty], attach: Callable[..., Any]
) -> None:
    block = attach()
    server = serve(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    refused = duty(server.port)
    for _ in range(2):
        refused.perform(block, SNAPSHOT)
    server.answer = PAGE
    refused.perform(block, SNAPSHOT)
    assert len(server.requests) == 3
    assert own_counters(block) == {"pushes_refused": 3}
    server = serve(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\n\r\n")
    waiting = duty(server.port)
    for _ in range(3):
        waiting.perform(block, SNAPSHOT)
    assert len(server.requests) == 1
    assert own_counters(block) == {"pushes_refused": 3}
    assert "answered 429" in block.header.push_error
    waiting.finish(block, SNAPSHOT)  # the last push is always tried
    assert len(server.requests) == 2


@pytest.mark.skipif(not OTLP, reason="opentelemetry-proto is not installed")
def test_a_partly_accepted_push_is_counted_and_logged_once(
    serve: Callable[..., Server], duty: Callable[..., PushDuty], attach: Callable[..., Any], caplog: Any
) -> None:
    block = attach()
    server = serve(partial_success(0, "1 sample was left out"))
    pushing = duty(server.port, format="otlp")
    pushing.perform(block, SNAPSHOT)
    server.answer = partial_success(2, "other words")
    pushing.perform(block, SNAPSHOT)
    assert own_counters(block) == {"pushes_refused": 2}
    assert block.header.push_error.endswith("did not accept everything: 2 data points were rejected: other words")
    assert [record.getMessage().partition("accept everything: ")[2] for record in caplog.records] == [
        "1 sample was left out"
    ]
    assert pushing._sender is not None
    encoder = pushing._sender._encoder
    none = encoder.encode(Snapshot([], []), 1, Stale.NONE)
    assert b"requests" in gzip.decompress(none)  # as a stale marker
    server.answer = OK
    pushing.perform(block, SNAPSHOT)
    assert block.header.push_error == ""


def own_counters(block: Any) -> dict[str, int]:
    read = block.reader.read()
    return {name.metric: value for name, value in zip(read.names, read.values, strict=True)}


def test_a_server_that_is_back_gets_pushes_and_that_is_logged_once(
    serve: Callable[..., Server], duty: Callable[..., PushDuty], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = serve(b"HTTP/1.1 500 Oh\r\n\r\n")
    pushing = duty(server.port)
    pushing.perform(BLOCK, SNAPSHOT)
    server.answer = OK
    pushing._not_before = 0.0
    pushing.perform(BLOCK, SNAPSHOT)
    assert HEADER.push_error == ""
    assert HEADER.pushed > 0
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_refused_connection_is_reported(duty: Callable[..., PushDuty]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    pushing = duty(port)
    pushing.perform(BLOCK, SNAPSHOT)
    assert HEADER.push_error.endswith("Connection refused")


def test_an_invalid_host_name_is_reported(tmp_path: Path) -> None:
    settings = load({"path": {"data": str(tmp_path)}, "push": {"url": "http://a..b/"}})
    Prepared(settings).perform(BLOCK, SNAPSHOT)
    assert "the host name is invalid" in HEADER.push_error


@pytest.mark.parametrize(("url", "port"), [("http://[::1]/", 80), ("https://[::1]/", 443), ("http://[::1]:9/", 9)])
def test_an_ipv6_address_needs_no_port(url: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(address: tuple[str, int], *more: Any) -> socket.socket:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ConnectionRefusedError):
        post(url, 1.0, None, b"", {})
    assert asked == [("::1", port)]


def test_connecting_and_a_tls_handshake_that_hangs_have_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.create_connection

    def slowly(*address: Any) -> socket.socket:
        time.sleep(0.7)
        return connect(*address)

    monkeypatch.setattr(socket, "create_connection", slowly)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no answer within 0\.8 s"):
            post(f"https://127.0.0.1:{silent.getsockname()[1]}/", 0.8, None, b"", {})
    assert time.monotonic() - began < 1.4


def test_only_a_configured_certificate_is_trusted(
    serve: Callable[..., Server], duty: Callable[..., PushDuty], tmp_path: Path
) -> None:
    context, certificate = self_signed(tmp_path)
    server = serve(OK, context)
    unknown = duty(server.port, "https")
    unknown.perform(BLOCK, SNAPSHOT)
    assert "the certificate of the server is not trusted" in HEADER.push_error
    known = duty(server.port, "https", ca_file=str(certificate))
    known.perform(BLOCK, SNAPSHOT)
    assert HEADER.push_error == ""
    assert len(server.requests) == 1
    missing = duty(server.port, "https", ca_file=str(tmp_path / "none.pem"))
    missing.perform(BLOCK, SNAPSHOT)
    assert "none.pem cannot be read" in HEADER.push_error


def test_headers_come_from_the_configuration_or_a_file_that_is_read_each_time(
    serve: Callable[..., Server], duty: Callable[..., PushDuty], tmp_path: Path
) -> None:
    server = serve(OK)
    file = tmp_path / "headers"
    pushing = duty(server.port, headers={"X-Scope-OrgID": "shop"}, headers_file=str(file))
    pushing.perform(BLOCK, SNAPSHOT)
    assert "headers" in HEADER.push_error
    assert not server.requests
    for token in ("first", "second"):
        file.write_text(f"# rotated\nAuthorization: Bearer {token}\n")
        pushing._not_before = 0.0
        pushing.perform(BLOCK, SNAPSHOT)
        sent = server.requests[-1].decode()
        assert f"Authorization: Bearer {token}" in sent
        assert "X-Scope-OrgID: shop" in sent
    file.write_text("nonsense " + SECRET)
    pushing.perform(BLOCK, SNAPSHOT)
    assert "has no header in line 1" in HEADER.push_error
    assert SECRET not in HEADER.push_error


def test_the_times_of_pushes_never_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"job": "a", "instance": "b"}
    first = Memory(tmp_path)
    at = first.next_time(labels)
    monkeypatch.setattr(time, "time_ns", lambda: 1_600_000_000 * 10**9)
    second = Memory(tmp_path)
    second.read()
    assert second.next_time(labels) == at + 1
    first.read()
    assert first.next_time(labels) == at + 2
    (tmp_path / MEMORY).write_text("{")
    first.read()
    assert first.next_time(labels) == at + 3


def test_after_a_clock_far_in_the_future_refused_pushes_follow_the_clock_again(
    tmp_path: Path, serve: Callable[..., Server], duty: Callable[..., PushDuty], attach: Callable[..., Any]
) -> None:
    block = attach()
    server = serve(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    pushing = duty(server.port)
    (tmp_path / "stats").mkdir()
    memory = Memory(tmp_path / "stats")
    hour = 3_600_000
    for ahead, expected in ((hour // 60, hour // 60), (hour, hour), (0, 0)):
        now = time.time_ns() // 1_000_000
        if ahead:
            memory._last = now + ahead
            memory.note({})
        pushing.prepare()
        assert isinstance(pushing._at, int)
        assert expected <= pushing._at - now < expected + hour // 120
        pushing.perform(block, SNAPSHOT)


def test_a_push_with_a_later_time_has_later_values(tmp_path: Path) -> None:
    """A push that is delayed between reading and sending has the time of its reading."""
    settings = load({"path": {"data": str(tmp_path)}, "push": {"url": "http://127.0.0.1:1/", "format": "import"}})
    sent: list[int] = []
    first, second = PushDuty(settings), PushDuty(settings)
    for each in (first, second):
        each.prepare()
        assert each._sender is not None
        each._sender.push = lambda snapshot, at, *more: sent.append(at)  # type: ignore[method-assign]
    for each in (second, first):
        each.perform(BLOCK, SNAPSHOT)  # type: ignore[arg-type]
    assert sent[0] > sent[1]


def test_a_new_instance_ends_the_series_of_the_previous_one(
    serve: Callable[..., Server], duty: Callable[..., PushDuty], tmp_path: Path
) -> None:
    server = serve(OK)
    duty(server.port, instance="old").perform(BLOCK, SNAPSHOT)
    duty(server.port, instance="new").perform(BLOCK, SNAPSHOT)
    assert len(server.requests) == 3
    assert json.loads((tmp_path / "stats" / MEMORY).read_text())["labels"]["instance"] == "new"
    duty(server.port, instance="new").perform(BLOCK, SNAPSHOT)
    assert len(server.requests) == 4


def test_a_copied_directory_on_the_same_machine_gets_a_new_identity_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = tmp_path / "first/stats"
    made = instance_of(first)
    first.parent.rename(tmp_path / "renamed")
    assert instance_of(tmp_path / "renamed/stats") == made
    assert not caplog.records
    shutil.copytree(tmp_path / "renamed", tmp_path / "copy")
    for _ in range(2):
        assert instance_of(tmp_path / "copy/stats").uuid == made.uuid
    [record] = caplog.records
    assert f"{tmp_path}/copy is a copy of another one of this machine" in record.getMessage()


def test_a_moved_directory_keeps_its_identity_and_that_is_logged(
    serve: Callable[..., Server], duty: Callable[..., PushDuty], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(OK)
    file = tmp_path / "stats" / IDENTITY
    duty(server.port).perform(BLOCK, SNAPSHOT)
    made = json.loads(file.read_text())
    duty(server.port).perform(BLOCK, SNAPSHOT)
    assert json.loads(file.read_text()) == made
    assert not caplog.records
    file.write_text(json.dumps({**made, "machine": "0", "host": "elsewhere"}))
    for _ in range(2):
        duty(server.port).perform(BLOCK, SNAPSHOT)
    [record] = caplog.records
    assert "was last used on the machine elsewhere" in record.getMessage()
    assert json.loads(file.read_text()) == made
    file.write_text("[]")
    broken = duty(server.port)
    broken.perform(BLOCK, SNAPSHOT)
    assert "is no identity" in HEADER.push_error
    assert "remove it" in HEADER.push_error


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "ftp://host/"},
        {"url": "http://user:pass@host/"},
        {"url": "http://host/a b"},
        {"url": "http://host/", "labels": {"instance": "a"}},
        {"url": "http://host/", "labels": {"a": 1}},
        {"url": "http://host/", "headers": {"Host": "a"}},
        {"url": "http://host/", "headers": {"A": "b\r\nC: d"}},
        {"url": "http://host/", "format": "json"},
        {"url": "http://host/", "ca_file": "relative.pem"},
    ],
)
def test_invalid_settings_of_a_push_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"push\.\w+: found"):
        load({"push": settings})
