"""Counts the modules of the package that each operation touches, and the moves between them.

A move is a step of the interpreter from one module of shmstats into another, or back; calls inside C take none. The
counts repeat exactly, so ``tests/test_walks.py`` holds each below `BOUNDS`.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import shmstats
from shmstats import Registry, stats
from shmstats.web import create_app

_ROOT = str(Path(shmstats.__file__).parent)

#: Modules that only create records are not counted.
_VALUES = str(Path(_ROOT) / "frozen.py")

#: Number of names during an operation that goes through all of them.
_NAMES = 100


class Walk(NamedTuple):
    """The length of the walk of an operation.

    Attributes:
        modules: that it touches.
        moves: between them.
    """

    modules: int
    moves: int


#: The bound of each walk. Lower it when the walk gets shorter.
BOUNDS = {
    "attach": Walk(30, 222),
    "bound incr": Walk(0, 0),
    "new name": Walk(0, 0),
    "labels().incr(), first time": Walk(2, 4),
    "another process's name": Walk(0, 0),
    "new name of a declared metric": Walk(0, 0),
    "scrape": Walk(25, 100),
    "save": Walk(19, 134),
    "close": Walk(33, 154),
    "attach with restore": Walk(42, 426),
}


class _Recorder:
    """A profile function that records the touched modules of the package, and the moves."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.moves = 0
        self._here: str | None = None
        self._callers: list[tuple[bool, str | None]] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            file = frame.f_code.co_filename
            is_ours = file.startswith(_ROOT) and file != _VALUES
            self._callers.append((is_ours, self._here))
            if is_ours:
                self.modules.add(file)
                self._go_to(file)
        elif event == "return" and self._callers:
            was_ours, caller = self._callers.pop()
            if was_ours:
                self._go_to(caller)

    def _go_to(self, file: str | None) -> None:
        self.moves += file != self._here
        self._here = file


def walk(operation: Callable[[], object]) -> Walk:
    """Run an operation, and return its walk in this thread."""
    recorder = _Recorder()
    gc.disable()  # a finalizer of something else would add its moves
    sys.setprofile(recorder)
    try:
        operation()
    finally:
        sys.setprofile(None)
        gc.enable()
    return Walk(len(recorder.modules), recorder.moves)


def walks(data: Path) -> dict[str, Walk]:
    """Record every walk once, in a process that has done its imports, which are not part of a walk.

    Args:
        data: an empty directory for the data.
    """
    # Whether a page waits for a save depends on the time; the save has its own walk.
    configuration = {"path": {"data": str(data)}, "stats": {"durable_exposition": False}}
    for _ in range(2):
        before = Registry()
        before.init({"path": {"data": str(data / "before")}})
        before.incr("a", "before")
        before.close()
    found = {"attach": walk(lambda: shmstats.init(configuration))}
    counter, labelled = stats.counter("a", "bound"), stats.counter("a", "labelled", labelnames=("method",))
    stats.declare("a", "declared", kind="counter", labelnames=("method",))
    counter.incr()
    stats.incr("a", "first")
    stats.incr("a", "declared", labels={"method": "GET"})
    declared = stats.counter("a", "declared", labels={"method": "PUT"})
    found["bound incr"] = walk(counter.incr)
    found["new name"] = walk(lambda: stats.incr("a", "new"))
    found["labels().incr(), first time"] = walk(lambda: labelled.labels("GET").incr())
    found["new name of a declared metric"] = walk(declared.incr)
    for number in range(_NAMES):
        stats.incr("many", f"name {number}")
    found["another process's name"] = _find(configuration)
    found["scrape"] = _scrape()
    found["save"] = walk(stats.shared._saver.save_or_tell)  # type: ignore[union-attr]
    found["close"] = walk(shmstats.close)
    found["attach with restore"] = walk(lambda: shmstats.init(configuration))
    shmstats.close()
    return found


def _find(configuration: dict[str, Any]) -> Walk:
    """Record the walk of a process that counts a name registered by another."""
    registry = Registry()
    registry.init(configuration)
    registry.incr("many", "name 0")  # from now on it has its own memory there
    try:
        return walk(lambda: registry.incr("many", "name 1"))
    finally:
        registry.close()


def _scrape() -> Walk:
    client = create_app().test_client()
    for _ in range(2):  # the second scrape finds the plan of the first
        client.get("/stats/prometheus")
    return walk(lambda: client.get("/stats/prometheus"))


def at_most(name: str) -> tuple[int, int]:
    """Return the bound of a walk: that of CPython 3.11, with a margin for other versions."""
    modules, moves = BOUNDS[name]
    return (modules, moves) if sys.version_info < (3, 12) else (modules + 1, moves + moves // 10)


def main() -> int:
    """Print the walks of a fresh process; return 1 if one is longer than it may be."""
    with tempfile.TemporaryDirectory() as data:
        found = walks(Path(data))
    print(f"{'walk':<34}{'modules':>8}{'moves':>8}   at most")
    longer = [name for name, walked in found.items() if any(map(int.__gt__, walked, at_most(name)))]
    for name, (modules, moves) in found.items():
        most = " · ".join(map(str, at_most(name)))
        print(f"{name:<34}{modules:>8}{moves:>8}   {most}{'  LONGER' if name in longer else ''}")
    return int(bool(longer))


if __name__ == "__main__":
    sys.exit(main())
