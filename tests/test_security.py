"""Created files are private, links are not followed, secrets stay secret, and requests have limits.

The tests of access, files and endpoints show that requests of other users and forwarded ones are refused, that no path
leaves the data directory, and the headers of answers.
"""

from __future__ import annotations

import hmac
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from helpers import SHARED_MEMORY, segment_of, wait_until

import shmstats
from shmstats.instance import instance_of
from shmstats.series import Kind, Name, Snapshot
from shmstats.sinks.push.sender import Memory
from shmstats.snapshot import store as snapshots
from shmstats.snapshot.store import FILE, PREVIOUS, load, load_newest, save
from shmstats.web import access, create_app

pytestmark = pytest.mark.far_from_core

TOKEN = "a-token-that-nobody-may-see-3f9c"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FlaskClient]]:
    """Make an application with settings of ``api``, and a client for it."""

    def serve(**api: Any) -> FlaskClient:
        # not durable: a test requests many pages a second
        stats = {"capacity": 256, "max_workers": 2, "durable_exposition": False}
        return create_app({"path": {"data": str(tmp_path / "data")}, "stats": stats, "api": api}).test_client()

    yield serve
    shmstats.close()


def snapshot(value: int) -> Snapshot:
    return Snapshot([Name("c", "m", Kind.COUNTER)], [value])


# Created files --------------------------------------------------------------------------------------

CREATE_EVERYTHING = """
    import os, sys
    os.umask(int(sys.argv[1], 8))
    import shmstats
    from shmstats import stats
    shmstats.init({
        "path": {"data": sys.argv[2]},
        "stats": {"capacity": 256, "max_workers": 2, "no_buffer": sys.argv[3] == "1", "snapshot_interval_ms": 100},
    })
    stats.incr("c", "m")
    stats.timing("c", "t", 1)
    print("counted", flush=True)
    input()
    stats.incr("c", "m")
    stats.flush()
    print("again", flush=True)
    input()
    shmstats.close()
    print("closed", flush=True)
    input()
"""


def created(top: Path, data: Path) -> dict[str, os.stat_result]:
    """The files of a data directory: itself, its content, its created parents, and those in shared memory."""
    found = [top, *top.rglob("*")]
    found += [Path(SHARED_MEMORY, name) for name in os.listdir(SHARED_MEMORY) if name.startswith(segment_of(data))]
    return {str(path): path.lstat() for path in found if path.exists()}


@pytest.mark.parametrize("umask", ["000", "022", "777"])
@pytest.mark.parametrize("real_time", [True, False])
def test_everything_that_is_created_is_accessible_only_to_its_user(
    python: Any, tmp_path: Path, umask: str, real_time: bool
) -> None:
    top = tmp_path / "made"
    data = top / "by" / "us"
    if umask == "777" and os.geteuid() != 0:
        pytest.skip("only root can use files without any permission")
    child = python.start(CREATE_EVERYTHING, umask, data, int(real_time))
    assert child.hear() == "counted"
    wait_until(lambda: (data / "stats" / FILE).exists())
    child.tell()
    assert child.hear() == "again"
    wait_until(lambda: (data / "stats" / PREVIOUS).exists())
    alive = created(top, data)
    kinds = {stat.S_IFMT(found.st_mode) for found in alive.values()}
    assert kinds == {stat.S_IFDIR, stat.S_IFREG, stat.S_IFSOCK}
    assert len([path for path in alive if path.startswith(SHARED_MEMORY)]) == 2  # the block and a socket
    child.tell()
    assert child.hear() == "closed"
    for path, found in {**alive, **created(top, data)}.items():
        assert found.st_uid == os.geteuid(), f"{path} belongs to {found.st_uid}"
        assert found.st_mode & 0o077 == 0, f"{path} has mode {stat.filemode(found.st_mode)}"
    child.tell()
    child.finish()


@pytest.mark.parametrize("left", ["file", "link"])
def test_a_link_under_the_temporary_name_of_a_killed_process_is_not_followed(
    tmp_path: Path, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, outside = tmp_path / "stats", tmp_path / "outside"
    directory.mkdir()
    outside.write_text("another's")
    monkeypatch.setattr(snapshots, "_number", iter([7, 8]))
    temporary = directory / f".{FILE}.{os.getpid()}-7"
    if left == "link":
        temporary.symlink_to(outside)
    else:
        temporary.write_text("half")
        temporary.chmod(0o666)
    save(directory, snapshot(1))
    assert outside.read_text() == "another's"
    assert stat.S_IMODE((directory / FILE).lstat().st_mode) == 0o600
    assert {path.name for path in directory.iterdir()} == {FILE, temporary.name}
    snapshots.remove_stale(directory)
    assert [path.name for path in directory.iterdir()] == [FILE]
    assert outside.read_text() == "another's"


# Links ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [FILE, PREVIOUS])
def test_a_link_in_place_of_a_snapshot_is_not_followed(tmp_path: Path, name: str) -> None:
    elsewhere, directory = tmp_path / "elsewhere", tmp_path / "stats"
    save(elsewhere, snapshot(666))
    planted = (elsewhere / FILE).read_bytes()
    directory.mkdir()
    (directory / name).symlink_to(elsewhere / FILE)
    told: list[str] = []
    assert load_newest(directory, told.append) is None
    assert len(told) == 1
    assert str(directory / name) in told[0]
    for value in (1, 2):
        save(directory, snapshot(value))
    assert (elsewhere / FILE).read_bytes() == planted
    assert not any((directory / each).is_symlink() for each in (FILE, PREVIOUS))
    loaded = load_newest(directory, told.append)
    assert loaded is not None
    assert list(loaded[1].snapshot.values) == [2]


#: Things that are not regular files, and the error of reading each.
NO_FILES: dict[str, Callable[[Path], object]] = {
    "no regular file": os.mkfifo,
    "directory": os.mkdir,
    "symbolic links": lambda path: os.symlink("/dev/zero", path),
}


@pytest.mark.parametrize("said", NO_FILES)
def test_a_pipe_directory_or_link_in_place_of_a_file_does_not_block_a_reader(
    tmp_path: Path, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (FILE, "identity.json", "push.json"):
        NO_FILES[said](tmp_path / name)
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=said):
        load(tmp_path / FILE)
    with pytest.raises(OSError, match=said):
        instance_of(tmp_path)
    Memory(tmp_path).read()
    assert "push.json cannot be read" in caplog.text
    assert said in caplog.text
    assert len(os.listdir("/proc/self/fd")) == opened


# Secrets --------------------------------------------------------------------------------------------

COMMANDS = [
    ["info"],
    ["dump"],
    ["dump", "--format", "prometheus"],
    ["dump", "--format", "table", "--workers"],
    ["reset", "c", "m"],
    ["remove", "c"],
    ["clean"],
    ["serve", "--workers", "0"],
    ["serve", "--bind", "nonsense"],
    ["no-such-command"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_prints_the_token(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "shmstats.yml"
    file.write_text(json.dumps({"path": {"data": str(tmp_path / "data")}, "api": {"token": TOKEN}}))
    environment = os.environ | {
        "SHMSTATS_CONFIG": str(file),
        "PYTHONPATH": str(Path(shmstats.__file__).parents[1]),
    }
    line = [sys.executable, "-m", "shmstats", *command]
    ran = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.stdout or ran.stderr
    assert TOKEN not in ran.stdout + ran.stderr


def test_a_configuration_is_data_and_never_code(tmp_path: Path) -> None:
    file, done = tmp_path / "shmstats.yml", tmp_path / "done"
    file.write_text(f"stats: !!python/object/apply:os.mkdir ['{done}']\n")
    with pytest.raises(shmstats.ConfigError):
        shmstats.init(str(file))
    assert not done.exists()


def paths(client: FlaskClient) -> list[str]:
    """A path for each endpoint that the application has."""
    rules = client.application.url_map.iter_rules()
    return sorted({rule.rule.partition("<")[0] + ("/x" if "<" in rule.rule else "") for rule in rules})


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def test_no_answer_of_any_endpoint_has_the_token(serve: Callable[..., FlaskClient]) -> None:
    client = serve(token=TOKEN)
    assert len(paths(client)) > 5
    for path in paths(client):
        for method in METHODS:
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"Bearer {TOKEN}x"}):
                answer = client.open(path, method=method, headers=headers)
                assert TOKEN not in answer.get_data(as_text=True), f"{method} {path}"
                assert TOKEN not in str(answer.headers), f"{method} {path}"


def test_the_token_is_compared_only_in_constant_time(
    serve: Callable[..., FlaskClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(token=TOKEN)
    compared = []

    def compare_digest(given: bytes, right: bytes) -> bool:
        compared.append((given, right))
        return hmac.compare_digest(given, right)

    monkeypatch.setattr(access, "hmac", type("Spy", (), {"compare_digest": staticmethod(compare_digest)}))
    tries = ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), TOKEN]
    statuses = [client.get("/debug/threads", headers={"Authorization": f"Bearer {each}"}).status_code for each in tries]
    assert statuses == [401] * 5 + [200]
    assert compared == [(each.encode(), TOKEN.encode()) for each in tries]


# Pages of other sites -------------------------------------------------------------------------------

STRANGERS = {
    "a page of another site": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "a page of a sister site": {"Sec-Fetch-Site": "same-site"},
    "a page of another port": {"Origin": "http://localhost:1"},
    "a page without an origin": {"Origin": "null"},
    "a name that leads to loopback": {"Host": "rebound.example:80"},
    "a name that begins like loopback": {"Host": "localhost.rebound.example"},
    "a name with a dot at its end": {"Host": "rebound.example."},
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_no_protected_endpoint_answers_a_request_without_access(
    serve: Callable[..., FlaskClient], tmp_path: Path, stranger: str
) -> None:
    client = serve(protect="all")
    victim = tmp_path / "data" / "x"
    victim.parent.mkdir(exist_ok=True)
    victim.write_text("kept")
    for path in paths(client):
        for method in METHODS:
            answer = client.open(path, method=method, headers=STRANGERS[stranger])
            assert answer.status_code == 403, f"{method} {path} is answered by {answer.status}"
            assert "Access-Control-Allow-Origin" not in answer.headers
    assert victim.read_text() == "kept"


# Limits ---------------------------------------------------------------------------------------------

LARGE = 200_000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/stats?format=" + "x" * LARGE, 400),
        ("GET", "/stats?" + "&".join(["a=b"] * 20_000), 200),
        ("GET", "/stats/" + "x" * LARGE, 404),
        ("GET", "/debug/" + "x/" * (LARGE // 2), 404),
        ("GET", "/_local/files/" + "x/" * (LARGE // 2) + "_list", 400),
        ("DELETE", "/_local/files/" + "x/" * 3000 + "x", 400),
        ("DELETE", "/_local/files/" + "x" * LARGE, 400),
        ("DELETE", "/_local/files/" + "d/" * 2000 + "x", 404),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_a_large_request_gets_a_small_answer(
    serve: Callable[..., FlaskClient], method: str, path: str, status: int
) -> None:
    answer = serve().open(path, method=method)
    assert answer.status_code == status
    assert len(answer.data) < 4096


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_large_header_gets_a_small_answer(serve: Callable[..., FlaskClient], token: str | None) -> None:
    client = serve(token=token)
    for header in ("Accept", "Authorization", "Origin", "Host", "Forwarded", "X-Anything"):
        for value in ("x" * LARGE, "a;q=1," * 20_000, "[" * LARGE):
            path = "/stats/prometheus" if header == "Accept" else "/debug/pool/bytes"
            answer = client.get(path, headers={header: value})
            assert answer.status_code < 500
            assert len(answer.data) < 16_384
