"""A site: the directory and the processes of one experiment, and workers that do one step after the other."""

from __future__ import annotations

import json
import os
import select
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Seconds that a worker, and a whole experiment, may take.
BOUND = 60.0

Step = Callable[[], Any]


class Worker:
    """A forked process that takes its steps on request, and stays until it is ended.

    Args:
        steps: functions without arguments; their results must be JSON.
        leave: called at a normal end.
    """

    def __init__(self, steps: tuple[Step, ...], leave: Step) -> None:
        hears, self._tell = os.pipe()
        self._hear, says = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._tell)
            os.close(self._hear)
            _take(steps, leave, hears, says)
        os.close(hears)
        os.close(says)

    def begin(self) -> None:
        """Request its next step, without waiting."""
        os.write(self._tell, b"s")

    def result(self) -> Any:
        """Return the result of that step."""
        said = b""
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([self._hear], [], [], BOUND)
            piece = os.read(self._hear, 65536) if ready else b""
            if not piece:
                raise RuntimeError(f"worker {self.pid} says {said!r} and no more")
            said += piece
        return json.loads(said)

    def step(self) -> Any:
        """Request its next step; return the result."""
        self.begin()
        return self.result()

    def end(self) -> None:
        """End it in an orderly way."""
        os.write(self._tell, b"e")
        self._wait()

    def kill(self) -> None:
        """End it by SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        self._wait()

    def _wait(self) -> None:
        os.waitpid(self.pid, 0)
        os.close(self._tell)
        os.close(self._hear)
        self.pid = 0


def _take(steps: tuple[Step, ...], leave: Step, hears: int, says: int) -> None:
    """Run as the worker."""
    try:
        remaining = list(steps)
        while os.read(hears, 1) == b"s":
            answer = json.dumps(remaining.pop(0)()).encode() + b"\n"
            while answer:
                answer = answer[os.write(says, answer) :]
        leave()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Site:
    """The environment of one experiment.

    Attributes:
        library: how the library is used; see `libraries`.
        directory: of this site alone; the current one.
    """

    def __init__(self, library: Any, directory: Path) -> None:
        self.library = library
        self.directory = directory
        self._workers: list[Worker] = []
        directory.mkdir()
        os.chdir(directory)
        library.prepare(directory)

    def worker(self, *steps: Step) -> Worker:
        """Fork a worker."""
        worker = Worker(steps, self.library.leave)
        self._workers.append(worker)
        return worker

    def workers(self, number: int, *steps: Step) -> list[Worker]:
        """Fork several with the same steps."""
        return [self.worker(*steps) for _ in range(number)]

    def run(self, *steps: Step) -> Any:
        """Start a worker that takes these steps and ends; return the result of the last one."""
        worker = self.worker(*steps)
        result = None
        for _ in steps:
            result = worker.step()
        worker.end()
        return result

    def close(self) -> None:
        """End the remaining workers, in an orderly way."""
        for worker in self._workers:
            if worker.pid:
                worker.end()
        self.library.leave()
        self.library.check_nothing_left(self.directory)


def examine(library: Any, feature: Callable[[Site], str], directory: Path) -> str:
    """Run an experiment in a separate process; return its result or its error."""
    hear, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hear)
        os.setpgid(0, 0)
        os.write(says, _found(library, feature, directory).encode())
        os._exit(0)
    os.close(says)
    found = b""
    while True:
        ready, _, _ = select.select([hear], [], [], BOUND)
        piece = os.read(hear, 65536) if ready else b""
        if not piece:
            break
        found += piece
    os.close(hear)
    with suppress(OSError):  # it has ended already
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return found.decode() or f"broke: no answer within {BOUND} s"


def _found(library: Any, feature: Callable[[Site], str], directory: Path) -> str:
    try:
        site = Site(library, directory)
        try:
            return feature(site)
        finally:
            site.close()
    except BaseException:
        return "broke: " + traceback.format_exc()
