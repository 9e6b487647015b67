"""The table of docs/comparison.md: each cell is the result of an experiment, which is repeated here.

The experiments are in `comparison`. They run in the interpreter of the library: this one, except for mpmetrics,
which needs an old prometheus_client. Its interpreter is ``$SHMSTATS_MPMETRICS_PYTHON``, else the benchmarks' (see
``scripts/_environment.sh``), which is made on first use.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from comparison.features import FEATURES
from comparison.libraries import LIBRARIES
from documents import section, table
from helpers import BOUND

ROOT = Path(__file__).parents[2]
SECTION = section("shmstats/docs/comparison.md")
ROWS = {row[0]: dict(zip(LIBRARIES, row[1:], strict=True)) for row in table(SECTION)}

ENVIRONMENT = "source scripts/_environment.sh && prepare_mpmetrics && echo $mpmetrics_python"


def interpreter_of_mpmetrics() -> str:
    """Return an interpreter that has mpmetrics; an empty text if none can be made."""
    given = os.environ.get("SHMSTATS_MPMETRICS_PYTHON")
    if given:
        return given
    made = subprocess.run(
        ["bash", "-c", ENVIRONMENT],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return made.stdout.strip() if made.returncode == 0 else ""


def start(library: str, interpreter: str, directory: Path) -> subprocess.Popen[str]:
    """Start the experiments with a library."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS_")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/integrations")))
    newest = Path(prometheus_client.__file__).parents[1]
    return subprocess.Popen(
        [interpreter, "-W", "ignore", "-m", "comparison", library, str(directory), str(newest)],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The versions and verdicts of each library; the first process that needs them runs the experiments."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    found = directory / "comparison.json"
    with (directory / "comparison.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if not found.exists():
            found.write_text(json.dumps(examine(tmp_path_factory)))
    results: dict[str, Any] = json.loads(found.read_text())
    return results


def examine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Examine all libraries at once."""
    interpreters = dict.fromkeys(LIBRARIES, sys.executable) | {"mpmetrics": interpreter_of_mpmetrics()}
    results = {}
    with ExitStack() as started:
        processes = {}
        for library, interpreter in interpreters.items():
            if interpreter:
                processes[library] = start(library, interpreter, tmp_path_factory.mktemp(library))
                started.callback(processes[library].kill)
        for library, process in processes.items():
            with process:
                out, err = process.communicate(timeout=5 * BOUND)
            assert process.returncode == 0, f"{library}: {err}"
            results[library] = json.loads(out) | {"said": err}
    return results


@pytest.mark.thorough
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("feature", FEATURES)
def test_the_document_states_the_verdicts_of_the_experiments(
    results: dict[str, Any], feature: str, library: str
) -> None:
    if library not in results:
        if os.environ.get("CI"):
            pytest.fail("there is no environment with mpmetrics, and CI must examine it")
        pytest.skip("there is no environment with mpmetrics")
    found = results[library]["found"][feature]
    told = ROWS[feature][library].partition(" (")[0]
    assert found == told, f"with {results[library]['versions']}; it said:\n{results[library]['said'][-5000:]}"


def test_the_table_of_the_document_has_every_experiment_in_order_and_no_other_row() -> None:
    assert list(ROWS) == list(FEATURES)


def test_the_table_of_the_document_explains_each_cell_that_is_neither_yes_nor_no() -> None:
    cells = [cell for row in ROWS.values() for cell in row.values()]
    parts = [re.fullmatch(r"partly \((\d+)\)", cell) for cell in cells if cell not in ("yes", "no")]
    assert all(parts)
    explained = re.findall(r"^(\d+)\. ", SECTION, re.MULTILINE)
    named = [part[1] for part in parts if part]
    assert list(dict.fromkeys(named)) == explained == [str(number + 1) for number in range(len(explained))]


def test_every_experiment_finds_its_feature_in_some_library() -> None:
    """An experiment without any success would prove nothing."""
    for feature, row in ROWS.items():
        assert set(row.values()) != {"no"}, feature
