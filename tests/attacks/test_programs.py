"""Programs attack their own statistics concurrently: nothing is lost or doubled, and nothing hangs."""

from __future__ import annotations

import pytest
from attacks.__main__ import table
from attacks.programs import PROGRAMS
from attacks.runner import Score, run_program


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("pure", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_an_attack_loses_nothing(name: str, pure: bool) -> None:
    score = run_program(name, 0.7, 1, pure)
    assert score.clean, score.said
    assert score.attacks > 0


def test_a_kind_without_an_attack_is_not_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"storms": Score(attacks=3, kills=1, operations=1000), "clients": Score()}
    assert not table(iter(rows.items())).clean
    assert "clients: nothing was attacked" in capsys.readouterr().err
    assert table(iter([("storms", rows["storms"])])).clean
