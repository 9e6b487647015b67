"""Faults: nurseries of workers, and storms. See ``scripts/tortures``, which `scripts/torture` uses too."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
sys.path.insert(0, str(Path(__file__).parents[1] / "real"))

from tortures import debug
from tortures.nursery import Nursery
from tortures.storm import Storm, Tally


@pytest.fixture(scope="session")
def _stop_points(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A build of the C core with stop points; None if there is no compiler."""
    if debug.compiler() is None:
        return None
    return debug.build(tmp_path_factory.mktemp("stop points"), *debug.STOP_POINTS)


@pytest.fixture(scope="session")
def _nurseries(_stop_points: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Nursery]]:
    """One nursery of each kind. They outlive the tests, so they start before the first test."""
    log = tmp_path_factory.mktemp("nurseries") / "log"
    with ExitStack() as stack:
        nurseries = {
            "C": stack.enter_context(Nursery(log=log)),
            "Python": stack.enter_context(Nursery(pure=True, log=log)),
        }
        if _stop_points is not None:
            nurseries["C with stop points"] = stack.enter_context(Nursery(cells=_stop_points, log=log))
        yield nurseries


@pytest.fixture
def nursery(_nurseries: dict[str, Nursery], core: str) -> Nursery:
    """Starts workers with the core of this run."""
    return _nurseries[core]


@pytest.fixture
def steps(_nurseries: dict[str, Nursery], core: str) -> Nursery:
    """Starts workers that can be stopped at a step inside the critical sections."""
    if core == "Python":
        return _nurseries[core]
    if "C with stop points" not in _nurseries:
        if os.environ.get("CI"):
            pytest.fail("there is no C compiler for a core with stop points, and CI must test it")
        pytest.skip("there is no C compiler for a core with stop points")
    return _nurseries["C with stop points"]


@pytest.fixture
def tally() -> Tally:
    """The tally of the storms of this test."""
    return Tally()


@pytest.fixture
def storm(nursery: Nursery, tmp_path: Path, tally: Tally) -> Iterator[Callable[..., Storm]]:
    """Make a storm in a new directory: ``storm(seed=1, works=("count",), max_workers=2)``."""
    with ExitStack() as stack:
        made = 0

        def storm(
            seed: int = 0,
            works: tuple[str, ...] = ("count",),
            workers: int = 4,
            steps: Nursery | None = None,
            **stats: Any,
        ) -> Storm:
            nonlocal made
            made += 1
            chance = random.Random(seed)
            directory = tmp_path / f"storm {made}"
            return stack.enter_context(Storm(nursery, directory, chance, tally, works, workers, stats, steps))

        yield storm


@pytest.fixture(scope="session", autouse=True)
def _before_all(_nurseries: dict[str, Nursery]) -> None:
    """Start the nurseries before any test records which processes exist."""
