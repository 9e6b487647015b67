"""Programs do to their own statistics, all at once, what must never matter: nothing is lost, doubled, or hangs."""

from __future__ import annotations

import pytest
from attacks.programs import PROGRAMS
from attacks.runner import run_program


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("pure", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_an_attack_costs_nothing(name: str, pure: bool) -> None:
    score = run_program(name, 0.7, 1, pure)
    assert score.clean, score.said
    assert score.attacks > 0
