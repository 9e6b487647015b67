"""The processes in which the sides of a comparison run, as the benchmark sees them.

A `Subject` is a process of ``benchmarks.peers.<module>``, with the interpreter that has the peer installed. It
gets a request as a line of JSON and answers with a line; between two requests it sleeps, so that the
sides of a comparison can take turns.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .nothing import nothing_directory

SCRIPTS = Path(__file__).parents[1]

#: Seconds that one request may take.
BOUND = 600.0


class NotAvailableError(Exception):
    """A requirement of a measurement is missing. The message names it and the reason."""


class SubjectError(Exception):
    """A subject could not do a request."""


class Subject:
    """A process that does requests.

    Args:
        module: of ``benchmarks.peers``.
        python: the interpreter.
        environment: additions to the environment of this process.

    Raises:
        NotAvailableError: it cannot be started, for example because its peer is not installed.
    """

    def __init__(self, module: str, python: str = sys.executable, **environment: str) -> None:
        path = package_path() if python == sys.executable else str(SCRIPTS)
        self.name = module
        self._process = subprocess.Popen(
            [python, "-P", "-m", f"benchmarks.peers.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path} | environment,
            start_new_session=True,
        )
        self._heard = b""
        try:
            hello = self._answer(BOUND)
        except SubjectError as error:
            self.close()
            raise NotAvailableError(str(error)) from None
        if "error" in hello:
            self.close()
            raise NotAvailableError(hello["error"])
        self.versions: dict[str, str] = hello["done"]

    def do(self, operation: str, **arguments: Any) -> Any:
        """Send a request to the process and return its answer.

        Raises:
            SubjectError: it could not be done.
        """
        assert self._process.stdin is not None
        request = json.dumps({"operation": operation, "arguments": arguments})
        self._process.stdin.write(request.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answer(BOUND)
        if "error" in answer:
            raise SubjectError(f"{self.name}: {operation}: {answer['error']}")
        return answer["done"]

    def pause(self) -> None:
        """Suspend the process with all its threads."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def close(self) -> None:
        """Make the process end in an orderly way, and wait until it has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        if self._process.poll() is None:
            self.resume()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _answer(self, bound: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + bound
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                self._process.kill()
                raise SubjectError(f"{self.name}: no answer; its last words are above")
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def package_path() -> str:
    """Return a PYTHONPATH by which the benchmarks are found, and the package if it is not installed."""
    path = [str(SCRIPTS), os.environ.get("PYTHONPATH", "")]
    if importlib.util.find_spec("shmstats") is None:
        path.append(str(SCRIPTS.parent))
    return os.pathsep.join(filter(None, path))


class Workshop:
    """Gives a case its subjects and directories; all of them are ended and removed at its exit.

    Attributes:
        effort: how much is measured.
        directory: for files, on a disk.
        memory: for files, in shared memory, the best place for those of prometheus_client.
        versions: of the started peers.
    """

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self._stack = ExitStack()
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="shmstats-bench-")))
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.memory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="shmstats-bench-", dir=shared)))
        self._directories = 0
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def fresh(self, parent: Path | None = None) -> str:
        """Return a new directory, in ``directory`` or in another one."""
        self._directories += 1
        made = (parent or self.directory) / f"d{self._directories}"
        made.mkdir()
        return str(made)

    def ours(self, **environment: str) -> Subject:
        """Start a process with this package."""
        environment = {"SHMSTATS_PURE": "", "BENCH_NOTHING": nothing_directory(), **environment}
        return self._keep(Subject("ours", **environment))

    def block(self, directory: str = "", **section: Any) -> Subject:
        """Start a process that attaches a new block, or that of a directory; without values it has the defaults."""
        subject = self._keep(Subject("ours_shared", SHMSTATS_PURE=""))
        subject.do("configure", directory=directory or self.fresh(), **section)
        return subject

    def prometheus(self) -> Subject:
        """Start a process with prometheus_client in multiprocess mode."""
        return self._keep(Subject("prometheus", PROMETHEUS_MULTIPROC_DIR=self.fresh(self.memory)))

    def exporter(self) -> Subject:
        """Start a process with prometheus_flask_exporter in multiprocess mode."""
        return self._keep(Subject("exporter_flask", PROMETHEUS_MULTIPROC_DIR=self.fresh(self.memory)))

    def mpmetrics(self) -> Subject:
        """Start a process with mpmetrics, in its own environment."""
        python = os.environ.get("BENCH_MPMETRICS_PYTHON")
        if not python:
            raise NotAvailableError(
                os.environ.get("BENCH_MPMETRICS_WHY") or "no environment has it (scripts/bench makes one)"
            )
        return self._keep(Subject("mpmetrics", python, PROMETHEUS_MULTIPROC_DIR=self.fresh(self.memory)))

    def other(self, module: str) -> Subject:
        """Start a process of another peer."""
        return self._keep(Subject(module))

    def _keep(self, subject: Subject) -> Subject:
        self._stack.callback(subject.close)
        self.versions |= subject.versions
        return subject

    @contextmanager
    def scope(self) -> Iterator[Workshop]:
        """Return a workshop for a part of a case, which ends with the part."""
        with Workshop(self.effort) as part:
            yield part


class Effort:
    """How much is measured.

    Args:
        tiny: as little as possible, to check that everything runs; the figures mean nothing then.

    Attributes:
        rounds: repeats of each side of a loop of calls.
        seconds: of a side's turn.
    """

    def __init__(self, tiny: bool = False) -> None:
        self.tiny = tiny
        self.short = False
        self.rounds = 2 if tiny else 15
        self.seconds = 0.001 if tiny else 0.03

    def shorten(self) -> None:
        """Repeat less from now on, for rougher figures."""
        self.short = True
        self.rounds = min(self.rounds, 5)
        self.seconds = min(self.seconds, 0.01)

    def of(self, number: int, least: int = 10) -> int:
        """Return the number to use if a case asks for ``number``."""
        return max(min(number, least), number // 100) if self.tiny else number

    def repeats(self, number: int) -> int:
        """Return the number of repeats if a case asks for ``number``."""
        return min(number, 2 if self.tiny else 3 if self.short else number)


def find_program(name: str) -> str:
    """Return the path of a program.

    Raises:
        NotAvailableError: it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise NotAvailableError(os.environ.get(f"BENCH_{name.upper()}_WHY") or f"{name} is not installed")
    return path
