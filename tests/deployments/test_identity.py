"""The identity of a block: device and inode of its directory, owner, root and other users."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import SHARED_MEMORY, segment_file, segment_of, wait_until

OWNER = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


def test_every_path_to_a_directory_leads_to_one_block(shmstats: ModuleType, tmp_path: Path) -> None:
    identify = shmstats.block.identify
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    name = identify(tmp_path / "a").name
    assert (
        name
        == identify(tmp_path / "link").name
        == identify(tmp_path / "b" / ".." / "a").name
        == segment_of(tmp_path / "a")
    )
    assert name != identify(tmp_path / "b").name
    assert identify(tmp_path / "link").directory == tmp_path / "a"


def test_a_missing_directory_is_created_private_to_its_owner(shmstats: ModuleType, tmp_path: Path) -> None:
    identify = shmstats.block.identify
    missing = tmp_path / "above" / "data"
    assert identify(missing).key is None
    assert not missing.exists()
    made = identify(missing, make=True)
    assert made.key is not None
    assert made.key[:2] == (missing.stat().st_dev, missing.stat().st_ino)
    assert missing.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_created_has_a_block(shmstats: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stats = shmstats.Registry()
    stats.init({"path": {"data": str(tmp_path / "file" / "data")}, "stats": {"persist": False}})
    stats.incr("c", "m")
    assert stats.get("c", "m") == 1
    stats.close()


@as_root
def test_two_mounts_of_one_volume_are_one_block(shmstats: ModuleType, tmp_path: Path) -> None:
    for name in ("volume", "bound"):
        (tmp_path / name).mkdir()
    code = "import sys; from pathlib import Path; from shmstats.block import identify;" + (
        "print(*(identify(Path(path)).name for path in sys.argv[1:]))"
    )
    here = str(Path(shmstats.__file__).parents[1])
    script = f'mount --bind "$1" "$2" && exec "$0" -c "{code}" "$1" "$2"'
    command = ["unshare", "-m", "sh", "-c", script, shutil.which("python3") or "python3"]
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount")
    import sys

    command[5] = sys.executable
    paths = [str(tmp_path / "volume"), str(tmp_path / "bound")]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=True, env={"PYTHONPATH": here})
    first, second = done.stdout.split()
    assert first == second


USE = """
    import os, sys, shmstats
    from shmstats import stats
    # Another user may not be able to import anything: have it all now.
    warm = shmstats.Registry()
    warm.init({"path": {"data": sys.argv[3]}})
    warm.incr("c", "m")
    warm.close()
    if sys.argv[1] != "0":
        os.setgroups([])
        os.setgid(int(sys.argv[1]))
        os.setuid(int(sys.argv[1]))
    try:
        shmstats.init({"path": {"data": sys.argv[2]}})
    except shmstats.BlockError as error:
        print(error, flush=True)
    stats.incr("c", "m")
    print(stats.get("c", "m"), flush=True)
    input()
"""


@pytest.fixture
def owned() -> Iterator[Path]:
    """A data directory of another user, in a directory that every user can reach."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        data = Path(place, "data")
        data.mkdir()
        os.chown(data, OWNER, OWNER)
        yield data


@pytest.fixture
def counting(shmstats: ModuleType, owned: Path) -> Iterator[Any]:
    """A registry of root that has counted 1 in that directory."""
    registry = shmstats.Registry()
    registry.init({"path": {"data": str(owned)}})
    registry.incr("c", "m")
    yield registry
    registry.close()


@as_root
def test_root_and_the_owner_share_a_block_that_the_owner_owns(
    counting: Any, python: Any, owned: Path, tmp_path: Path
) -> None:
    file = segment_file(owned)
    wait_until(lambda: len(list(file.parent.glob(f"{file.name}*"))) == 2)  # the block and a socket
    wait_until(lambda: {path.stat().st_uid for path in file.parent.glob(f"{file.name}*")} == {OWNER})
    owner = python.start(USE, OWNER, owned, tmp_path / "warm")
    assert owner.hear() == "2"
    counting.close()
    assert file.exists()
    root = python.start(USE, 0, owned, tmp_path / "warm")
    assert root.hear() == "3"
    for child in (owner, root):
        child.tell()
        child.finish()
    assert not list(file.parent.glob(f"{file.name}*"))


@as_root
def test_another_user_gets_an_error_that_names_directory_and_owner(
    counting: Any, python: Any, owned: Path, tmp_path: Path
) -> None:
    file = segment_file(owned)
    wait_until(lambda: len(list(file.parent.glob(f"{file.name}*"))) == 2)
    before = sorted((path.name, path.stat().st_ino) for path in file.parent.glob(f"{file.name}*"))
    stranger = python.start(USE, 65533, owned, tmp_path / "warm")
    told = stranger.hear()
    assert f"data directory {owned} belongs to user {OWNER}" in told
    assert "run it as the owner or as root" in told
    assert stranger.hear() == "0"
    assert sorted((path.name, path.stat().st_ino) for path in file.parent.glob(f"{file.name}*")) == before
    stranger.tell()
    stranger.finish(quiet=False)


@as_root
@pytest.mark.parametrize("mapped", [(), ("--map-root-user",)])
def test_a_user_namespace_that_does_not_map_the_owner_is_refused(
    python: Any, owned: Path, mapped: tuple[str, ...]
) -> None:
    """There the owner and strangers have one number: nobody may be taken for the owner."""
    if subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this root may not make user namespaces")
    owned.chmod(0o777)
    python.prefix = ["unshare", "--user", *mapped]
    inside = python.start(
        """
        import os, socket, sys
        from pathlib import Path
        import shmstats
        from shmstats import stats
        from shmstats.web.access import not_trusted
        ours, theirs = socket.socketpair()
        print(not_trusted({"gunicorn.socket": ours, "HTTP_HOST": "localhost"}, Path(sys.argv[1])))
        try:
            shmstats.init({"path": {"data": sys.argv[1]}})
        except shmstats.BlockError as error:
            print(error)
        stats.incr("c", "m")
        print(stats.get("c", "m"), os.listdir(sys.argv[1]))
        """,
        owned,
    )
    trusted, refused, counted = inside.finish(quiet=False).splitlines()
    assert trusted == (str(None) if mapped else "the client's user is not mapped by the user namespace of this process")
    assert f"data directory {owned} belongs to a user that the user namespace of this process does not map" in refused
    assert counted == "0 []"


@as_root
def test_a_worker_that_gave_up_root_continues_in_its_block(counting: Any, python: Any, owned: Path) -> None:
    code = """
        import os, sys, shmstats
        from shmstats import stats
        shmstats.init({"path": {"data": sys.argv[1]}})
        stats.incr("c", "m")
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        for number in range(100):
            stats.incr("c", f"name {number}")
        stats.incr("c", "m")
        print(stats.get("c", "m"), flush=True)
        input()
        shmstats.close()
        print("left")
    """
    worker = python.start(code, owned)
    assert worker.hear() == "3"
    counting.incr("c", "m")
    assert counting.get("c", "m") == 4
    worker.tell()
    assert worker.finish(quiet=False) == "left\n"
    assert "Traceback" not in worker.stderr


def test_a_recreated_data_directory_keeps_its_block(stats: Any, python: Any, data: Path) -> None:
    stats.incr("c", "m")
    block = stats.shared.attach()
    shutil.rmtree(data)
    (data.parent / "has the inode").mkdir()
    data.mkdir()
    assert block.is_current()
    assert python.run("from shmstats import stats; stats.incr('c', 'm'); print(stats.get('c', 'm'))") == "2\n"


@pytest.mark.parametrize("end", ["lives", "is killed"])
def test_a_directory_that_reuses_an_inode_has_its_own_block(python: Any, stats: Any, data: Path, end: str) -> None:
    """The time of birth distinguishes them, also while processes count for the removed directory."""
    other = data.parent / "gone"
    other.mkdir()
    child = python.start(
        """
        import sys, shmstats
        from shmstats import stats
        shmstats.init({"path": {"data": sys.argv[1]}, "stats": {"capacity": 256}})
        stats.incr("c", "m", 7)
        print(flush=True)
        input()
        """,
        other,
    )
    child.hear()
    left = segment_file(other)
    if end == "is killed":
        child.kill()
    inode = os.stat(other).st_ino
    shutil.rmtree(other)
    tried = 0
    while data.mkdir() or os.stat(data).st_ino != inode:
        if (tried := tried + 1) == 5000:
            pytest.skip("this file system does not give an inode number out again soon")
        data.rename(data.parent / f"has another {tried}")
    try:
        stats.incr("c", "m")
        assert segment_file(data) != left
        assert stats.get("c", "m") == 1
    finally:
        if end == "lives":
            child.tell()
            child.finish(quiet=False)
        else:
            left.unlink()
    assert stats.get("c", "m") == 1


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
def test_anything_else_in_place_of_the_block_is_named_and_nothing_hangs(
    shmstats: ModuleType, data: Path, tmp_path: Path, kind: str
) -> None:
    file = segment_file(data)
    try:
        if kind == "fifo":
            os.mkfifo(file)
        elif kind == "directory":
            file.mkdir(mode=0o700)
        else:
            file.symlink_to(tmp_path)
        with pytest.raises(shmstats.BlockError, match=rf"has mode [pdl].*; it must be -rw-------: remove {file}"):
            shmstats.init()
        with pytest.raises(shmstats.BlockError, match=r"has mode [pdl]"), shmstats.reading.reader.read_only(data):
            pass
    finally:
        file.rmdir() if kind == "directory" else file.unlink()


def test_a_dead_block_of_0_1_is_set_aside_and_a_live_one_is_refused(
    shmstats: ModuleType, python: Any, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data.mkdir()
    (legacy, *_) = shmstats.block.identify(data).legacy_segments
    Path(legacy).write_bytes(b"shmstats" + (3).to_bytes(4, "little") + bytes(4096))
    holder = python.start(
        """
        import fcntl, os, sys
        file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(file, fcntl.LOCK_SH, 1, 2**60 + 1)
        print(flush=True)
        input()
        """,
        f"{legacy}.lock",
    )
    try:
        holder.hear()
        with pytest.raises(shmstats.BlockError, match=r"is used by processes of shmstats 0\.1: stop them"):
            shmstats.init()
        holder.tell()
        holder.finish()
        shmstats.init()
        assert "was left by processes of shmstats 0.1 that are gone" in caplog.text
        assert Path(f"{legacy}.layout3").exists()
        assert not Path(legacy).exists()
        assert not Path(f"{legacy}.lock").exists()
    finally:
        shmstats.close()
        for file in Path(SHARED_MEMORY).glob(f"{Path(legacy).name}*"):
            file.unlink()
