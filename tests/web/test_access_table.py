"""Who may use which endpoint: real users, with and without token, over TCP, a Unix socket and a proxy."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import SITE, Gunicorn
from wire import BOUND, request_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="to become other users needs root")

USERS = {"root": 0, "owner": 61_001, "stranger": 61_002}
TOKEN = "a-token-of-the-access-table"
PUBLIC = [("GET", "/stats"), ("HEAD", "/stats/prometheus")]
PROTECTED = [
    ("GET", "/debug/goroutines"),
    ("GET", "/debug/pool/bytes"),
    ("GET", "/_local/files/_list"),
    ("DELETE", "/_local/files/not-there"),
]
WAYS = ("TCP", "Unix socket", "proxy")


@contextmanager
def served(**api: str) -> Iterator[tuple[Gunicorn, str]]:
    """A server whose data directory is the owner's, and the path of its Unix socket, which everybody may reach."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        directory = Path(place, "site")
        directory.mkdir()
        (directory / "data").mkdir()
        os.chown(directory / "data", USERS["owner"], -1)
        config = json.dumps({"path": {"data": "data"}, "stats": {"persist": False}, "api": api})
        path = f"{place}/s"
        options = ("--workers", "1", "--bind", f"unix:{path}", "--umask", "0")
        with Gunicorn(directory, *options, site=SITE, config=config) as server:
            yield server, path


def as_user(uid: int, requests: list[tuple[str, bytes]], server: Gunicorn, path: str) -> list[int]:
    """Become a user in a child and return the status of each request; it comes by TCP, or a Unix socket."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            found = [status_of(way, request, server, path) for way, request in requests]
            os.write(writing, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        found: list[int] = json.load(answers)
    os.waitpid(child, 0)
    return found


def status_of(way: str, request: bytes, server: Gunicorn, path: str) -> int:
    family = socket.AF_UNIX if way == "Unix socket" else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(BOUND)
        address: Any = path if way == "Unix socket" else ("127.0.0.1", server.port)
        connection.connect(address)
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return int(received.split()[1])


def table(server: Gunicorn, path: str, with_token: bool) -> dict[tuple[str, str, str], int]:
    """The status by user, way and path."""
    found = {}
    for who, uid in USERS.items():
        cells = [(way, method, target) for way in WAYS for method, target in PUBLIC + PROTECTED]
        requests = []
        for way, method, target in cells:
            headers = [f"Authorization: Bearer {TOKEN}"] if with_token else []
            headers += ["X-Forwarded-For: 127.0.0.1"] if way == "proxy" else []
            requests.append((way, request_of(method, target, *headers)))
        statuses = as_user(uid, requests, server, path)
        found.update({(who, way, target): got for (way, _, target), got in zip(cells, statuses, strict=True)})
    return found


def status_if(comes_in: bool, target: str, refused: int) -> int:
    return refused if not comes_in else 404 if target.endswith("not-there") else 200


def test_without_a_token_the_owner_and_root_come_in_by_a_connection_of_their_own() -> None:
    with served() as (server, path):
        for (who, way, target), got in table(server, path, with_token=False).items():
            is_public = target in [each for _, each in PUBLIC]
            comes_in = is_public or (who != "stranger" and way != "proxy")
            assert got == status_if(comes_in, target, 403), (who, way, target)


def test_with_all_protected_the_same_holds_of_the_statistics() -> None:
    with served(protect="all") as (server, path):
        for (who, way, target), got in table(server, path, with_token=False).items():
            comes_in = who != "stranger" and way != "proxy"
            assert got == status_if(comes_in, target, 403), (who, way, target)


def test_with_a_token_everybody_who_has_it_comes_in_and_nobody_else() -> None:
    with served(token=TOKEN) as (server, path):
        for with_token in (True, False):
            for (who, way, target), got in table(server, path, with_token).items():
                is_public = target in [each for _, each in PUBLIC]
                assert got == status_if(with_token or is_public, target, 401), (who, way, target)


def test_who_closes_the_connection_at_once_is_not_taken_for_root() -> None:
    """The kernel shows a closed socket without its owner, as uid 0."""
    with served() as (server, path):
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
        # One synchronous worker: when this is answered, so was all that came before.
        assert as_user(0, [("TCP", request_of("GET", "/_local/files/_list"))], server, path) == [200]
        assert precious.exists()
        assert as_user(USERS["owner"], [("TCP", request_of("DELETE", "/_local/files/precious"))], server, path) == [200]
        assert not precious.exists()
