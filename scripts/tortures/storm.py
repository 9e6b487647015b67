"""Random faults against a group of workers that count, and the tally of their effects.

Each worker has a place: a page of the ledger and statistics of its own. Whenever a worker dies its own
statistics are judged at once, because no other worker counts into them, and its successor continues
from its counts. The statistics that all workers share are judged whenever none of them lives.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import judge
from .ledger import STREAMS, Ledger, time_in_queue
from .nursery import BOUND, HangError, Nursery, Worker

#: Statistics that buffered mode holds back.
HELD = ("own", "timing", "down", "labelled")


@dataclass
class Tally:
    """The faults of storms, and their effects.

    Attributes:
        faults: number of faults of each kind.
        killed: number of killed processes.
        operations: number of operations that workers began.
        uncertain: operations that were in progress when their worker was killed.
        unanswered: requests to servers, each of which was counted once or not at all.
        held: operations lost from the buffers of killed workers, which is allowed.
        lost: operations that were done and are missing.
        doubled: operations that are counted and were never begun.
        takeovers: operations that had to take over the lock of a dead process.
        longest: the longest of these, in seconds.
        awake: the longest after a kill inside, without the time spent waiting for a processor.
        problems: everything else that is wrong.
    """

    faults: Counter[str] = field(default_factory=Counter)
    killed: int = 0
    operations: int = 0
    uncertain: int = 0
    unanswered: int = 0
    held: int = 0
    lost: int = 0
    doubled: int = 0
    takeovers: int = 0
    longest: float = 0.0
    awake: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.problems)


class Storm:
    """Workers of one data directory, and faults against them; a context manager that leaves nothing behind.

    Args:
        nursery: forks the workers.
        directory: for all files; it is made if it is missing.
        chance: every choice comes from it.
        tally: to add to.
        works: what workers do: each does one of these.
        workers: their number.
        stats: the section ``stats`` of their configuration.
        steps: forks workers that can stop at a step inside the critical sections.
    """

    def __init__(
        self,
        nursery: Nursery,
        directory: Path,
        chance: random.Random,
        tally: Tally,
        works: Sequence[str] = ("count",),
        workers: int = 4,
        stats: Mapping[str, Any] | None = None,
        steps: Nursery | None = None,
    ) -> None:
        self.nursery, self.steps = nursery, steps
        self.chance, self.tally = chance, tally
        self.works = works
        directory.mkdir(parents=True, exist_ok=True)
        self.data = directory / "data"
        self.stats = {"capacity": 8192, "max_workers": 3, "snapshot_interval_ms": 100, **(stats or {})}
        self.ledger = Ledger(directory / "ledger", workers)
        self.running: dict[int, Worker] = {}
        self._base = self._doubt = self._shared_lost = self._highest = 0
        self._settled: dict[tuple[int, str], int] = {}

    # What can be done ---------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Start a worker in every place."""
        for place in range(self.ledger.places):
            if place not in self.running:
                self.start(place)

    def start(self, place: int, work: str = "", nursery: Nursery | None = None, **more: Any) -> Worker:
        """Start a worker in a place."""
        self.ledger.notes(place).stopping = 0
        worker = self.running[place] = (nursery or self.nursery).start(
            work or self.chance.choice(self.works),
            self.data,
            self.stats,
            ledger=str(self.ledger.file),
            places=self.ledger.places,
            place=place,
            seed=self.chance.randrange(2**32),
            **more,
        )
        return worker

    def keep_inside(self, place: int, **at: Any) -> Worker:
        """Start a worker that stops at a step inside; returns it when it has stopped, or passed all steps.

        Args:
            place: of the worker.
            at: ``stream`` and ``number`` of the step, if not any step will do.
        """
        goal = self.ledger.notes(place).before("own") + 4
        worker = self.start(place, "stop inside", self.steps, **at)
        end = time.monotonic() + BOUND
        while worker.state != "T" and self.ledger.notes(place).before("own") < goal:
            if worker.status is not None or time.monotonic() > end:
                raise HangError(f"worker {worker.pid} does not reach a step; its status is {worker.status}")
            time.sleep(0.0002)
        return worker

    def let_count(self, place: int, operations: int, bound: float = 0.02) -> None:
        """Wait until a worker has begun some more operations, for a short time: it may have to wait for another."""
        notes = self.ledger.notes(place)
        goal, end = notes.before("own") + operations, time.monotonic() + bound
        while notes.before("own") < goal and time.monotonic() < end:
            time.sleep(0.0002)

    def start_idle(self, place: int) -> None:
        """Start a worker that counts everything once and stays attached; wait until it has."""
        goal = self.ledger.notes(place).after(STREAMS[-1]) + 1
        worker, end = self.start(place, "nothing"), time.monotonic() + BOUND
        while self.ledger.notes(place).after(STREAMS[-1]) < goal:
            if worker.status is not None or time.monotonic() > end:
                raise HangError(f"worker {worker.pid} does not begin to count; its status is {worker.status}")
            time.sleep(0.0002)

    def leave_one(self, place: int) -> None:
        """Make the worker of a place leave, and judge it."""
        self._leave(place)
        self.settle(place)

    def end(self, place: int) -> list[judge.Verdict]:
        """Kill the worker of a place, and judge it; returns the verdicts."""
        self.running.pop(place).kill()
        self.tally.killed += 1
        return self.settle(place)

    def end_and_wait_for_others(self, place: int) -> None:
        """Kill a worker that is held inside, wait until all others continue, and judge it."""
        others = self._counts_of_others(place)
        for other in others:
            self.ledger.notes(other).queued = time_in_queue(self.running[other].pid)
        self.ledger.killed_at = time.monotonic_ns()
        self.running[place].signal(signal.SIGKILL)
        self._wait_for_all(others)
        self.end(place)
        self.ledger.killed_at = 0

    def kill(self) -> None:
        """Kill one at a random moment, and start another."""
        place = self._anyone()
        self.let_count(place, self.chance.randrange(200))
        _spin(self.chance.random() * 0.0003)
        self.end(place)
        self.start(place)

    def kill_all(self) -> None:
        """Kill all at once, and start others."""
        self.let_count(self._anyone(), self.chance.randrange(200))
        for worker in self.running.values():
            worker.signal(signal.SIGKILL)
        for worker in self.running.values():
            worker.wait()
        self.tally.killed += len(self.running)
        self.settle_all()
        self._look_at_structure()
        self.fill()

    def stop_and_continue(self) -> None:
        """Stop one for a while at any point, even while it holds a lock."""
        place = self._anyone()
        _spin(self.chance.random() * 0.0003)
        worker = self.running[place]
        worker.signal(signal.SIGSTOP)
        if worker.wait_for_state("TZ") == "Z":
            raise HangError(f"worker {worker.pid} is gone; its status is {worker.status}")
        self.let_count(self._anyone(), 20)
        worker.signal(signal.SIGCONT)

    def kill_inside(self) -> None:
        """Hold one inside a critical section, then kill it there, and measure how long the others wait."""
        place, worker = self._stop_inside()
        if worker.state == "T":
            self.end_and_wait_for_others(place)
        else:
            self.end(place)
        self.start(place)

    def continue_inside(self) -> None:
        """Hold one inside a critical section, and let it continue."""
        place, worker = self._stop_inside()
        worker.signal(signal.SIGCONT)
        self.let_count(place, 1)

    def leave(self) -> None:
        """Make one leave, and start another."""
        place = self._anyone()
        self.leave_one(place)
        self.start(place)

    def leave_all(self) -> None:
        """Make all leave: the last one saves and unlinks the block. Then start others."""
        self._all_leave()
        self.fill()

    def damage_snapshot(self) -> None:
        """Make all leave, and damage the last saved snapshot: the previous one is used."""
        self._all_leave()
        saved = self.data / "stats" / "simple.json"
        if not saved.is_file():
            there = sorted(file.name for file in self.data.rglob("*"))
            self.tally.problems.append(f"the last one to leave saved nothing: in the data directory are {there}")
            return
        before = self._expected()
        shutil.copyfile(saved, saved.with_name("simple.json.1"))
        damage_file(saved, self.chance)
        self.start_idle(0)
        self._leave(0)
        now = self._expected()
        wrong = [key for key, value in before.items() if key[0] != "gauge" and now.get(key, 0) < value]
        if wrong:
            self.tally.problems.append(f"after damage of the snapshot these are smaller than before: {wrong}")
        self.settle(0)
        for aside in saved.parent.glob("simple.json.damaged-*"):
            aside.unlink()
        self.fill()

    def obstruct_saving(self) -> None:
        """Put a file in the place of the snapshots' directory for a while: counting continues, nothing is lost."""
        place = self._anyone()
        self.leave_one(place)
        self.start_idle(place)  # so that the block always has a worker
        stats = self.data / "stats"
        stats.parent.mkdir(exist_ok=True)
        shutil.rmtree(stats, ignore_errors=True)
        with suppress(FileExistsError, IsADirectoryError):
            stats.write_text("in the way\n")
        self.let_count(self._anyone(), 50)
        with suppress(FileNotFoundError, IsADirectoryError):
            stats.unlink()
        self.leave_one(place)
        self.start(place)

    def fill_memory(self) -> None:
        """Fill /dev/shm for a while: registered names are counted on, and no process dies.

        Only if /dev/shm is the torture's own.
        """
        self._wait_for_all({place: self.ledger.notes(place).before("own") for place in self.running})
        with ballast(self.chance.choice((0, 4096, 20000, 65536))):
            for _ in range(2):
                code = "for number in range(400): stats.incr('full', f'{number}')\nshmstats.close()"
                status = self.nursery.run(code, self.data, self.stats).wait()
                if status != 0:
                    self.tally.problems.append(f"a worker that found /dev/shm full ended with status {status}")
            self.let_count(self._anyone(), 100)
        self.nursery.run("stats.remove('full')\nshmstats.close()", self.data, self.stats).wait()

    def read(self) -> None:
        """Read all values: no sum ever becomes less."""
        self._check_rising(judge.counted(judge.values(self.data), "shared", 0))

    def finish(self) -> None:
        """Make all leave, and judge everything."""
        self._all_leave()

    # How they are done ------------------------------------------------------------------------------------------

    def run(self, faults: Mapping[str, int], until: Callable[[], bool]) -> None:
        """Cause random faults, by their weights, until a condition holds; and judge.

        Args:
            faults: names of methods, with blanks for underscores, and their weights.
            until: checked after each of them.
        """
        self.fill()
        names, weights = list(faults), list(faults.values())
        while not until() and self.tally.clean:
            fault = self.chance.choices(names, weights)[0]
            getattr(self, fault)()
            self.tally.faults[fault.replace("_", " ")] += 1
        self.finish()

    @property
    def buffered(self) -> bool:
        """Whether workers hold operations back."""
        return not self.stats.get("no_buffer", True)

    def _anyone(self) -> int:
        return self.chance.choice(sorted(self.running))

    def _stop_inside(self) -> tuple[int, Worker]:
        """Replace one by a worker that stops inside; returns it when it has stopped, or passed all steps."""
        place = self._anyone()
        self.leave_one(place)
        worker = self.keep_inside(place)
        self.let_count(self._anyone(), 10)
        return place, worker

    def _counts_of_others(self, place: int) -> dict[int, int]:
        return {other: self.ledger.notes(other).before("own") for other in self.running if other != place}

    def _wait_for_all(self, counts: dict[int, int]) -> None:
        """Wait until each of some workers has done at least a whole turn since these counts."""
        end = time.monotonic() + BOUND
        while any(self.ledger.notes(other).before("own") < count + 2 for other, count in counts.items()):
            if time.monotonic() > end:
                raise HangError(f"not all of the workers {sorted(counts)} go on")
            time.sleep(0.0002)

    def _leave(self, place: int) -> None:
        self.ledger.notes(place).stopping = 1
        status = self.running.pop(place).wait()
        if status != 0:
            self.tally.problems.append(f"a leaving worker ended with status {status}")

    def _all_leave(self) -> None:
        for place in list(self.running):
            self.ledger.notes(place).stopping = 1
        for place in list(self.running):
            self._leave(place)
        self.settle_all()

    def _expected(self) -> judge.Values:
        counters = ("own", "all", "down", "labelled")
        return {key: abs(value) for key, value in judge.values(self.data).items() if key[0] in counters}

    def settle(self, place: int, found: judge.Values | None = None) -> list[judge.Verdict]:
        """Judge a worker that has ended, and let its place continue from its counts."""
        notes = self.ledger.notes(place)
        if found is None:
            found = judge.values(self.data)
        held = self.stats.get("buffer_size", 1000) if self.buffered else 0
        verdicts = list(judge.verdicts(found, notes, place))
        for verdict in verdicts:
            allowed = min(held, verdict.lost) if verdict.stream in HELD else 0
            held -= allowed
            self.tally.held += allowed
            lost = verdict.lost - allowed
            if lost or verdict.doubled:
                self.tally.problems.append(str(verdict))
            self.tally.lost += lost
            self.tally.doubled += verdict.doubled
            self.tally.uncertain += verdict.before - verdict.after
            self.tally.operations += verdict.before - self._settled.get((place, verdict.stream), 0)
            self._settled[place, verdict.stream] = verdict.counted
            notes.settle(verdict.stream, verdict.counted)
        if found.get(("live", f"worker {place}"), 0) != 0:
            self.tally.problems.append(f"a live gauge of worker {place}of a dead worker still exists")
        self._doubt += notes.before("shared") - notes.after("shared")
        if self.buffered:
            self._shared_lost += self.stats.get("buffer_size", 1000)
        notes.settle("shared", notes.before("shared"))
        self.tally.takeovers += notes.takeovers
        self.tally.longest = max(self.tally.longest, notes.longest / 1e9)
        self.tally.awake = max(self.tally.awake, notes.awake / 1e9)
        notes.forget_takeovers()
        self._note_crashes()
        return verdicts

    def settle_all(self) -> None:
        """Judge all blocks, once every process has ended."""
        found = judge.values(self.data)
        for place in range(self.ledger.places):
            self.settle(place, found)
        self.running.clear()
        counted = judge.counted(found, "shared", 0)
        self._check_rising(counted)
        most = self._base + sum(self.ledger.notes(place).before("shared") for place in range(self.ledger.places))
        least = most - self._doubt - self._shared_lost
        self.tally.uncertain += self._doubt
        if not least <= counted <= most:
            self.tally.problems.append(f"all together: {least} <= {counted} <= {most} does not hold")
        self.tally.lost += max(0, least - counted)
        self.tally.doubled += max(0, counted - most)
        self.tally.operations += most - self._base - self._settled.get((-1, "shared"), 0)
        self._settled[-1, "shared"] = most - self._base
        self._base += counted - most
        self._doubt = self._shared_lost = 0

    def _check_rising(self, counted: int) -> None:
        if counted < self._highest:
            self.tally.problems.append(f"all together were {self._highest}, and are now {counted}")
        self._highest = counted

    def _look_at_structure(self) -> None:
        """Attach a worker, which repairs interrupted changes, and check the names."""
        self.start_idle(0)
        try:
            judge.check_structure(self.data)
        except AssertionError as error:
            self.tally.problems.append(f"the structure of the block is damaged: {error}")
        self.leave_one(0)

    def _note_crashes(self) -> None:
        for nursery in (self.nursery, self.steps):
            if nursery is not None:
                self.tally.problems += nursery.crashes
                nursery.crashes.clear()

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self.running.values():
            worker.signal(signal.SIGCONT)
            with suppress(HangError):
                worker.kill()
        remove_block(self.data)


def damage_file(file: Path, chance: random.Random) -> None:
    """Damage a file in one of many ways."""
    content = bytearray(file.read_bytes())
    way = chance.randrange(6)
    if way == 0:
        content = content[: chance.randrange(len(content))]
    elif way == 1:
        content = bytearray(len(content))
    elif way == 2:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif way == 3:
        content = bytearray()
    elif way == 4:
        content += b"more"
    else:
        first = chance.randrange(len(content))
        content[first : first + 512] = chance.randbytes(len(content[first : first + 512]))
    file.write_bytes(content)


def remove_block(directory: Path) -> None:
    """Remove the block of a data directory that no process uses, with the files beside it."""
    from shmstats.block import identify

    path = Path(identify(directory).segment)
    for file in path.parent.glob(f"{path.name}*"):
        with suppress(FileNotFoundError):
            file.unlink()


@contextmanager
def ballast(size: int, file: Path = Path("/dev/shm/torture_ballast")) -> Iterator[None]:
    """Fill shared memory except for about ``size`` bytes."""
    with file.open("wb") as opened:
        try:
            for part in (1 << 20, 1 << 16, 1 << 12):  # others take some meanwhile, so not all of it at once
                _take_up(opened.fileno(), part, max(size, part))
            yield
        finally:
            file.unlink()


def _take_up(fd: int, part: int, left: int) -> None:
    """Reserve memory for a file, part by part, until no more than ``left`` bytes are left."""
    room = os.fstatvfs(fd)
    with suppress(OSError):
        while room.f_bavail * room.f_frsize >= left + part:
            os.posix_fallocate(fd, os.fstat(fd).st_size, part)
            room = os.fstatvfs(fd)


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
