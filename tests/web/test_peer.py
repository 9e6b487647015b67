"""The owner of the process at the other end of a loopback connection."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from helpers import BOUND

from shmstats.web import peer

#: Addresses that a server listens at and that a client connects to, in the form of their families.
WAYS = [
    ("127.0.0.1", "127.0.0.1"),
    ("::1", "::1"),
    ("::", "127.0.0.1"),
    ("::", "::ffff:127.0.0.1"),
    ("127.0.0.1", "::ffff:127.0.0.1"),
]

#: See ip(7): the ports of which one is chosen for a connection; Linux has it since 6.3.
IP_LOCAL_PORT_RANGE = 51


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.fixture
def listen() -> Iterator[Callable[[str], socket.socket]]:
    with ExitStack() as stack:

        def listening(address: str) -> socket.socket:
            try:
                server = stack.enter_context(socket.socket(family(address)))
                if address == "::":
                    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                server.bind((address, 0))
            except OSError as error:
                pytest.skip(f"there is no IPv6 here: {error}")
            server.listen()
            return server

        yield listening


@pytest.fixture(params=["kernel", "tables"])
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The source of the answer: the kernel, without reading the tables, or the tables if the kernel refuses."""

    def refuse(*_: Any) -> Any:
        raise PermissionError("not here")

    if request.param == "tables":
        monkeypatch.setattr(peer.socket, "AF_NETLINK", 255)
    else:
        monkeypatch.setattr(peer, "_connections", refuse)
        try:
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).close()
        except OSError as error:
            pytest.skip(f"the kernel refuses the query: {error}")
    return str(request.param)


@pytest.mark.parametrize(("at", "to"), WAYS)
def test_the_owner_of_a_connection_is_found_until_it_is_closed(
    listen: Callable[[str], socket.socket], asked: str, at: str, to: str
) -> None:
    server = listen(at)
    with socket.socket(family(to)) as client:
        client.connect((to, server.getsockname()[1]))
        connection, address = server.accept()
        environ: Any = {"REMOTE_ADDR": address[0], "REMOTE_PORT": str(address[1]), "gunicorn.socket": connection}
        assert peer.peer_uids(environ) == {os.geteuid()}
        client.shutdown(socket.SHUT_WR)
        assert peer.peer_uids(environ) == {os.geteuid()}
    with connection:
        assert peer.peer_uids(environ) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_connection_of_another_user_has_that_owner(listen: Callable[[str], socket.socket], asked: str) -> None:
    server = listen("127.0.0.1")
    code = """
import os, socket, sys
"".encode("idna")  # is imported while this is still root, who can read where the interpreter is
os.setuid(65534)
socket.create_connection(("127.0.0.1", int(sys.argv[1]))).recv(1)
"""
    command = [sys.executable, "-I", "-S", "-c", code, str(server.getsockname()[1])]
    with subprocess.Popen(command) as client:
        server.settimeout(BOUND)
        connection, address = server.accept()
        with connection:
            environ: Any = {"REMOTE_ADDR": address[0], "REMOTE_PORT": str(address[1]), "werkzeug.socket": connection}
            assert peer.peer_uids(environ) == {65534}
    assert client.returncode == 0


def test_a_server_that_tells_only_the_port_of_its_client_finds_the_owner_until_the_client_resets(
    listen: Callable[[str], socket.socket],
) -> None:
    """Nothing is left of the client's socket then, and another one of this process has its port."""
    server, other = listen("127.0.0.1"), listen("127.0.0.1")
    with socket.create_connection(other.getsockname()) as connected, socket.socket() as client:
        port = connected.getsockname()[1]
        with suppress(OSError):
            client.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("HH", port, port))
        client.connect(server.getsockname())
        if client.getsockname()[1] != port:
            pytest.skip("this kernel does not let a client choose its port")
        environ: Any = {"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": str(port)}
        with server.accept()[0]:
            assert peer.peer_uids(environ) == {os.geteuid()}
            assert peer.peer_uids({"REMOTE_ADDR": "127.0.0.1"}) is None
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            assert peer.peer_uids(environ) is None
