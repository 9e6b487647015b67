"""Which core is used: the C core, its fallback where that was not built, or an error that says what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import shmstats

PACKAGE = Path(shmstats.__file__).parent
EXTENSION = f"_cells{EXTENSION_SUFFIXES[0]}"

pytestmark = pytest.mark.skipif(not (PACKAGE / "core" / EXTENSION).exists(), reason="the C extension is not built")


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """The folder of the core in a copy of the package, without an extension."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "shmstats", ignore=ignored)) / "core"


def run(core: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code over a copy of the package."""
    whole = {**os.environ, "PYTHONPATH": str(core.parents[1]), **environment}
    if not environment:
        whole.pop("SHMSTATS_PURE", None)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=whole, cwd=core, capture_output=True, text=True, timeout=60, check=False)


SHOW = "import shmstats; print(shmstats.core.CORE)"


def test_an_extension_that_was_not_built_is_said_once_with_what_it_costs(core: Path) -> None:
    done = run(core, SHOW)
    assert done.stdout == "Python\n"
    assert done.stderr.count("the C core of shmstats is not built") == 1
    assert "times slower" in done.stderr


def test_who_asks_for_the_fallback_is_not_told(core: Path) -> None:
    done = run(core, SHOW, SHMSTATS_PURE="1")
    assert (done.stdout, done.stderr) == ("Python\n", "")


def test_an_extension_of_another_python_is_as_none_and_is_named(core: Path) -> None:
    other = core / "_cells.cpython-39-x86_64-linux-gnu.so"
    other.write_bytes((PACKAGE / "core" / EXTENSION).read_bytes())
    done = run(core, SHOW)
    assert done.stdout == "Python\n"
    assert other.name in done.stderr


@pytest.mark.parametrize("left", [0, 30, 2000, -1], ids="{} bytes".format)
def test_an_extension_that_is_cut_off_is_an_error_that_names_the_file(core: Path, left: int) -> None:
    (core / EXTENSION).write_bytes((PACKAGE / "core" / EXTENSION).read_bytes()[:left])
    done = run(core, SHOW)
    assert done.returncode == 1
    assert f"ImportError: the C core of shmstats, {core / EXTENSION}, cannot be loaded" in done.stderr
    assert "Install shmstats again" in done.stderr


def test_an_extension_of_another_machine_is_an_error_that_names_the_file(core: Path) -> None:
    tag = "-".join(EXTENSION_SUFFIXES[0].split("-")[:2])
    other = core / f"_cells{tag}-s390x-linux-gnu.so"
    other.write_bytes(b"\x7fELF\2\2")
    done = run(core, SHOW)
    assert done.returncode == 1
    assert str(other) in done.stderr
    assert EXTENSION_SUFFIXES[0] in done.stderr


SECOND_INTERPRETER = """
    import _xxsubinterpreters as interpreters
    {first}
    code = '''if True:
        try:
            import shmstats
            print("imported", shmstats.core.CORE)
        except ImportError as error:
            print("refused", error)
    '''
    kept = [interpreters.create(isolated=False) for _ in range({count})]  # one that ends lets go of the process
    for each in kept:
        interpreters.run_string(each, code)
"""


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the module of this name is no longer there")
def test_a_second_interpreter_of_a_process_is_refused_and_told_the_way_out() -> None:
    for first, count, imported in (("import shmstats", 1, 0), ("", 2, 1)):
        done = run(PACKAGE / "core", SECOND_INTERPRETER.format(first=first, count=count))
        lines = done.stdout.splitlines()
        assert lines[:-1] == ["imported C"] * imported, done.stderr
        assert lines[-1].startswith("refused")
        assert "WSGIApplicationGroup %{GLOBAL}" in lines[-1]
