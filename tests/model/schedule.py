"""Runs real threads of one process one at a time, by a plan that says at which line to switch to another one.

The code is the package's own, except that its locks and background threads come from this module. A thread is
switched at the planned lines of the given files, when it waits for a lock, and when it releases one that another
thread waits for. The same plan makes the same run.
"""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

#: Seconds after which a run fails because none of its threads continues: they wait for something outside it.
_BOUND = 20.0

#: The thread that continues, by the number of the switched thread and the lines that it has run.
Plan = Mapping[tuple[int, int], int]

Program = Callable[[], object]


class BrokenOffError(BaseException):
    """Ends the threads of a run that cannot continue."""


class _Actor:
    """A thread of a run."""

    def __init__(self, number: int, program: Program) -> None:
        self.number, self.program = number, program
        self.lines = 0
        self.turn = threading.Lock()
        self.turn.acquire()
        self.awaited: Lock | None = None
        self.ended = False

    @property
    def can_go_on(self) -> bool:
        return not self.ended and (self.awaited is None or self.awaited.owner is None)


class Schedule:
    """A run of some programs, each in a separate thread; the first one begins.

    Args:
        programs: of the threads.
        plan: the points at which to switch threads.
        files: whose lines count.

    Attributes:
        lines: that each thread has done.
    """

    def __init__(self, programs: Sequence[Program], plan: Plan, files: frozenset[str]) -> None:
        self._actors = [_Actor(number, program) for number, program in enumerate(programs)]
        self._plan, self._files = plan, files
        self._mine = threading.local()
        self._over = threading.Event()
        self._wrong: str = ""
        self.lines: list[int] = []

    def run(self, first: int = 0) -> None:
        """Run all threads to their end.

        Raises:
            AssertionError: one has raised, or none can continue.
        """
        threads = [threading.Thread(target=self._act, args=(actor,), daemon=True) for actor in self._actors]
        Lock.schedule = self
        gc.disable()  # finalizers would run at other lines each time
        try:
            for thread in threads:
                thread.start()
            self._actors[first].turn.release()
            if not self._over.wait(_BOUND):
                stacks = sys._current_frames()
                stood = [traceback.format_stack(stacks[thread.ident]) for thread in threads if thread.ident in stacks]
                raise AssertionError("\n".join(["no thread continues:", *("".join(stack) for stack in stood)]))
            for thread in threads:
                thread.join(_BOUND)
        finally:
            gc.enable()
            Lock.schedule = None
        self.lines = [actor.lines for actor in self._actors]
        assert not self._wrong, self._wrong

    def wait(self, lock: Lock) -> None:
        """Run other threads until a lock is free."""
        actor: _Actor = self._mine.actor
        actor.awaited = lock
        others = [other for other in self._actors if other is not actor and other.can_go_on]
        if others:
            self._switch(actor, others[0])
        else:
            self._break_off("each thread waits for another")
            raise BrokenOffError
        actor.awaited = None

    def offer(self, lock: Lock) -> None:
        """Continue at once with a thread that waited for a lock that is free now."""
        actor: _Actor = self._mine.actor
        for other in self._actors:
            if other.awaited is lock and not other.ended:
                self._switch(actor, other)
                return

    def _act(self, actor: _Actor) -> None:
        self._mine.actor = actor
        actor.turn.acquire()
        try:
            if not self._wrong:
                sys.settrace(self._trace)
                actor.program()
        except BrokenOffError:
            pass
        except BaseException:
            self._break_off(f"thread {actor.number} raises: {traceback.format_exc()}")
        finally:
            sys.settrace(None)
            actor.ended = True
            self._end()

    def _end(self) -> None:
        left = [actor for actor in self._actors if not actor.ended]
        ready = left if self._wrong else [actor for actor in left if actor.can_go_on]
        if ready:
            ready[0].turn.release()
        elif left:
            self._break_off("the remaining threads wait for a lock of a thread that has ended")
            left[0].turn.release()
        else:
            self._over.set()

    def _break_off(self, why: str) -> None:
        self._wrong = self._wrong or why

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            actor: _Actor = self._mine.actor
            actor.lines += 1
            chosen = self._plan.get((actor.number, actor.lines))
            if chosen is not None and self._actors[chosen].can_go_on:
                self._switch(actor, self._actors[chosen])
        return self._line

    def _switch(self, actor: _Actor, other: _Actor) -> None:
        other.turn.release()
        actor.turn.acquire()
        if self._wrong:
            raise BrokenOffError


class Lock:
    """Stands for a reentrant lock of the package; outside of a run no thread waits for it."""

    schedule: Schedule | None = None

    def __init__(self) -> None:
        self.owner: int | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = threading.get_ident()
        while self.owner not in (None, me):
            if not blocking:
                return False
            assert self.schedule is not None, "a lock was left taken"
            self.schedule.wait(self)
        self.owner = me
        self._count += 1
        return True

    def release(self) -> None:
        if self.owner != threading.get_ident():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if self._count == 0:
            self.owner = None
            if self.schedule is not None:
                self.schedule.offer(self)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self.owner == threading.get_ident()

    def _release_save(self) -> tuple[int]:
        count, self._count = self._count, 1
        self.release()
        return (count,)

    def _acquire_restore(self, state: tuple[int]) -> None:
        self.acquire()
        (self._count,) = state


class Thread:
    """Stands for a background thread of the package: it waits until it is told to end.

    Args:
        work: its function, which ends at once when it is told to.
        name: of the thread.

    Attributes:
        living: all that were begun and have not ended.
    """

    living: set[Thread] = set()  # noqa: RUF012 - of all of them

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._work = work
        self.name = name

    def start(self) -> None:
        self.living.add(self)

    def join(self, seconds: float) -> bool:
        if self in self.living:
            self.living.discard(self)
            self._work()
        return True

    @property
    def lives(self) -> bool:
        return self in self.living


#: Runs a schedule, given by the first thread and the plan.
Run = Callable[[int, Plan], Schedule]


def switched_once(run: Run, step: int = 1) -> int:
    """Run the schedules of two threads in which the first is switched at one line; return their number.

    Args:
        run: runs one.
        step: from one such line to the next.
    """
    done = 0
    for first in (0, 1):
        line = 1
        while True:
            schedule = run(first, {(first, line): 1 - first})
            done += 1
            if schedule.lines[first] < line:
                break
            line += step
    return done


def switched_twice(run: Run, places: Iterable[tuple[float, float]]) -> None:
    """Run schedules in which each of two threads is switched once, at a line.

    Args:
        run: runs one.
        places: of the lines, as shares of all that either thread does.
    """
    lines = [max(run(first, {}).lines[thread] for first in (0, 1)) for thread in (0, 1)]
    for number, shares in enumerate(places):
        at = [1 + int(share * count) for share, count in zip(shares, lines, strict=True)]
        run(number % 2, {(0, at[0]): 1, (1, at[1]): 0})
