"""The work of a worker, repeated until its notes tell it to stop, or it is killed.

Each function of `WORKS` gets an attached package, the notes of its place, and a `random.Random`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, ModuleType
from typing import Any

from .ledger import STREAMS, Ledger, time_in_queue

OWN, SHARED, TIMING, DOWN, GAUGE, LABELLED = (2 * number for number in range(len(STREAMS)))

#: Prefix of names that are added and removed, with any values.
PASSING = "passing"

_SLOW = 20_000  # ns; a call that takes over a lock cannot be faster


class Counting:
    """The counting calls of one worker, each recorded before and after.

    Args:
        package: shmstats.
        ledger: the notes of all.
        place: of this worker.
    """

    def __init__(self, package: ModuleType, ledger: Ledger, place: int) -> None:
        self._package, self._ledger, self._place = package, ledger, place
        self.notes = ledger.notes(place)
        self._stats = package.stats
        self._own = self._stats.counter("own", f"worker {place}")
        self._labelled = self._stats.counter("labelled", "requests", labelnames=("worker",))
        self._stats.declare("live", f"worker {place}", kind="gauge", mode="livesum")
        self._taken_over = 0
        self._look: Callable[[], int] | None = None

    def attach(self) -> None:
        """Attach, and find the package's counter of taken-over locks."""
        block = self._stats.shared.attach()
        record = block.names.find(b"shmstats\0locks_taken_over")
        if record is not None:
            row, column = block.row_for(record), record.cell
            self._look = lambda: block.cells.load(row, column)
            self._taken_over = self._look()

    def forget(self) -> None:
        """Stop watching takeovers: the block is another one from now on."""
        self._look = None

    def turn(self) -> None:
        """Do each kind of operation once."""
        words, stats, place = self.notes.words, self._stats, self._place
        n = words[OWN] + 1
        start = time.monotonic_ns()
        words[OWN] = n
        if n % 2:
            self._own.incr()
        else:
            stats.incr("own", f"worker {place}")
        words[OWN + 1] = n
        n = words[SHARED] + 1
        words[SHARED] = n
        stats.incr("all", "together")
        words[SHARED + 1] = n
        n = words[TIMING] + 1
        words[TIMING] = n
        stats.timing("took", f"worker {place}", 3.0)
        words[TIMING + 1] = n
        n = words[DOWN] + 1
        words[DOWN] = n
        stats.decr("down", f"worker {place}")
        words[DOWN + 1] = n
        n = words[GAUGE] + 1
        words[GAUGE] = n
        stats.gauge("gauge", f"worker {place}", n if n % 2 else float(n))
        words[GAUGE + 1] = n
        n = words[LABELLED] + 1
        words[LABELLED] = n
        stats.gauge("live", f"worker {place}", n)
        self._labelled.labels(str(place)).incr()
        words[LABELLED + 1] = n
        if time.monotonic_ns() - start > _SLOW:
            self._note_wait(start)

    def _note_wait(self, start: int) -> None:
        """Record how long these calls took, if a lock was taken over in them."""
        if self._look is None:
            return
        taken_over = self._look()
        if taken_over != self._taken_over:
            killed_at = self._ledger.killed_at
            took = time.monotonic_ns() - max(start, killed_at)
            queued = time_in_queue(os.getpid()) - self.notes.queued
            self.notes.note_takeover(took, max(0, took - queued) if killed_at else 0)
            self._taken_over = taken_over

    def call(self, stream: str) -> None:
        """Do one operation of a stream."""
        word = 2 * STREAMS.index(stream)
        words, stats, name = self.notes.words, self._stats, f"worker {self._place}"
        n = words[word] + 1
        words[word] = n
        if stream == "own":
            stats.incr("own", name)
        elif stream == "shared":
            stats.incr("all", "together")
        elif stream == "timing":
            stats.timing("took", name, 3.0)
        elif stream == "down":
            stats.decr("down", name)
        elif stream == "gauge":
            stats.gauge("gauge", name, n if n % 2 else float(n))
        else:
            self._labelled.labels(str(self._place)).incr()
        words[word + 1] = n


def count(package: ModuleType, counting: Counting, chance: random.Random) -> None:
    """Count, as fast as possible."""
    turn, notes = counting.turn, counting.notes
    while not notes.stopping:
        turn()


def change(package: ModuleType, counting: Counting, chance: random.Random) -> None:
    """Register, remove and reset names, and count in between."""
    stats, notes = package.stats, counting.notes
    while not notes.stopping:
        name = f"{'n' * chance.choice((1, 20, 40))} {chance.randrange(12)}"
        with suppress(ValueError):  # the name is of another kind just now
            action = chance.randrange(6)
            if action == 0:
                stats.incr(PASSING, name)
            elif action == 1:
                stats.gauge(PASSING, name, 1.5)
            elif action == 2:
                stats.timing(PASSING, name, 7)
            elif action == 3:
                stats.remove(PASSING, name)
            elif action == 4:
                stats.decr(PASSING, name)
            else:
                stats.reset(PASSING)
        counting.turn()


def come_and_go(package: ModuleType, counting: Counting, chance: random.Random) -> None:
    """Leave and attach again, all the time: the last one saves and unlinks, the next one restores."""
    counting.forget()
    while not counting.notes.stopping:
        for _ in range(chance.randrange(1, 5)):
            counting.turn()
        package.close()


def fork(package: ModuleType, counting: Counting, chance: random.Random) -> None:
    """Let children count, one at a time, and end in any way after a flush."""
    buffered = not package.stats.settings.stats.no_buffer
    while not counting.notes.stopping:
        counting.turn()
        pid = os.fork()
        if pid == 0:
            counting.forget()
            counting.turn()
            if buffered or chance.randrange(2):
                package.close()
            os._exit(0)
        os.waitpid(pid, 0)


def nothing(package: ModuleType, counting: Counting, chance: random.Random) -> None:
    """Stay attached, and do nothing."""
    counting.turn()
    while not counting.notes.stopping:
        time.sleep(0.005)


def stop_inside(
    package: ModuleType, counting: Counting, chance: random.Random, stream: str = "", number: int = -1
) -> None:
    """Stop at a step inside the critical sections; if it is continued, the worker counts on.

    Args:
        package: shmstats.
        counting: the calls.
        chance: makes the choices that are left open.
        stream: the operation to stop in; any.
        number: of the step; any.
    """
    for each in STREAMS:
        counting.call(each)
    if number < 0:
        number = chance.randrange(8 if package.core.CORE == "C" else 40)
    stop_at_step(number)
    counting.call(stream or chance.choice([*STREAMS, "shared", "shared", "shared"]))
    stop_at_step(-1)
    count(package, counting, chance)


def stop_at_step(number: int) -> None:
    """Make this process stop itself at the step with this number, 0 for the next one, -1 for never.

    In C a step is a stop point, which only a debug build has. In Python it is a line of the core.
    """
    from shmstats import core as cells

    if cells.CORE == "C":
        from shmstats.core import _cells

        _cells.stop_at(number)  # type: ignore[attr-defined]
    else:
        do_at_line(number, ("/_cells_py.py",), lambda: os.kill(os.getpid(), signal.SIGSTOP))


def do_at_line(
    number: int, files: tuple[str, ...], action: Callable[[], object], often: int = sys.maxsize
) -> Callable[[], int]:
    """Call a function before the n-th of the following lines in files whose names have such ends.

    Args:
        number: of the line, from 0; a negative one turns this off.
        files: the ends of their names.
        action: to call.
        often: how often a line counts that the same calls lead to: a loop is tried no more often than that.

    Returns:
        A function that returns the number of lines so far.
    """
    left = number
    seen: Counter[tuple[int, ...]] = Counter()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        return trace_lines if frame.f_code.co_filename.endswith(files) else None

    def trace_lines(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if event == "line" and is_new(frame):
            if left == 0:
                sys.settrace(None)
                action()
            left -= 1
        return trace_lines

    def is_new(frame: FrameType) -> bool:
        way: list[int] = []
        caller: FrameType | None = frame
        while caller is not None:
            way += id(caller.f_code), caller.f_lasti
            caller = caller.f_back
        seen[tuple(way)] += 1
        return seen[tuple(way)] <= often

    sys.settrace(trace if number >= 0 else None)
    return lambda: number - left


WORKS: dict[str, Callable[..., None]] = {
    "count": count,
    "change": change,
    "come and go": come_and_go,
    "fork": fork,
    "nothing": nothing,
    "stop inside": stop_inside,
}


def do(
    package: ModuleType, ledger: Ledger, config: dict[str, Any], work: str, place: int, seed: int, **more: Any
) -> None:
    """Attach, do a work to its end, and leave."""
    package.init(config)
    counting = Counting(package, ledger, place)
    counting.attach()
    WORKS[work](package, counting, random.Random(seed), **more)
    package.close()
