"""Access to the endpoints by address, host and token, and the headers of every answer."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask import Flask
from flask.testing import FlaskClient
from servers import Gunicorn, wait_until
from werkzeug.middleware.proxy_fix import ProxyFix
from wire import exchange, request_of

from shmstats.web import blueprint

SITE = "from shmstats.web import create_app\n\napp = create_app()\n"

TOKEN = "correct-horse:battery/staple"

LIST = "/_local/files/_list"

PROTECTED = [("GET", LIST), ("DELETE", "/_local/files/f"), ("GET", "/_local/none"), ("GET", "/debug/none")]
PUBLIC = [("GET", "/stats"), ("GET", "/stats/prometheus"), ("GET", "/stats?format=prometheus")]


def status(client: FlaskClient, method: str = "GET", path: str = LIST, **more: Any) -> int:
    return client.open(path, method=method, **more).status_code


# With a token ------------------------------------------------------------------------------------


@pytest.fixture
def guarded(serve: Callable[..., FlaskClient], data: Path) -> FlaskClient:
    (data / "f").touch()
    return serve(api={"token": TOKEN})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_without_the_token_a_protected_endpoint_asks_for_it(
    guarded: FlaskClient, data: Path, method: str, path: str
) -> None:
    answer = guarded.open(path, method=method)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="shmstats endpoints"'
    assert "api.token" in answer.get_json()["error"]
    assert (data / "f").exists()


WRONG = {
    "empty": "Bearer ",
    "only the scheme": "Bearer",
    "nothing": "",
    "another token": "Bearer nonsense",
    "a prefix": f"Bearer {TOKEN[:-1]}",
    "more": f"Bearer {TOKEN}x",
    "other case": f"Bearer {TOKEN.upper()}",
    "two words": f"Bearer {TOKEN} {TOKEN}",
    "twice": f"Bearer {TOKEN}, Bearer {TOKEN}",
    "quoted": f'Bearer "{TOKEN}"',
    "another scheme": f"Token {TOKEN}",
    "no scheme": TOKEN,
    "basic": "Basic Y29ycmVjdDpob3JzZQ==",
    "not ASCII": "Bearer \xff\xe9",
    "nearly ASCII": f"Bearer {TOKEN}\xa0",
    "very long": "Bearer " + "a" * 4000,
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_a_wrong_token_is_refused(guarded: FlaskClient, data: Path, given: str) -> None:
    for method, path in PROTECTED:
        answer = guarded.open(path, method=method, environ_overrides={"HTTP_AUTHORIZATION": given})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert TOKEN not in answer.get_data(as_text=True) + str(answer.headers)
    assert (data / "f").exists()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_token_gives_access_from_any_address(guarded: FlaskClient, scheme: str) -> None:
    elsewhere = {"REMOTE_ADDR": "203.0.113.7", "HTTP_HOST": "stats.example.com"}
    headers = {"Authorization": f"{scheme} {TOKEN}", "X-Forwarded-For": "198.51.100.1"}
    assert status(guarded, environ_base=elsewhere, headers=headers) == 200
    assert status(guarded, "DELETE", "/_local/files/f", environ_base=elsewhere, headers=headers) == 200
    assert status(guarded, path="/debug/none", environ_base=elsewhere, headers=headers) == 404


def test_statistics_need_no_token_unless_all_is_protected(
    serve: Callable[..., FlaskClient], guarded: FlaskClient
) -> None:
    elsewhere = {"REMOTE_ADDR": "203.0.113.7", "HTTP_HOST": "stats.example.com"}
    for method, path in PUBLIC:
        assert status(guarded, method, path, environ_base=elsewhere) == 200
    client = serve(api={"token": TOKEN, "protect": "all"})
    for method, path in PUBLIC:
        assert status(client, method, path) == 401
        assert status(client, method, path, headers=bearer("nonsense")) == 401
        assert status(client, method, path, headers=bearer(TOKEN), environ_base=elsewhere) == 200


# Without a token ---------------------------------------------------------------------------------


@pytest.fixture
def client(serve: Callable[..., FlaskClient], data: Path) -> FlaskClient:
    (data / "f").touch()
    return serve()


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.1"])
def test_a_direct_client_on_loopback_has_access(client: FlaskClient, peer: str) -> None:
    assert status(client, environ_base={"REMOTE_ADDR": peer}) == 200


STRANGERS = [
    "192.0.2.1", "10.0.0.1", "0.0.0.0", "128.0.0.1", "126.255.255.255", "::", "::2", "fe80::1", "2001:db8::1",
    "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "", "localhost", "127.0.0.1.example.com", "127.1",
    "127.0.0.1, 10.0.0.1", "2130706433", "0x7f000001", "unix:",
]  # fmt: skip


def test_the_error_for_any_other_peer_says_how_to_set_a_token(client: FlaskClient, data: Path) -> None:
    for peer in STRANGERS:
        for method, path in PROTECTED:
            answer = client.open(path, method=method, environ_base={"REMOTE_ADDR": peer})
            assert (peer, answer.status_code) == (peer, 403)
            assert "api.token" in answer.get_json()["error"]
            assert "WWW-Authenticate" not in answer.headers
    assert (data / "f").exists()


def test_a_peer_without_an_address_has_no_access(client: FlaskClient) -> None:
    app = client.application
    environ = app.test_request_context(LIST).request.environ
    assert "REMOTE_ADDR" not in environ
    with app.request_context(environ):
        assert app.full_dispatch_request().status_code == 403


FORWARDING = [
    "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
    "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-By", "X-Forwarded", "Forwarded-For", "X-Real-IP",
    "Via", "True-Client-IP", "CF-Connecting-IP", "CF-Ray", "X-Client-IP", "X-Cluster-Client-IP",
    "Fastly-Client-IP", "Fly-Client-IP", "Client-IP", "X-Original-Host", "X-Original-Forwarded-For",
    "X-Originating-IP", "X-Remote-IP", "X-Remote-Addr", "X-ProxyUser-IP", "X-Azure-ClientIP",
    "X-Envoy-External-Address", "CDN-Loop", "Max-Forwards", "X-Host",
]  # fmt: skip


@pytest.mark.parametrize("value", ["127.0.0.1", "for=127.0.0.1", ""])
def test_a_forwarded_request_is_refused_with_any_header(client: FlaskClient, value: str) -> None:
    for header in FORWARDING:
        answer = client.get(LIST, headers={header: value})
        assert (answer.status_code, header) == (403, header)
        assert header.lower() in answer.get_json()["error"].lower()


def test_a_request_of_a_plain_proxy_is_refused(client: FlaskClient) -> None:
    assert status(client, environ_overrides={"SERVER_PROTOCOL": "HTTP/1.0"}) == 403


HERE = [
    "localhost",
    "LocalHost",
    "localhost:8080",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.9.9.9:1",
    "[::1]",
    "[::1]:8080",
]
ELSEWHERE = [
    "", "example.com", "localhost.example.com", "127.0.0.1.example.com", "localhost@example.com", "0.0.0.0",
    "example.com:8080", "192.0.2.1", "[::]", "[2001:db8::1]:80", "::1", "127.0.0.1:", "127.0.0.1:80:80",
    "127.0.0.1 ", " localhost", "localhost/", "localhost,example.com", "example.com#localhost", "127.1",
    "[127.0.0.1]", "[localhost]", "2130706433", "localhost\u0130", "127.0.0.1\n", "a.localhost", "[::1",
]  # fmt: skip


def test_a_loopback_host_is_answered(client: FlaskClient) -> None:
    for host in HERE:
        assert (host, status(client, environ_overrides={"HTTP_HOST": host})) == (host, 200)


def test_a_name_rebound_to_loopback_is_refused(client: FlaskClient, data: Path) -> None:
    for host in ELSEWHERE:
        for method, path in PROTECTED:
            found = status(client, method, path, environ_overrides={"HTTP_HOST": host})
            assert (host, found) == (host, 403)
    assert (data / "f").exists()


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-origin, cross-site"},
        {"Sec-Fetch-Site": "CROSS-SITE"},
        {"Sec-Fetch-Site": ""},
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost.example.com"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://["},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_page_of_another_site_can_neither_read_nor_delete(
    client: FlaskClient, data: Path, headers: dict[str, str]
) -> None:
    for method, path in PROTECTED:
        assert status(client, method, path, headers=headers) == 403
    assert (data / "f").exists()


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}]
)
def test_a_request_typed_into_a_browser_is_answered(client: FlaskClient, headers: dict[str, str]) -> None:
    assert status(client, headers=headers) == 200


@pytest.mark.parametrize("path", [LIST, "/_local/files/f", "/stats", "/debug/none"])
def test_no_cross_origin_request_is_allowed(client: FlaskClient, path: str) -> None:
    asking = {"Origin": "https://example.com", "Access-Control-Request-Method": "DELETE"}
    for method in ("OPTIONS", "GET", "DELETE"):
        answer = client.open(path, method=method, headers=asking)
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]
        assert method != "OPTIONS" or answer.status_code >= 400


def test_with_all_protected_and_no_token_statistics_are_on_loopback_only(
    serve: Callable[..., FlaskClient],
) -> None:
    client = serve(api={"protect": "all"})
    for method, path in PUBLIC:
        assert status(client, method, path) == 200
        assert status(client, method, path, environ_base={"REMOTE_ADDR": "203.0.113.7"}) == 403
        assert status(client, method, path, headers={"X-Forwarded-For": "127.0.0.1"}) == 403


@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Forwarded-Host": "localhost"}])
def test_an_application_behind_a_proxy_always_needs_a_token(
    serve: Callable[..., FlaskClient], headers: dict[str, str]
) -> None:
    app = serve().application
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_host=1)  # type: ignore[method-assign]
    for peer in ("127.0.0.1", "203.0.113.7"):
        assert status(app.test_client(), environ_base={"REMOTE_ADDR": peer}, headers=headers) == 403
    app = serve(api={"token": TOKEN}).application
    assert status(app.test_client(), headers=bearer(TOKEN)) == 200


def test_an_address_from_the_proxy_protocol_is_not_trusted(client: FlaskClient) -> None:
    assert status(client, environ_base={"PROXY_PROTOCOL": "TCP4", "PROXY_ADDR": "127.0.0.1"}) == 403


# Inside another application ----------------------------------------------------------------------


@pytest.fixture
def mounted(serve: Callable[..., FlaskClient]) -> FlaskClient:
    serve()
    app = Flask("somebody_elses")
    app.register_blueprint(blueprint)
    app.register_error_handler(404, lambda error: ("<p>our own page", 404))
    app.add_url_rule("/stats/players", view_func=lambda: "players", endpoint="players")
    app.add_url_rule("/stats/teams/<int:number>", view_func=lambda number: str(number), endpoint="team")
    return app.test_client()


def test_errors_of_the_endpoints_are_json_and_errors_of_the_application_stay(mounted: FlaskClient) -> None:
    for path in ("/stats/none", "/debug/none", "/_local/none", "/_local/files/none/_list"):
        answer = mounted.get(path)
        assert (answer.status_code, list(answer.get_json())) == (404, ["error"])
    assert mounted.get("/none").get_data(as_text=True) == "<p>our own page"


def test_the_answer_to_a_wrong_method_names_the_allowed_ones(mounted: FlaskClient) -> None:
    for path, allowed in (("/stats", "GET, HEAD are"), ("/_local/files/x", "DELETE is")):
        assert mounted.post(path).get_json() == {"error": f"POST is not allowed here, but {allowed}"}


def test_paths_of_the_application_below_a_path_of_the_package_still_work(mounted: FlaskClient) -> None:
    assert mounted.get("/stats/players").get_data(as_text=True) == "players"
    assert mounted.get("/stats/teams/7").get_data(as_text=True) == "7"
    assert mounted.get("/statistics").status_code == 404


def test_an_internal_error_is_json_without_details(mounted: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("shmstats.web.statistics._document", fail)
    answer = mounted.get("/stats")
    assert answer.status_code == 500
    assert "secret" not in answer.get_json()["error"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# Every answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/stats", 200), ("HEAD", "/stats", 200), ("GET", "/stats/prometheus", 200),
        ("GET", LIST, 200), ("GET", "/stats?format=x", 400), ("GET", "/_local/files/../_list", 400),
        ("GET", "/stats/none", 404), ("GET", "/debug/none", 404), ("GET", "/_local", 404), ("GET", "/", 302),
        ("DELETE", "/_local/files/none", 404), ("POST", "/stats", 405), ("PUT", "/_local/files/f", 405),
        ("OPTIONS", "/stats", 405), ("BREW", "/stats", 405), ("DELETE", "/stats/prometheus", 405),
    ],
)  # fmt: skip
def test_every_answer_has_the_headers_for_browsers_and_every_error_is_json(
    client: FlaskClient, method: str, path: str, expected: int
) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == expected
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    if expected >= 400:
        assert answer.content_type == "application/json"
        assert list(answer.get_json()) == ["error"]
    if expected == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/stats", "/stats/history", "/stats/none", LIST])
def test_a_query_that_is_not_utf_8_is_refused(client: FlaskClient, path: str) -> None:
    answer = client.get(path, environ_overrides={"QUERY_STRING": "format=\xc2json"})
    assert answer.status_code == 400
    assert "is not UTF-8" in answer.get_json()["error"]


def test_a_refused_method_has_an_allow_header(client: FlaskClient) -> None:
    assert client.post("/stats").allow == {"GET", "HEAD"}  # type: ignore[comparison-overlap]
    assert client.post("/_local/files/f").allow == {"DELETE"}  # type: ignore[comparison-overlap]
    assert client.delete("/debug/none").status_code == 404


# Over a real server ------------------------------------------------------------------------------


def addresses_of_this_machine() -> list[str]:
    return [
        address.address
        for name, addresses in psutil.net_if_addrs().items()
        if psutil.net_if_stats()[name].isup
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]


class Served:
    """A running server and the addresses that it listens on."""

    def __init__(self, server: Gunicorn) -> None:
        self.server = server
        self.local = ("127.0.0.1", server._port)

    @property
    def outer(self) -> tuple[str, int]:
        """An address besides loopback where it listens."""
        pattern = re.compile(r"http://(?!127\.)([0-9.]+):(\d+)")
        if not addresses_of_this_machine():
            pytest.skip("this machine has no address but loopback")
        found = wait_until(lambda: pattern.search(self.server.log.read_text()), "a second address")
        return found[1], int(found[2])


def running(directory: Path, *options: str, **api: str) -> Gunicorn:
    for address in addresses_of_this_machine()[:1]:
        options = (*options, "--bind", f"{address}:0")
    config = json.dumps({"path": {"data": "data"}, "api": api})
    return Gunicorn(directory, "--workers", "1", *options, site=SITE, config=config)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(tmp_path_factory.mktemp("open")) as server:
        yield Served(server)


@pytest.fixture(scope="module")
def token_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ("--access-logfile", "-", "--log-level", "debug")
    with running(tmp_path_factory.mktemp("token"), *options, token=TOKEN) as server:
        yield Served(server)


def test_a_real_client_has_access_by_any_loopback_address(open_server: Served) -> None:
    for source in ("127.0.0.1", "127.0.0.2"):
        for host in ("localhost", f"127.0.0.1:{open_server.local[1]}"):
            answer = exchange(open_server.local, request_of("GET", LIST, host=host), (source, 0))
            assert answer.status == 200


@pytest.mark.parametrize("host", ["example.com", "example.com:80", "192.0.2.1", "localhost.example.com"])
def test_a_forged_host_is_refused(open_server: Served, host: str) -> None:
    assert exchange(open_server.local, request_of("GET", LIST, host=host)).status == 403
    assert exchange(open_server.local, request_of("GET", "/stats", host=host)).status == 200


def test_a_request_without_a_host_is_refused(open_server: Served) -> None:
    bare = f"GET {LIST} HTTP/1.0\r\n\r\n".encode()
    assert exchange(open_server.local, bare).status == 403
    assert exchange(open_server.local, bare.replace(b"\r\n\r\n", b"\r\nHost: localhost\r\n\r\n")).status == 403


def test_a_client_from_an_address_that_is_not_loopback_is_refused(open_server: Served) -> None:
    for host in ("localhost", "{}:{}".format(*open_server.outer)):
        answer = exchange(open_server.outer, request_of("GET", LIST, host=host))
        assert (answer.status, "api.token" in answer.document["error"]) == (403, True)
        assert exchange(open_server.outer, request_of("GET", "/stats", host=host)).status == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "Forwarded: for=[::1]"])
def test_no_header_gives_access_to_a_client_that_is_not_on_loopback(open_server: Served, header: str) -> None:
    assert exchange(open_server.outer, request_of("GET", LIST, header)).status == 403


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("X-Nothing: x", 401),
        ("Authorization: Bearer nonsense", 401),
        ("Authorization: Bearer", 401),
        ("Authorization: Bearer \xff\xfe", 401),
        ("Authorization:", 401),
        (f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}", 401),
        (f"Authorization: Bearer {TOKEN}", 200),
    ],
)
def test_the_token_decides_for_real_clients_at_any_address(token_server: Served, header: str, expected: int) -> None:
    for address in (token_server.local, token_server.outer):
        answer = exchange(address, request_of("GET", LIST, header, host="example.com"))
        assert answer.status == expected
        assert ("www-authenticate" in answer.headers) == (expected == 401)


def test_the_log_of_the_server_does_not_contain_the_token(token_server: Served) -> None:
    for token in (TOKEN, "nonsense-of-a-token"):
        exchange(token_server.local, request_of("GET", LIST, f"Authorization: Bearer {token}"))
    wait_until(lambda: LIST in token_server.server.log.read_text(), "the access log")
    assert TOKEN not in token_server.server.log.read_text()
    assert "nonsense-of-a-token" not in token_server.server.log.read_text()
