"""A thread counts while another configures the registry again or leaves the block, or both: at every line.

Nothing is lost, counts after `init` go to its block, and there is one attachment.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from schedule import Plan, Schedule, Thread, switched_once, switched_twice

#: The files in which threads are switched: they select the cell of a count.
PLACES = ("configured.py", "misses.py", "attachment/attachment.py", "attachment/calls.py", "attachment/saver.py")


class Count(NamedTuple):
    """One operation, or one `init`: when it began and ended, in the order of all of them."""

    begun: int
    ended: int


Program = Callable[["World"], Callable[[], None]]

#: The buffer is full at the second operation.
BUFFERED = {"no_buffer": False, "buffer_size": 2}


class World:
    """Two data directories, a registry that threads use, and others that keep the blocks, or none.

    Args:
        package: over one core.
        top: for the directories.
        kept: whether another attachment keeps each block; else the last one that leaves saves and removes it.
        stats: further configuration.
    """

    def __init__(self, package: ModuleType, top: Path, kept: bool, **stats: Any) -> None:
        registry: Any = importlib.import_module("shmstats.registry").Registry
        self._holding = importlib.import_module("shmstats.attachment.attachment")._holding
        self._files = frozenset(str(Path(package.__file__ or "").parent / place) for place in PLACES)
        self.stats, self._looker = registry(), registry()
        stats = {"capacity": 256, "max_workers": 4, **stats}
        self.configs = [
            {"path": {"data": str(top / name)}, "stats": stats, "history": {"enabled": False}}
            for name in ("old", "new")
        ]
        self._keepers = []
        if kept:
            for config in self.configs:
                self._keepers.append(registry())
                self._keepers[-1].init(config)

    def run(self, programs: Sequence[Program], first: int, plan: Plan) -> Schedule:
        """Run two programs under a schedule, and judge."""
        self._now = 0
        self.counts: list[Count] = []
        self.moves: list[Count] = []
        self.stats.init(self.configs[0])
        self.stats.shared._saver.look()  # it saves
        self.handle = self.stats.counter("c", "m")
        self.handle.incr()
        self.counts.append(Count(0, 0))
        schedule = Schedule([program(self) for program in programs], plan, self._files)
        before = {id(each) for each in self._holding} - {id(self.stats.shared)}
        try:
            schedule.run(first)
            self._judge({id(each) for each in self._holding} - before)
        except AssertionError as error:
            raise AssertionError(f"first {first}, {plan}: {error}") from error
        finally:
            self.stats.close()
        return schedule

    def time(self) -> int:
        self._now += 1
        return self._now

    def timed(self, call: Callable[[], object]) -> Count:
        begun = self.time()
        call()
        return Count(begun, self.time())

    def _judge(self, attached: set[int]) -> None:
        assert len(attached) <= 1, f"there are {len(attached)} attachments"
        agents = [thread for thread in Thread.living if thread.name == "shmstats-agent"]
        expected = len(attached) + len(self._keepers)
        assert len(agents) == expected, f"{len(agents)} background threads of {expected} attachments"
        self.stats.close()
        found = [self._total(number) for number in (0, 1)]
        assert sum(found) == len(self.counts), f"{found} of {len(self.counts)}"
        moved = max((move.ended for move in self.moves), default=None)
        if moved is not None:
            after = sum(count.begun > moved for count in self.counts)
            assert found[1] >= after, f"{found[1]} are in the new block, {after} were counted after init"
            start = min(move.begun for move in self.moves)
            before = sum(count.ended < start for count in self.counts)
            assert found[0] >= before, f"{found[0]} are in the old block, {before} were counted before init"

    def _total(self, number: int) -> int:
        looker = self._keepers[number] if self._keepers else self._looker
        if not self._keepers:
            looker.init(self.configs[number])
        try:
            return sum(looker.snapshot().get("c", {}).values())
        finally:
            looker.reset("c", "m")
            looker.remove("c", "new")
            if not self._keepers:
                looker.close()

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.close()


def counting(world: World) -> Callable[[], None]:
    """Count by a bound handle, and twice by a new name."""

    def program() -> None:
        for call in (lambda: world.stats.incr("c", "new"), world.handle.incr, lambda: world.stats.incr("c", "new")):
            world.counts.append(world.timed(call))

    return program


def moving(world: World) -> Callable[[], None]:
    """Go to the other data directory."""
    return lambda: world.moves.append(world.timed(lambda: world.stats.init(world.configs[1])))


def staying(world: World) -> Callable[[], None]:
    """Configure it as it is."""
    return lambda: world.stats.init(world.configs[0])


def closing(world: World) -> Callable[[], None]:
    """Leave the block."""
    return world.stats.close


def flushing(world: World) -> Callable[[], None]:
    """Flush the buffer."""
    return world.stats.flush


#: Concurrent operations of two threads, and further configuration.
SCENES: dict[str, tuple[tuple[Program, ...], dict[str, Any]]] = {
    "count, go to another directory": ((counting, moving), {}),
    "count, configure the same": ((counting, staying), {}),
    "count, leave": ((counting, closing), {}),
    "count with a buffer, go to another directory": ((counting, moving), BUFFERED),
    "count with a buffer, leave": ((counting, closing), BUFFERED),
    "flush, leave": ((flushing, closing), BUFFERED),
    "flush, configure the same": ((flushing, staying), BUFFERED),
    "leave, leave": ((closing, closing), {}),
    "leave, go to another directory": ((closing, moving), {}),
    "configure the same, go to another directory": ((staying, moving), {}),
}


@pytest.fixture
def world(controlled: ModuleType, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make a `World` of the package: ``world(kept)``."""
    made = []

    def make(kept: bool, **stats: Any) -> World:
        made.append(World(controlled, tmp_path, kept, **stats))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def search(world: Callable[..., World]) -> Callable[..., int]:
    """Run the schedules of a scene with one switch: ``search(scene, step)``; return their number."""

    def search(scene: str, step: int, kept: bool = True) -> int:
        programs, stats = SCENES[scene]
        here = world(kept, **stats)
        return switched_once(lambda *how: here.run(programs, *how), step)

    return search


@pytest.mark.parametrize("scene", SCENES)
def test_threads_lose_nothing_if_switched_at_some_lines(search: Callable[..., int], scene: str) -> None:
    assert search(scene, step=9) > 5


@pytest.mark.thorough
@pytest.mark.parametrize("kept", [True, False], ids=["others have the block", "the last one saves"])
@pytest.mark.parametrize("scene", SCENES)
def test_threads_lose_nothing_if_switched_at_any_line(search: Callable[..., int], scene: str, kept: bool) -> None:
    assert search(scene, step=1 if kept else 3, kept=kept) > 15


@pytest.mark.thorough
@pytest.mark.parametrize("scene", SCENES)
def test_threads_lose_nothing_if_both_are_switched(world: Callable[..., World], scene: str) -> None:
    programs, stats = SCENES[scene]
    chance = random.Random(scene)
    here = world(True, **stats)
    switched_twice(lambda *how: here.run(programs, *how), ((chance.random(), chance.random()) for _ in range(400)))
