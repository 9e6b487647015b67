"""Systems without /dev/shm and /proc: made by hiding both from a process, in a separate mount namespace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import BOUND, PythonRunner

pytestmark = pytest.mark.far_from_core

#: Hides both; the devices that Python needs stay.
HIDDEN = """
set -e
mount -t tmpfs dev "$1"
for device in null zero random urandom; do
    touch "$1/$device"
    mount --bind "/dev/$device" "$1/$device"
done
mkdir "$1/proc-of-psutil"
mount --rbind /proc "$1/proc-of-psutil"
mount --rbind "$1" /dev
mount -t tmpfs proc /proc
shift
exec "$@"
"""

PROGRAM = """
import os, shmstats
from shmstats import stats
from shmstats.web import create_app

assert not os.path.exists("/dev/shm") and not os.path.exists("/proc/self")
stats.timing("c", "took", 5)
for number in range(3):
    child = os.fork()
    if not child:
        for _ in range(100):
            stats.incr("c", "m")
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
block = stats.shared.attach()
print(stats.get("c", "m"), [worker.pid == os.getpid() for worker in block.reader.workers.live()])
print(os.path.dirname(block.identity.segment) == os.path.realpath("data"))
print(create_app().test_client().get("/stats").json["simple"]["c"]["m"])
print(create_app().test_client().get("/debug/threads").status_code)
shmstats.close()
print(os.listdir("data"))
stats.incr("c", "m")
print(stats.get("c", "m"))
"""


#: On macOS psutil needs no /proc. Here only psutil is told where /proc is.
LOST_LOCK = """
import contextlib, io, os, time
with contextlib.redirect_stderr(io.StringIO()):  # it says that there is no /proc
    import psutil
psutil.PROCFS_PATH = "/dev/proc-of-psutil"
from shmstats import stats
from shmstats.debug.processes import system_figures

stats.incr("c", "m")
reading, writing = os.pipe()
child = os.fork()
if not child:
    stats.incr("c", "m")
    os.dup2(writing, 99)
    os.closerange(3, 99)  # as who becomes a daemon does it: the record locks are gone
    os.write(99, b".")
    time.sleep(600)
os.read(reading, 1)
block = stats.shared.attach()
print(sorted(worker.pid for worker in block.reader.workers.live()) == sorted((os.getpid(), child)))
figures = system_figures([os.getpid(), child], 0)
print(figures["workers"], figures["memory_usage"] > 2**20, figures["threads"] >= 2)
os.kill(child, 9)
os.waitpid(child, 0)
print([worker.pid == os.getpid() for worker in block.reader.workers.live()], stats.get("c", "m"))
"""


def run_hidden(program: str, directory: Path) -> tuple[str, str]:
    """The output of a program without /dev/shm and /proc, on both streams."""
    devices = directory / "devices"
    devices.mkdir()
    command = ["unshare", "--mount", "sh", "-c", HIDDEN, "sh", str(devices)]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user cannot hide anything in a mount namespace")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS")}
    done = subprocess.run(
        [
            *command,
            sys.executable,
            "-W",
            "ignore:This process:DeprecationWarning",
            "-c",
            program,
        ],  # the warning about a fork while threads run
        cwd=directory,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    return done.stdout, done.stderr


def told(directory: Path) -> str:
    """The messages that the log has exactly once."""
    return (
        f"there is no /dev/shm: the block is a file in {directory / 'data'}, and slower on a disk\n"
        "there is no /proc: record locks and psutil show which processes live, and a client's process cannot be"
        " identified, so everybody needs the token for /debug and /_local\n"
    )


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path: the sockets are beside the block, and none has a path above 107 bytes."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def test_a_block_is_a_file_in_the_data_directory_and_that_is_logged_once(short: Path) -> None:
    said = run_hidden(PROGRAM, short)
    assert said == ("300 [True]\nTrue\n300\n403\n['stats']\n301\n", told(short))


def test_psutil_finds_processes_also_if_they_have_lost_their_lock(short: Path) -> None:
    said = run_hidden(LOST_LOCK, short)
    assert said == ("True\n2 True True\n[True] 2\n", told(short))


def test_windows_is_refused_with_one_sentence(python: PythonRunner) -> None:
    child = python.start("import sys; sys.platform = 'win32'; import shmstats")
    child.finish(status=1, quiet=False)
    assert child.stderr.splitlines()[-1] == (
        "ImportError: shmstats cannot be used on Windows: it needs fork, record locks and Unix sockets. Use it on Linux"
        " (WSL has one), or for development on macOS"
    )


#: A unit of systemd that is hardened by ``ProcSubset=pid``: /proc has processes, and nothing of the system.
PROCESSES_ONLY = ["unshare", "-m", "sh", "-c", 'mount -t proc -o subset=pid proc /proc && exec "$@"', "sh"]

ANSWERS = """
import json, os
from shmstats import stats
from shmstats.web import create_app
child = os.fork()
stats.incr("c", "m", 5)
if not child:
    os._exit(0)
os.waitpid(child, 0)
client = create_app().test_client()
for path in ("/stats", "/stats/prometheus", "/debug/pool/bytes", "/debug/goroutines", "/stats/live"):
    assert client.get(path).status_code == 200, client.get(path).text
document = client.get("/stats").json
print(json.dumps([document["simple"]["c"]["m"], document["health"]["saver"] in (None, os.getpid())]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a /proc")
def test_without_system_files_in_proc_every_page_is_answered(python: PythonRunner) -> None:
    if subprocess.run([*PROCESSES_ONLY, "test", "!", "-e", "/proc/stat"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel mounts no such /proc")
    python.prefix = PROCESSES_ONLY
    assert json.loads(python.run(ANSWERS)) == [10, True]
