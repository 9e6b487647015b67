"""The file endpoints: their answers, and hostile spellings of paths over a real server."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import gunicorn
import pytest
from flask.testing import FlaskClient
from helpers import swapping
from servers import Gunicorn
from wire import Answer, exchange, request_of

SITE = "from shmstats.web import create_app\n\napp = create_app()\n"

SECRET = "alive and secret"


# Over a real server ------------------------------------------------------------------------------


class Place:
    """A server with a data directory full of traps, and a canary outside of it."""

    def __init__(self, server: Gunicorn, outside: Path) -> None:
        self.server = server
        self.data = server.data
        self.outside = outside
        self.address = ("127.0.0.1", server._port)
        self.before = self.everything()

    def everything(self) -> list[str]:
        """All files in the data directory and outside, without the files of the package."""
        found = []
        for top in (self.data, self.outside):
            for directory, directories, names in os.walk(top):
                directories[:] = [name for name in directories if name != "stats"]
                found += [os.path.join(directory, name) for name in directories + names]
        return sorted(found)

    def ask(self, method: str, target: str) -> Answer:
        """Send one request, and check that it has changed no file."""
        target = target.replace("OUTSIDE", str(self.outside))
        answer = exchange(self.address, request_of(method, target))
        assert SECRET.encode() not in answer.body
        assert b"canary" not in answer.body or answer.status != 200
        assert "location" not in answer.headers
        assert self.everything() == self.before
        assert (self.outside / "canary").read_text() == SECRET
        return answer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("place")
    outside = directory / "outside"
    data = directory / "data"
    (data / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "canary").write_text(SECRET)
    (outside / "dir").mkdir()
    for name in ("plain", "sub/inner", "sub/_list"):
        (data / name).write_text("in its place")
    links = {
        "link_file": outside / "canary", "link_dir": outside, "link_relative": "../outside", "link_root": "/",
        "link_proc": "/proc/self/root", "link_cwd": "/proc/self/cwd", "link_self": ".", "link_up": "..",
        "link_inside": "sub", "link_plain": "plain", "link_loop": "link_loop", "link_nowhere": "nowhere",
        "sub/link_up": "..", "link_chain": "link_dir",
    }  # fmt: skip
    for name, target in links.items():
        (data / name).symlink_to(target)
    os.mkfifo(data / "fifo")
    here = os.getcwd()
    os.chdir(data)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        os.chdir(here)
        with Gunicorn(directory, "--workers", "1", site=SITE) as server:
            yield Place(server, outside)


#: Spellings that leave the data directory, or would if they were decoded or normalised: 400.
REFUSED = [
    "..", "%2e%2e", ".", "%2e", "", "/", "//", "%2f", "../", "..%2f", "./",
    "../outside/canary",
    "%2e%2e/outside/canary",
    "%2E%2E/outside/canary",
    ".%2e/outside/canary",
    "%2e./outside/canary",
    "..%2foutside%2fcanary",
    "..%2Foutside%2Fcanary",
    "%2e%2e%2foutside%2fcanary",
    "../../../../../../../../etc/passwd",
    "sub/../../outside/canary",
    "sub/%2e%2e/%2e%2e/outside/canary",
    "sub%2f..%2f..%2foutside%2fcanary",
    "./../outside/canary",
    "../data/plain",
    "none/../plain",
    "plain/..", "plain/../sub/inner", "sub/./inner", "./plain", "sub//inner", "plain/", "plain%2f",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "%2f%2fetc/passwd",
    "OUTSIDE/canary",
    "%2fOUTSIDE/canary",
    "file:///etc/passwd",
    "..;/../outside/canary",
    "..%00/outside/canary", "plain%00", "plain%00.txt", "%00", "sub%00/../plain", "%00/etc/passwd",
    "../outside/canary?x=1", "../outside/canary%23", "../outside/canary%3fx",
    "link_file", "link_dir", "link_loop", "link_nowhere", "link_plain", "link_inside",
    "link_dir/canary", "link_dir/dir", "link_relative/canary", "link_chain/canary", "link_root/etc/passwd",
    "link_proc/etc/passwd", "link_cwd/data/plain", "link_self/plain", "link_up/outside/canary",
    "link_inside/inner", "link_loop/x", "link_file/x", "sub/link_up/plain", "link_dir%2fcanary",
    "link_dir/../plain", "sub/link_up/link_dir/canary",
    "a" * 256, "%61" * 256, "%c3%a9" * 128, "sub/" + "a" * 1000,
]  # fmt: skip

#: Spellings that are strange names of missing files: 404.
ABSENT = [
    "none", "none/none", "plain/x", "fifo/x", "socket/x",
    "%252e%252e/outside/canary",
    "%252e%252e%252foutside%252fcanary",
    "%25252e%25252e/outside/canary",
    "..%252foutside%252fcanary",
    "%252fetc%252fpasswd",
    "..%c0%afoutside%c0%afcanary",
    "%c0%ae%c0%ae/outside/canary",
    "%e0%80%ae%e0%80%ae/outside/canary",
    "%u002e%u002e/outside/canary",
    "%ef%bc%8e%ef%bc%8e/outside/canary",
    "%e2%80%a5/outside/canary",
    "..%ef%bc%8foutside",
    "..\\outside\\canary",
    "..%5coutside%5ccanary",
    "..%255coutside",
    "C:\\Windows\\win.ini", "C:/Windows/win.ini", "%5c%5chost%5cshare",
    "~/canary", "~root/.profile", "$HOME/x", "%24%7bHOME%7d/x", "`id`", "%7cid", "-rf",
    "...", "..../outside/canary", ".../outside/canary",
    "..;/outside/canary", "..;a=b/outside/canary", "plain;x",
    "%20../outside/canary", "..%20/outside/canary", "..%09/outside/canary", "..%0a/outside/canary",
    "..%0d%0aX:%20y/outside", "plain%0a", "%0aplain", "plain%20", "PLAIN",
    "*", "sub/*", "%2a", "[a-z]lain", "pl%3fin",
    "%zz", "%2", "%", "%%32%65%%32%65/outside/canary",
    "%ff%fe", "a" * 255, "a/" * 1900 + "a",
]  # fmt: skip


@pytest.mark.parametrize("spelling", REFUSED)
def test_a_spelling_that_leaves_the_directory_is_refused(place: Place, spelling: str) -> None:
    listed = place.ask("GET", f"/_local/files/{spelling.partition('?')[0]}/_list")
    assert (listed.status, "error" in listed.document) == (400, True)
    deleted = place.ask("DELETE", f"/_local/files/{spelling}")
    assert (deleted.status, "error" in deleted.document) == (400, True)


@pytest.mark.parametrize("spelling", ABSENT)
def test_a_strange_name_is_not_found(place: Place, spelling: str) -> None:
    for method, target in (
        ("GET", f"/_local/files/{spelling}/_list"),
        ("DELETE", f"/_local/files/{spelling}"),
    ):
        answer = place.ask(method, target)
        assert (answer.status, "error" in answer.document) == (404, True)


@pytest.mark.parametrize(
    ("name", "listed", "deleted"),
    [("fifo", 404, 400), ("socket", 404, 409), ("sub", 200, 400), ("plain%2f_list", 404, 404)],
)
def test_only_a_regular_file_is_deleted(place: Place, name: str, listed: int, deleted: int) -> None:
    assert place.ask("GET", f"/_local/files/{name}/_list").status == listed
    assert place.ask("DELETE", f"/_local/files/{name}").status == deleted


def test_a_device_is_neither_opened_nor_deleted(place: Place) -> None:
    device = place.data / "device"
    try:
        os.mknod(device, 0o020600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device needs privileges")
    try:
        place.before = place.everything()
        assert place.ask("GET", "/_local/files/device/_list").status == 404
        assert place.ask("DELETE", "/_local/files/device").status == 400
    finally:
        device.unlink()
        place.before = place.everything()


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("DELETE", "/_local/../_local/files/plain", 404),
        ("DELETE", "/stats/../_local/files/plain", 404),
        ("DELETE", "/_local//files/plain", 404),
        ("DELETE", "/_local/./files/plain", 404),
        ("DELETE", "//_local/files/../outside/canary", 400),
        ("DELETE", "///_local/files//outside/canary", 400),
        ("DELETE", "//localhost/_local/files/plain", 404),
        ("DELETE", "/_local/filesplain", 404),
        ("DELETE", "/_local/files/../../outside/canary", 400),
        ("DELETE", "http://localhost/_local/files/../outside/canary", 400),
        ("DELETE", "/_local/files", 400),
        ("GET", "/_local/files//_list", 400),
        ("GET", "/_local/files/plain", 405),
        ("GET", "/_local/files/link_file", 405),
        ("GET", "/_local/files/../outside/canary", 405),
        ("GET", "/_local/files/_list/", 405),
        ("GET", "/_local/files", 405),
        ("POST", "/_local/files/plain", 405),
        ("PUT", "/_local/files/plain", 405),
        ("OPTIONS", "/_local/files/plain", 405),
        ("POST", "/_local/files/_list", 405),
    ],
)
def test_no_spelling_of_the_endpoint_leads_out_of_the_directory(
    place: Place, method: str, target: str, status: int
) -> None:
    answer = place.ask(method, target)
    assert (answer.status, "error" in answer.document) == (status, True)


@pytest.mark.parametrize("target", ["plain\0", "pla\xefn", "plain\tx", "a" * 5000, "plain x"])
def test_an_invalid_request_line_is_refused_by_the_server(place: Place, target: str) -> None:
    # gunicorn 22 accepts some, which are then not found.
    refused = (400, 414) if gunicorn.version_info >= (23,) else (400, 404, 414)
    assert place.ask("DELETE", f"/_local/files/{target}").status in refused


def test_the_whole_directory_is_listed_and_links_are_not_followed(place: Place) -> None:
    answer = exchange(place.address, request_of("GET", "/_local/files/_list"))
    listed = {entry["name"]: entry for entry in answer.document["disk"] if entry["name"] != "stats"}
    assert {name: entry["type"] for name, entry in listed.items() if "_" not in name} == {
        "plain": "file", "sub": "directory", "fifo": "fifo", "socket": "socket"
    }  # fmt: skip
    assert all(entry["type"] == "link" for name, entry in listed.items() if name.startswith("link_"))
    assert [entry["name"] for entry in listed["sub"]["children"]] == ["_list", "inner", "link_up"]
    assert "truncated" not in answer.document
    assert b"canary" not in answer.body.replace(b"outside/canary", b"")


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (b"ordinary", "ordinary"),
        (b"_list", "_list"),
        (b"caf\xe9", "caf%E9"),
        (b"caf\xc3\xa9", "caf%c3%a9"),
        (b"%2e%2e", "%252e%252e"),
        (b"back\\slash", "back%5cslash"),
        (b"line\nend\r\n", "line%0aend%0d%0a"),
        (b"...", "..."),
        (b" ?#;&", "%20%3f%23%3b%26"),
        (b"a" * 251, "a" * 251),
    ],
)
def test_a_file_with_any_name_can_be_deleted(place: Place, name: bytes, quoted: str) -> None:
    file = os.fsencode(place.data) + b"/sub/new-" + name
    with open(file, "x"):
        answer = exchange(place.address, request_of("DELETE", f"/_local/files/sub/new-{quoted}"))
    assert (answer.status, os.path.exists(file)) == (200, False)


# In this process ---------------------------------------------------------------------------------


@pytest.fixture
def client(serve: Callable[..., FlaskClient]) -> FlaskClient:
    return serve()


def test_a_directory_is_listed_by_its_path(client: FlaskClient, data: Path) -> None:
    (data / "a" / "b").mkdir(parents=True)
    (data / "a" / "b" / "f").write_bytes(b"123")
    answer = client.get("/_local/files/a/b/_list")
    assert answer.content_type == "application/json"
    [entry] = answer.get_json()["disk"]
    assert (entry["name"], entry["type"], entry["size"], entry["children"]) == ("f", "file", 3, [])


def test_a_missing_data_directory_is_listed_as_empty(client: FlaskClient, data: Path) -> None:
    data.rmdir()
    assert client.get("/_local/files/_list").get_json() == {"disk": []}
    assert client.get("/_local/files/stats/_list").status_code == 404


def test_a_truncated_listing_is_marked(client: FlaskClient, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmstats.files.MAX_ENTRIES", 1)
    for name in "ab":
        (data / name).touch()
    listed = client.get("/_local/files/_list").get_json()
    assert (len(listed["disk"]), listed["truncated"]) == (1, True)


def test_the_answer_to_a_deletion_names_the_file(client: FlaskClient, data: Path) -> None:
    (data / "a").mkdir()
    (data / "a" / "f").touch()
    answer = client.delete("/_local/files/a/f")
    assert (answer.status_code, answer.get_json()) == (200, {"deleted": "a/f"})
    assert client.delete("/_local/files/a/f").status_code == 404


LIVE = ("simple.json", "simple.json.1", ".simple.json.123", ".simple.json.123.1", "any.lock")
LEFT = ("simple.json.damaged-20260101T000000", "other.json")


def fill(data: Path) -> None:
    (data / "stats").mkdir(exist_ok=True)
    for name in (*LIVE, *LEFT):
        (data / "stats" / name).touch()
        (data / name).touch()


def test_the_live_snapshot_and_locks_are_not_deleted(client: FlaskClient, data: Path) -> None:
    fill(data)
    for name in LIVE:
        assert client.delete(f"/_local/files/stats/{name}").status_code == 409
        assert (data / "stats" / name).exists()
    for name in LEFT:
        assert client.delete(f"/_local/files/stats/{name}").status_code == 200
    assert client.delete("/_local/files/simple.json").status_code == 200


def test_without_persistence_a_snapshot_can_be_deleted(serve: Callable[..., FlaskClient], data: Path) -> None:
    client = serve({"persist": False})
    fill(data)
    assert client.delete("/_local/files/stats/simple.json").status_code == 200
    assert client.delete("/_local/files/stats/any.lock").status_code == 409


def test_a_url_prefix_does_not_change_the_paths(serve: Callable[..., FlaskClient], data: Path) -> None:
    from flask import Flask

    from shmstats.web import blueprint

    serve()
    app = Flask(__name__)
    app.register_blueprint(blueprint, url_prefix="/monitoring/of/this")
    client = app.test_client()
    (data / "a").mkdir()
    (data / "a" / "f").touch()
    at = "/monitoring/of/this/_local/files"
    assert [entry["name"] for entry in client.get(f"{at}/a/_list").get_json()["disk"]] == ["f"]
    assert client.delete(f"{at}/a/f").get_json() == {"deleted": "a/f"}
    assert client.delete(f"{at}/../shmstats.yml").status_code == 400
    assert client.get(f"{at}//_list").status_code == 400


def test_deleting_in_a_read_only_directory_is_forbidden(
    client: FlaskClient, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "f").touch()

    def unlink(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shmstats.files.os.unlink", unlink)  # root, as which the test may run, may change every file
    answer = client.delete("/_local/files/f")
    monkeypatch.undo()
    assert (answer.status_code, answer.get_json()) == (403, {"error": "'f': Permission denied"})


@pytest.mark.thorough
def test_no_request_leaves_a_directory_that_is_swapped_for_a_link(
    client: FlaskClient, data: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text(SECRET)
    statuses: Counter[int] = Counter()
    with swapping(data / "way", outside):
        for _ in range(1000):
            listed = client.get("/_local/files/way/_list")
            statuses[listed.status_code] += 1
            assert all(entry["size"] == 0 for entry in listed.get_json().get("disk", []))
            statuses[client.delete("/_local/files/way/canary").status_code] += 1
    assert set(statuses) <= {200, 400, 404}
    assert (outside / "canary").read_text() == SECRET
