"""``scripts/plant`` finds each fault that it plants."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from machine import compiler
from tortures.planting import FAULTS, source_of

PACKAGE = Path(__file__).parents[2]
SCRIPTS = PACKAGE / "scripts"


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_a_place_in_the_source(name: str) -> None:
    assert FAULTS[name].old in source_of(FAULTS[name])


@pytest.mark.parametrize("model", ["cells", "flushing", "leaving", "live", "names"])
def test_each_fault_of_a_model_has_a_place_in_the_source(model: str) -> None:
    tables = vars(importlib.import_module(f"test_{model}_model"))
    plants = [each for name, table in tables.items() if "FAULTS" in name for each in table.values()]
    assert plants
    for plant in plants:
        sources = [file.read_text() for file in (PACKAGE / "shmstats").rglob(plant.file)]
        assert sum(source.count(plant.old) for source in sources) == 1, plant


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which(compiler()) is None, reason="there is no C compiler")
def test_every_planted_fault_is_found() -> None:
    command = [sys.executable, "-m", "tortures.planting"]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("found by") == len(done.stdout.splitlines()) == len(FAULTS)


@pytest.mark.thorough
def test_the_error_for_an_unknown_fault_lists_the_known_ones() -> None:
    command = [sys.executable, "-m", "tortures.planting", "nonsense"]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "'nonsense'" in done.stderr
    assert "one-in-a-million" in done.stderr
