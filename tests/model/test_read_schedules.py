"""A name is removed, another takes its cells, it is added again: a reader in between sees only values of the name.

Each change is recorded with the moments of its begin and end. A read value must be one that the name had at some
moment between the call and its return; 0 stands for none.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from schedule import Plan, Schedule, switched_once, switched_twice

#: The files whose lines are switched at.
PLACES = (
    "attachment/reads.py", "attachment/changes.py", "reading/*.py", "block/registering.py", "block/names.py",
    "block/stripes.py", "core/_*_py.py",
)  # fmt: skip


Read = Callable[[Any], dict[str, float]]


class Value(NamedTuple):
    """A value of a name, between the change that set it and the next change."""

    value: float
    begun: int
    ended: int


class Story:
    """Changes of names, and the values read meanwhile."""

    def __init__(self, package: ModuleType, data: Path) -> None:
        registry: Any = importlib.import_module("shmstats.registry").Registry
        top = Path(package.__file__ or "").parent
        self._files = frozenset(str(path) for place in PLACES for path in top.glob(place))
        config = {"path": {"data": str(data)}, "stats": {"capacity": 256, "max_workers": 4, "persist": False}}
        self.writer, self.reader = registry(), registry()
        for each in (self.writer, self.reader):
            each.init(config)

    def run(self, scene: tuple[Read, bool], first: int, plan: Plan) -> Schedule:
        """Make one thread change names while another reads, under a schedule; check the result.

        Args:
            scene: the way to read, and whether names are added again.
            first: the thread that begins.
            plan: of the switches.
        """
        read, comes = scene
        self._now = 0
        self.had = {name: [Value(0, 0, 0)] for name in ("counter", "large", "gauge", "high")}
        self.wrong: list[str] = []
        self._count("counter", 3)
        self._set("gauge", 1.5)
        schedule = Schedule([lambda: self._read(read), self._go_and_come if comes else self._go], plan, self._files)
        schedule.run(first)
        assert not self.wrong, f"first {first}, {plan}: {self.wrong}"
        for name in self.had:
            self._remove(name)
        return schedule

    def _go(self) -> None:
        self._count("counter", 4)
        self._remove("counter")
        self._count("large", 1000)
        self._remove("gauge")
        self._set("high", 900.5)

    def _go_and_come(self) -> None:
        self._go()
        self._remove("large")
        self._count("counter", 10)
        self._remove("high")
        self._set("gauge", 2.5)

    def _count(self, name: str, n: int) -> None:
        self._note(name, self.had[name][-1].value + n, lambda: self.writer.incr("c", name, n))

    def _set(self, name: str, value: float) -> None:
        self._note(name, value, lambda: self.writer.gauge("c", name, value))

    def _remove(self, name: str) -> None:
        self._note(name, 0, lambda: self.writer.remove("c", name))

    def _note(self, name: str, value: float, change: Callable[[], object]) -> None:
        begun = self._moment()
        self.had[name].append(Value(value, begun, 2**62))
        change()
        self.had[name][-1] = Value(value, begun, self._moment())

    def _read(self, read: Read) -> None:
        begun = self._moment()
        found = read(self.reader)
        ended = self._moment()
        self.wrong += [
            f"{name} is {value!r}, it had {self.had[name]}; read from {begun} to {ended}"
            for name, value in found.items()
            if not self._was(name, value, begun, ended)
        ]

    def _was(self, name: str, value: float, begun: int, ended: int) -> bool:
        had = self.had[name]
        until = [each.ended for each in had[1:]] + [2**62]
        return any(
            value == each.value and type(value) in (int, type(each.value)) and each.begun <= ended and end >= begun
            for each, end in zip(had, until, strict=True)
        )

    def _moment(self) -> int:
        self._now += 1
        return self._now


def get_counter(reader: Any) -> dict[str, float]:
    return {"counter": reader.get("c", "counter")}


def get_gauge(reader: Any) -> dict[str, float]:
    return {"gauge": reader.get("c", "gauge")}


def snapshot(reader: Any) -> dict[str, float]:
    found = reader.snapshot().get("c", {})
    return {name: found.get(name, 0) for name in ("counter", "large", "gauge", "high")}


#: The way to read, and whether names are added again.
SCENES = {
    "get of a removed counter": (get_counter, False),
    "get of a counter that is added again": (get_counter, True),
    "get of a removed gauge": (get_gauge, False),
    "get of a gauge that is added again": (get_gauge, True),
    "snapshot of removed names": (snapshot, False),
    "snapshot of names that are added again": (snapshot, True),
}


@pytest.fixture
def story(controlled: ModuleType, tmp_path: Path) -> Iterator[Story]:
    told = Story(controlled, tmp_path / "data")
    yield told
    told.reader.close()
    told.writer.close()


@pytest.mark.parametrize("scene", SCENES)
def test_a_read_value_is_one_that_the_name_had(story: Story, scene: str) -> None:
    assert switched_once(lambda *how: story.run(SCENES[scene], *how), step=61) > 2


@pytest.mark.thorough
@pytest.mark.parametrize("scene", SCENES)
def test_a_read_value_is_one_that_the_name_had_at_any_line(story: Story, scene: str) -> None:
    switched_once(lambda *how: story.run(SCENES[scene], *how), step=3)


@pytest.mark.thorough
@pytest.mark.parametrize("scene", SCENES)
def test_a_value_read_during_a_change_is_one_that_the_name_had(story: Story, scene: str) -> None:
    chance = random.Random(scene)
    places = ((chance.random(), chance.random()) for _ in range(200))
    switched_twice(lambda *how: story.run(SCENES[scene], *how), places)
