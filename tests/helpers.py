"""Helpers of tests with several processes: child processes with time limits, and waiting for a condition."""

from __future__ import annotations

import hashlib
import inspect
import os
import runpy
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHARED_MEMORY = "/dev/shm"

#: Loaded from the file, because tests import the package again and again.
_TIME_OF_BIRTH = runpy.run_path(str(Path(__file__).parents[1] / "shmstats/core/_files_py.py"))["time_of_birth"]

#: Seconds after which a test stops waiting and fails. Nothing should take even a fraction of it.
BOUND = 60.0


def wait_until(condition: Callable[[], object], bound: float = BOUND) -> None:
    """Wait until ``condition()`` is true; fail after ``bound`` seconds."""
    end = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < end, f"not so within {bound} s: {condition}"
        time.sleep(0.002)


def segment_of(directory: Path) -> str:
    """Return the name of a data directory's segment, computed by the rule in the design."""
    if not directory.is_dir():
        place = hashlib.blake2b(os.fsencode(os.path.realpath(directory)), digest_size=8).hexdigest()
        return f"shmstats_path_{place}"
    found = directory.stat()
    return f"shmstats_{found.st_dev:x}_{found.st_ino:x}_{_TIME_OF_BIRTH(os.fsencode(directory)):x}"


def segment_file(directory: Path) -> Path:
    """Return the file of a data directory's segment; make the directory if it is missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(SHARED_MEMORY, segment_of(directory))


def process_state(pid: int) -> str:
    """Return the state letter of a process, as proc_pid_stat(5) gives it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def swapping(way: Path, outside: Path) -> Iterator[None]:
    """Swap a directory (with a file ``canary`` in it) and a link to another directory, again and again."""
    away, done = way.with_name("away"), threading.Event()
    way.mkdir()

    def swap() -> None:
        while not done.is_set():
            (way / "canary").touch()
            way.rename(away)
            way.symlink_to(outside)
            way.unlink()
            away.rename(way)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        yield
    finally:
        done.set()
        swapper.join()


class Child:
    """A child process with its own interpreter; the test talks to it in lines over its standard streams.

    Attributes:
        pid: its process id.
        stderr: everything it wrote to its standard error; set when it has ended.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], directory: Path) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=directory,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.stderr = ""
        self._heard = b""

    def tell(self, line: str = "") -> None:
        """Write a line to the child's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, bound: float = BOUND) -> str:
        """Return the next line that the child writes to its standard output."""
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        end = time.monotonic() + bound
        while b"\n" not in self._heard:
            ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(stream, 65536) if ready else b""
            if not piece:
                self.kill()
                raise AssertionError(f"the child said {self._heard!r} and no more; stderr: {self.stderr}")
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def finish(self, bound: float = BOUND, status: int | None = 0, quiet: bool = True) -> str:
        """Wait until the process ends and return the rest of its standard output.

        Args:
            bound: seconds to wait.
            status: the exit status that is expected; None: any.
            quiet: whether to fail if it wrote anything to its standard error.
        """
        try:
            out, err = self._process.communicate(timeout=bound)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within {bound} s; the threads stood so:\n{self._abort()}") from None
        self.stderr = err.decode()
        if status is not None:
            assert self._process.returncode == status, f"status {self._process.returncode}: {self.stderr}"
        if quiet:
            assert self.stderr == "", self.stderr
        out, self._heard = self._heard + out, b""
        return out.decode()

    def signal(self, number: int) -> None:
        """Send a signal."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process and the processes it started, and wait until it has ended."""
        if not self.ended:
            os.killpg(self.pid, signal.SIGKILL)
        if self._process.stdin is None or self._process.stdin.closed:
            self._process.wait(BOUND)
            return
        _, err = self._process.communicate(timeout=BOUND)
        self.stderr = err.decode()

    def close(self) -> None:
        """Close the streams of a process that has ended."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _abort(self) -> str:
        """Make the process and its children print the stacks of their threads and end; return that text."""
        os.killpg(self.pid, signal.SIGABRT)
        try:
            return self._process.communicate(timeout=10)[1].decode()
        except subprocess.TimeoutExpired:
            self.kill()
            return self.stderr

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None


#: Code of a process that counts 7 and then forks children until it is told to end.
FORKING = """
import os, select
from shmstats import stats
stats.incr('c', 'm', 7)
print('ready')
while not select.select([0], [], [], 0.02)[0]:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
os._exit(0)
"""


class PythonRunner:
    """Runs code in new interpreters with the environment of the test.

    Args:
        directory: where the files with the code are written; also the working directory.
        root: the directory that contains the package.
    """

    def __init__(self, directory: Path, root: Path) -> None:
        self._directory = directory
        self._root = root
        self._children: list[Child] = []
        self.prefix: list[str] = []

    def start(self, code: str, *arguments: object) -> Child:
        """Start an interpreter with ``code`` and these arguments; every warning is an error there."""
        file = self._directory / f"code{len(self._children)}.py"
        file.write_text(textwrap.dedent(code))
        environment = os.environ | {"PYTHONPATH": str(self._root)}
        options = ["-X", "faulthandler", "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        command = [*self.prefix, sys.executable, *options, str(file), *map(str, arguments)]
        child = Child(command, environment, self._directory)
        self._children.append(child)
        return child

    def run(self, code: str, *arguments: object, quiet: bool = True) -> str:
        """Run ``code`` to its end, check that it ended with status 0, and return its output."""
        return self.start(code, *arguments).finish(quiet=quiet)

    def kill_all(self) -> None:
        """Kill the processes that have not ended."""
        for child in self._children:
            if not child.ended:
                child.kill()
            child.close()


def hold(block: Any, row: int, column: int, word: int) -> None:
    """Write a word into the lock of a cell, as its holder does; 0 releases the lock."""
    from shmstats.core import CORE
    from shmstats.layout import CELL, FIRST_CELL

    if CORE == "Python":
        block.locks.lock(FIRST_CELL + row * (block.layout.row_bytes // CELL.size) + column)
    at = block.layout.cells + row * block.layout.row_bytes + column * CELL.size
    block._buf[at : at + 4] = word.to_bytes(4, "little")


def holder(block: Any, row: int, column: int) -> int:
    """Return the word in the lock of a cell."""
    from shmstats.layout import CELL

    at = block.layout.cells + row * block.layout.row_bytes + column * CELL.size
    return int.from_bytes(block._buf[at : at + 4], "little")


def with_hold(code: str) -> str:
    """Return ``code`` for another process, preceded by the functions `hold` and `holder`."""
    return f"from typing import Any\n{inspect.getsource(hold)}\n{inspect.getsource(holder)}\n{textwrap.dedent(code)}"
