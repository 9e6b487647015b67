"""Systems without /dev/shm and /proc: made by hiding both from a process, in a mount namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import BOUND, PythonRunner

pytestmark = pytest.mark.far_from_core

#: Hides them; the devices that Python needs stay.
HIDDEN = """
set -e
mount -t tmpfs dev "$1"
for device in null zero random urandom; do
    touch "$1/$device"
    mount --bind "/dev/$device" "$1/$device"
done
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
shmstats.close()
print(os.listdir("data"))
stats.incr("c", "m")
print(stats.get("c", "m"))
"""


def test_a_block_is_a_file_in_the_data_directory_which_is_said_once(tmp_path: Path) -> None:
    devices = tmp_path / "devices"
    devices.mkdir()
    command = ["unshare", "--mount", "sh", "-c", HIDDEN, "sh", str(devices)]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user cannot hide anything in a mount namespace")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS")}
    done = subprocess.run(
        [*command, sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    told = f"there is no /dev/shm: the block is a file in {tmp_path / 'data'}, and slower on a disk\n"
    assert (done.stderr, done.stdout) == (told, "300 [True]\nTrue\n300\n['stats']\n301\n")


def test_windows_is_refused_in_a_sentence(python: PythonRunner) -> None:
    child = python.start("import sys; sys.platform = 'win32'; import shmstats")
    child.finish(status=1, quiet=False)
    assert child.stderr.splitlines()[-1] == (
        "ImportError: shmstats cannot be used on Windows: it needs fork, record locks and Unix sockets. Use it on Linux"
        " (WSL has one), or for development on macOS"
    )
