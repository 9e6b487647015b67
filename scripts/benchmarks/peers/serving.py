"""The common part of all sides: doing requests, timing loops, forking workers.

A *loop* is a pair of functions of a number of calls: one that makes them, and the same without the call. It is
made on first use.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

#: Names that are counted in turn: (category, metric).
NAMES = [(f"category{number // 100}", f"metric{number % 100}") for number in range(1000)]

#: Durations that are observed in turn, in ms: one in each of some buckets, short ones more often.
DURATIONS = [0.3, 0.8, 1.5, 3.0, 4.0, 8.0, 12.5, 40.0, 90.0, 700.0]

CallLoop = Callable[[int], None]
LoopMaker = Callable[[], tuple[CallLoop, CallLoop]]


def names(number: int) -> list[tuple[str, str]]:
    """Return this many different names, a hundred metrics in each category."""
    return [(f"category{each // 100}", f"metric{each % 100}") for each in range(number)]


def label_sets(series: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield this many series with three labels, as metric and labels: a thousand for each metric."""
    for number in range(series):
        metric, place = divmod(number, 1000)
        route = f"/items/<int:item{place // 5}>/view"
        yield f"metric{metric}", {"method": "GET", "route": route, "status": str(200 + place % 5)}


def route_durations(number: int) -> list[float]:
    """Return the durations of a route, by its number, in ms."""
    return [0.3 * (place + number % 7) ** 2 for place in range(20)]


def empty(calls: int) -> None:
    """The loop without a call."""
    for _ in range(calls):
        pass


def empty_names(calls: int) -> None:
    """The loop over names without a call."""
    for _ in range(calls // len(NAMES)):
        for _category, _metric in NAMES:
            pass


def empty_durations(calls: int) -> None:
    """The loop over durations without a call."""
    for _ in range(calls // len(DURATIONS)):
        for _duration in DURATIONS:
            pass


class Loops:
    """The loops of a side.

    Args:
        makers: of each loop, by name.
    """

    def __init__(self, makers: dict[str, LoopMaker]) -> None:
        self._makers = makers
        self._made: dict[str, tuple[CallLoop, CallLoop]] = {}

    def get(self, name: str) -> tuple[CallLoop, CallLoop]:
        """Return a loop, and the same without the call."""
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def time_loop(self, name: str, calls: int, slices: int = 1) -> tuple[float, float]:
        """Return the least ns of an iteration, and of one without the call, over several slices of this many calls.

        Slices are short, so that some of them see neither another process nor a busy neighbour of the machine.
        """
        loop, without = self.get(name)
        times = [(_time(loop, calls), _time(without, calls)) for _ in range(slices)]
        return min(taken for taken, _ in times), min(empty for _, empty in times)

    def time_together(self, name: str, calls: int, processes: int) -> list[tuple[float, float]]:
        """Make several processes run a loop at the same time, this many calls each.

        Returns:
            ns from the first start to the last end and ns of processor time of all, for the loop and for the same
            without the call.
        """
        return [_together(each, calls, processes) for each in self.get(name)]

    @property
    def operations(self) -> dict[str, Callable[..., Any]]:
        """The operations of every side."""
        return {"time_loop": self.time_loop, "time_together": self.time_together}


def _time(loop: CallLoop, calls: int) -> float:
    start = time.perf_counter_ns()
    loop(calls)
    return (time.perf_counter_ns() - start) / calls


def _together(loop: CallLoop, calls: int, processes: int) -> tuple[float, float]:
    workers = [Worker(lambda worker: _run_when_told(worker, loop, calls)) for _ in range(processes)]
    for worker in workers:
        worker.hear()  # warmed up
    for worker in workers:
        worker.tell()
    told = [tuple(map(int, worker.hear().split())) for worker in workers]
    for worker in workers:
        worker.finish()
    starts, ends, spent = zip(*told, strict=True)
    return float(max(ends) - min(starts)), float(sum(spent))


def _run_when_told(worker: Worker, loop: CallLoop, calls: int) -> None:
    loop(2000)
    worker.say("warm")
    worker.wait()
    before, start = time.process_time_ns(), time.monotonic_ns()
    loop(calls)
    end = time.monotonic_ns()
    worker.say(f"{start} {end} {time.process_time_ns() - before}")


class Worker:
    """A forked process that exchanges lines with this one.

    Args:
        work: its function, called with this object; the process ends when it returns, like one of multiprocessing.
        leave: called at a normal end.
    """

    def __init__(self, work: Callable[[Worker], None], leave: Callable[[], None] = lambda: None) -> None:
        from_parent, to_child = os.pipe()
        from_child, to_parent = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(from_parent)
            os.close(to_parent)
            self._reader, self._writer = os.fdopen(from_child, "rb"), os.fdopen(to_child, "wb")
            _workers.add(self)
            return
        status = 1
        try:
            os.close(to_child)
            os.close(from_child)
            # A pipe has no end while siblings hold it open.
            for other in _workers:
                other.close()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            self._reader, self._writer = os.fdopen(from_parent, "rb"), os.fdopen(to_parent, "wb")
            work(self)
            leave()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def say(self, line: str = "") -> None:
        """Write a line to the other side."""
        self._writer.write(line.encode() + b"\n")
        self._writer.flush()

    tell = say

    def hear(self) -> str:
        """Return the other side's next line.

        Raises:
            RuntimeError: there is none.
        """
        line = self._reader.readline()
        if not line:
            raise RuntimeError(f"worker {self.pid} ended too early")
        return line.decode().rstrip("\n")

    wait = hear

    def lines(self) -> Iterator[str]:
        """Yield the other side's lines until it closes."""
        while line := self._reader.readline():
            yield line.decode().rstrip("\n")

    def finish(self) -> None:
        """Make the worker end in an orderly way, and wait until it has."""
        self._writer.close()
        _, status = os.waitpid(self.pid, 0)
        self._gone()
        if status:
            raise RuntimeError(f"worker {self.pid} ended with status {status}")

    def kill(self) -> None:
        """Kill -9 the worker, and wait for its end."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._gone()

    def close(self) -> None:
        """Close both pipes."""
        self._writer.close()
        self._reader.close()

    def _gone(self) -> None:
        self.close()
        _workers.discard(self)


#: The workers of this process that have not ended.
_workers: set[Worker] = set()


class Population:
    """Worker processes that have counted, and stay.

    Args:
        count: counts each of some names once.
        leave: called by a worker at a normal end.
    """

    def __init__(
        self, count: Callable[[list[tuple[str, str]]], object], leave: Callable[[], None] = lambda: None
    ) -> None:
        self._count = count
        self._leave = leave
        self._workers: list[Worker] = []

    def add(self, workers: int, first: int, series: int) -> None:
        """Start workers that count ``series`` names from number ``first`` on, once each.

        The first of them registers the new names before the others begin.
        """
        new: list[Worker] = []
        for _ in range(workers):
            worker = Worker(self._work, self._leave)
            worker.tell(f"{first} {series}")
            if not new:
                worker.hear()
            new.append(worker)
        for worker in new[1:]:
            worker.hear()
        self._workers += new

    def count_again(self, series: int) -> None:
        """Make the first worker count the first names again, so that every value changes."""
        self._workers[0].tell(f"0 {series}")
        self._workers[0].hear()

    def replace(self, number: int, series: int, of: int) -> None:
        """Replace this many workers: one after another ends, every second one by kill -9, and one starts.

        New workers count ``series`` of the first ``of`` names, each other ones.
        """
        size = len(self._workers)
        for wave in range(-(-number // size)):
            for i, worker in enumerate(self._workers):
                if i % 2:
                    worker.kill()
                else:
                    worker.finish()
            self._workers = []
            self.add(size, wave * series % of, series)

    def finish(self) -> None:
        """Make all workers end."""
        for worker in self._workers:
            worker.finish()
        self._workers = []

    def _work(self, worker: Worker) -> None:
        for line in worker.lines():
            first, series = map(int, line.split())
            self._count(names(first + series)[first:])
            worker.say("done")


def files_size(directory: str, prefix: str = "") -> int:
    """Return the bytes of memory or disk behind the files of a directory."""
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(directory) if entry.name.startswith(prefix))


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages, and of Python."""
    found = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def serve(prepare: Callable[[], tuple[dict[str, str], dict[str, Callable[..., Any]]]]) -> None:
    """Do the requests on the standard input, and answer on the standard output.

    Args:
        prepare: imports the peer; returns versions, and the operations by name.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output must not be taken for an answer

    def answer(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    try:
        versions, operations = prepare()
    except ImportError as error:
        answer({"error": f"{error}"})
        return
    answer({"done": versions})
    for line in _lines():
        request = json.loads(line)
        try:
            done = operations[request["operation"]](**request["arguments"])
        except Exception as error:
            traceback.print_exc()
            answer({"error": f"{type(error).__name__}: {error}"})
        else:
            answer({"done": done})


def _lines() -> Iterable[bytes]:
    """Read without a buffer: a forked child must not find unread lines in one."""
    pending = b""
    while piece := os.read(0, 1 << 16):
        *lines, pending = (pending + piece).split(b"\n")
        yield from lines


def environ(path: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the WSGI environment of a request of a client on this machine."""
    from werkzeug.test import EnvironBuilder

    return EnvironBuilder(path, base_url="http://127.0.0.1/", headers=headers).get_environ()
