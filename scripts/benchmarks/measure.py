"""Measuring in rounds, in which the sides take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from .rows import Figure
from .subjects import Effort, NotAvailableError, Subject

#: The number of slices of a side's turn.
SLICES = 10

#: A function that runs once and returns a figure of any unit.
Side = Callable[[], float]

_Name = TypeVar("_Name")


def in_turns(sides: Mapping[_Name, Side], rounds: int) -> dict[_Name, list[float]]:
    """Run every side once in each round; return the figures of each, in the order of rounds.

    The order of the sides is reversed in every second round.
    """
    found: dict[_Name, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for _ in range(rounds):
        for name in names:
            found[name].append(sides[name]())
        names.reverse()
    return found


@dataclass(frozen=True)
class Loop:
    """A loop of calls in a subject.

    Attributes:
        subject: that runs it.
        name: of the loop there.
        multiple: divides the number of its calls: loops over names go over all of them.
    """

    subject: Subject
    name: str
    multiple: int = 1000


def time_loops(loops: Mapping[str, Loop], effort: Effort) -> dict[str, Figure]:
    """Return the ns of one call of each loop: the least of several repeats, less the empty loop's least."""
    calls = {name: _calibrate(loop, effort) for name, loop in loops.items()}
    empty: dict[str, list[float]] = {name: [] for name in loops}

    def side(name: str) -> Side:
        def run() -> float:
            each = loops[name]
            taken, least = each.subject.do("time_loop", name=each.name, calls=calls[name], slices=SLICES)
            empty[name].append(least)
            return float(taken)

        return run

    found = in_turns({name: side(name) for name in loops}, effort.rounds)
    return {name: Figure.best([each - min(empty[name]) for each in repeats]) for name, repeats in found.items()}


def _calibrate(loop: Loop, effort: Effort) -> int:
    """Return the number of calls of a slice."""
    calls = least = loop.multiple
    while True:
        taken, _ = loop.subject.do("time_loop", name=loop.name, calls=calls)
        seconds = taken * calls / 1e9
        if seconds >= effort.seconds / 20:
            return max(least, int(effort.seconds / SLICES * 1e9 / taken / least) * least)
        calls *= 4


def available(starters: Mapping[str, Callable[[], Subject]]) -> tuple[dict[str, Subject], dict[str, str]]:
    """Start subjects; return those that started, and the reasons of the others."""
    started, missing = {}, {}
    for name, start in starters.items():
        try:
            started[name] = start()
        except NotAvailableError as error:
            missing[name] = str(error)
    return started, missing
