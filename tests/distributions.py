"""Distributions for tests of histograms: a range, and a function that draws a value."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Tried(NamedTuple):
    """A distribution.

    Attributes:
        range: of the histogram that it is observed in.
        value: draws one.
    """

    range: tuple[float, float]
    value: Callable[[random.Random], float]


TRIED = {
    "lognormal": Tried((1e-3, 1e6), lambda chance: chance.lognormvariate(3, 1.5)),
    "uniform": Tried((1.0, 1e4), lambda chance: chance.uniform(1, 1e4)),
    "exponential": Tried((1e-6, 1e4), lambda chance: chance.expovariate(0.02)),
    "bimodal": Tried((0.1, 1e5), lambda chance: chance.gauss(*chance.choice(((5, 0.5), (8000, 900))))),
    "constant": Tried((0.1, 6e4), lambda chance: 209.6),
    "heavy tail": Tried((1.0, 1e9), lambda chance: min(chance.paretovariate(0.7), 1e9)),
    "tiny": Tried((1e-12, 1e-6), lambda chance: chance.lognormvariate(-20, 1)),
    "huge": Tried((1e9, 1e18), lambda chance: chance.lognormvariate(30, 2)),
    "zeros": Tried((1.0, 2.0**30), lambda chance: 0.0 if chance.random() < 0.7 else chance.randint(1, 5000)),
    "integers": Tried((1.0, 2.0**20), lambda chance: chance.randint(1, 40)),
}


def draw(name: str, seed: int, n: int) -> list[float]:
    """Return values of a distribution, the same for the same seed."""
    return list(itertools.islice(_values(name, seed), n))


def _values(name: str, seed: int) -> Iterator[float]:
    chance, tried = random.Random(seed), TRIED[name]
    while True:
        value = tried.value(chance)
        if value == 0 or value >= tried.range[0]:
            yield value


def exact(values: list[float], share: float) -> float:
    """Return the percentile: the smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    rank = next(rank for rank in range(1, len(ordered) + 1) if rank >= share * len(ordered))
    return ordered[rank - 1]
