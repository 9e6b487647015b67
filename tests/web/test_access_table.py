"""Access to every endpoint by real users, with and without token, over TCP, a Unix socket and a proxy."""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import Gunicorn
from wire import BOUND, request_of

from shmstats.web import create_app

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="to become other users needs root")

USERS = {"root": 0, "owner": 61_001, "stranger": 61_002}
#: For each way to connect: a path, or an address and a port.
Places = dict[str, Any]

#: See ip(7): the ports of which one is chosen for a connection; Linux has it since 6.3.
IP_LOCAL_PORT_RANGE = 51

TOKEN = "a-token-of-the-access-table"

#: Each endpoint, with the status of an answer to a user that has access.
PUBLIC = {
    ("GET", "/stats"): 200,
    ("GET", "/stats?format=csv"): 200,
    ("HEAD", "/stats/prometheus"): 200,
    ("GET", "/metrics"): 200,
    ("GET", "/stats/live"): 200,
    ("GET", "/stats/live/script.js"): 200,
    ("GET", "/stats/live/data?q=m"): 200,
    ("GET", "/stats/history?since=-60"): 404,
    ("GET", "/stats/targets"): 200,
    ("POST", "/stats"): 405,
}
PROTECTED = {
    ("GET", "/debug/goroutines"): 200,
    ("GET", "/debug/threads"): 200,
    ("GET", "/debug/stacks"): 200,
    ("GET", "/debug/requests"): 200,
    ("GET", "/debug/pool/bytes"): 200,
    ("GET", "/debug/nothing"): 404,
    ("GET", "/_local/files/_list"): 200,
    ("GET", "/_local/files/stats/archive/_list"): 200,
    ("DELETE", "/_local/files/stats/archive/not-there.json"): 404,
    ("PUT", "/_local/files/anything"): 405,
}
#: As `shmstats serve` has it; the plain worker is gunicorn's.
APPLICATION = "from shmstats.web import create_app\napp = create_app()\n"
PATIENT = ("--worker-class", "shmstats.web.doorkeeper.PatientWorker", "--threads", "4", "--keep-alive", "0")
WAYS = ("TCP", "IPv6", "IPv4 within IPv6", "Unix socket", "proxy")

#: The other address where the server listens, and the one to connect to: the kernel shows it as an IPv6 address.
IPV6 = {"IPv6": ("::1", "::1"), "IPv4 within IPv6": ("::ffff:127.0.0.1", "127.0.0.1")}


@contextmanager
def served(*options: str, **api: Any) -> Iterator[tuple[Gunicorn, Places]]:
    """A server whose data directory belongs to the owner, and each address at which a client may reach it."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        directory = Path(place, "site")
        directory.mkdir()
        (directory / "data" / "stats" / "archive").mkdir(parents=True)
        for each in (".", "stats", "stats/archive"):
            os.chown(directory / "data" / each, USERS["owner"], -1)
        config = json.dumps({"path": {"data": "data"}, "stats": {"persist": False}, "api": api})
        path = f"{place}/s"
        places: dict[str, Any] = {"Unix socket": path}
        options = ("--workers", "1", "--bind", f"unix:{path}", "--umask", "0", *options)
        for way, (listening, connecting) in IPV6.items():
            with socket.create_server((listening, 0), family=socket.AF_INET6, dualstack_ipv6=True) as free:
                port = free.getsockname()[1]
            options += ("--bind", f"[{listening}]:{port}")
            places[way] = connecting, port
        with Gunicorn(directory, *options, site=APPLICATION, config=config) as server:
            yield server, places | dict.fromkeys(("TCP", "proxy"), ("127.0.0.1", server.port))


def as_user(uid: int, requests: list[tuple[str, bytes]], places: Places) -> list[int]:
    """Become a user in a child and return the status of each request over one kind of connection."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            found = [status_of(places[way], request) for way, request in requests]
            os.write(writing, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        found: list[int] = json.load(answers)
    os.waitpid(child, 0)
    return found


def status_of(place: Any, request: bytes) -> int:
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(BOUND)
        connection.connect(place)
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return int(received.split()[1])


def check(places: Places, with_token: bool, comes_in: Callable[[str, str, bool], bool], no: int) -> None:
    """Check that each user has access to the allowed endpoints by each way, and gets the status ``no`` for others."""
    for who, uid in USERS.items():
        cells = [(way, *cell) for way in WAYS for cell in (*PUBLIC.items(), *PROTECTED.items())]
        requests = []
        for way, (method, target), _ in cells:
            headers = [f"Authorization: Bearer {TOKEN}"] if with_token else []
            headers += ["X-Forwarded-For: 127.0.0.1"] if way == "proxy" else []
            requests.append((way, request_of(method, target, *headers)))
        statuses = as_user(uid, requests, places)
        for (way, cell, status), got in zip(cells, statuses, strict=True):
            assert got == (status if comes_in(who, way, cell in PUBLIC) else no), (who, way, cell)


def test_the_table_has_every_endpoint() -> None:
    app = create_app({"stats": {"enabled": False}})
    adapter = app.url_map.bind("localhost")
    reached = {adapter.match(target.partition("?")[0], method)[0] for method, target in (*PUBLIC, *PROTECTED)}
    assert {rule.endpoint for rule in app.url_map.iter_rules()} - reached == {"shmstats.index"}  # redirects to the page


@pytest.mark.parametrize("worker", [(), PATIENT], ids=["gunicorn's worker", "that of shmstats serve"])
def test_without_a_token_owner_and_root_have_access_by_direct_connections(worker: tuple[str, ...]) -> None:
    with served(*worker) as (_, places):
        check(places, False, lambda who, way, public: public or (who != "stranger" and way != "proxy"), 403)


def test_with_all_protected_the_same_holds_for_the_statistics() -> None:
    with served(protect="all") as (_, places):
        check(places, False, lambda who, way, public: who != "stranger" and way != "proxy", 403)


def test_with_a_token_exactly_the_users_that_send_it_have_access() -> None:
    with served(token=TOKEN) as (_, places):
        check(places, True, lambda who, way, public: True, 401)
        check(places, False, lambda who, way, public: public, 401)


def test_a_client_that_closes_the_connection_at_once_is_not_taken_for_root() -> None:
    """The kernel shows a closed socket without its owner, as uid 0."""
    with served() as (server, places):
        precious = server.data / "precious"
        precious.write_text("keep me")
        child = os.fork()
        if child == 0:
            try:
                os.setresuid(USERS["stranger"], USERS["stranger"], USERS["stranger"])
                for _ in range(50):
                    with socket.create_connection(("127.0.0.1", server.port), BOUND) as connection:
                        connection.sendall(request_of("DELETE", "/_local/files/precious"))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        # One synchronous worker: when this is answered, so are all earlier requests.
        assert as_user(0, [("TCP", request_of("GET", "/_local/files/_list"))], places) == [200]
        assert precious.exists()
        assert as_user(USERS["owner"], [("TCP", request_of("DELETE", "/_local/files/precious"))], places) == [200]
        assert not precious.exists()


@pytest.mark.parametrize("worker", [(), PATIENT], ids=["gunicorn's worker", "that of shmstats serve"])
def test_a_client_that_resets_the_connection_is_not_taken_for_another_with_its_port(worker: tuple[str, ...]) -> None:
    """Nothing is left of its own socket then; root has one with the same address and port, connected elsewhere."""
    with served(*worker) as (server, places), socket.create_server(("127.0.0.1", 0)) as other:
        precious = server.data / "precious"
        precious.write_text("keep me")
        with socket.create_connection(other.getsockname()) as of_root:
            port = of_root.getsockname()[1]
            child = os.fork()
            if child == 0:
                try:
                    os.setresuid(USERS["stranger"], USERS["stranger"], USERS["stranger"])
                    for _ in range(20):
                        with socket.socket() as connection:
                            connection.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("HH", port, port))
                            connection.connect(("127.0.0.1", server.port))
                            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                            connection.sendall(request_of("DELETE", "/_local/files/precious"))
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            assert as_user(0, [("TCP", request_of("GET", "/_local/files/_list"))], places) == [200]
            assert precious.exists()
