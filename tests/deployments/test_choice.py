"""The choice of the core: C, the fallback if C was not built, or an error with the reason."""

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


def test_a_missing_extension_is_logged_once_with_the_factor_that_it_costs(core: Path) -> None:
    done = run(core, SHOW)
    assert done.stdout == "Python\n"
    assert done.stderr.count("the C core of shmstats is not built") == 1
    assert "times as long" in done.stderr


def test_a_requested_fallback_is_not_logged(core: Path) -> None:
    done = run(core, SHOW, SHMSTATS_PURE="1")
    assert (done.stdout, done.stderr) == ("Python\n", "")


def test_an_extension_for_another_python_counts_as_missing_and_is_named(core: Path) -> None:
    other = core / "_cells.cpython-39-x86_64-linux-gnu.so"
    other.write_bytes((PACKAGE / "core" / EXTENSION).read_bytes())
    done = run(core, SHOW)
    assert done.stdout == "Python\n"
    assert other.name in done.stderr


@pytest.mark.parametrize("left", [0, 30, 2000, -1], ids="{} bytes".format)
def test_a_truncated_extension_is_an_error_that_names_the_file(core: Path, left: int) -> None:
    (core / EXTENSION).write_bytes((PACKAGE / "core" / EXTENSION).read_bytes()[:left])
    done = run(core, SHOW)
    assert done.returncode == 1
    assert f"ImportError: the C core of shmstats, {core / EXTENSION}, cannot be loaded" in done.stderr
    assert "Install shmstats again" in done.stderr


def test_an_extension_for_another_machine_is_an_error_that_names_the_file(core: Path) -> None:
    tag = "-".join(EXTENSION_SUFFIXES[0].split("-")[:2])
    other = core / f"_cells{tag}-s390x-linux-gnu.so"
    other.write_bytes(b"\x7fELF\2\2")
    done = run(core, SHOW)
    assert done.returncode == 1
    assert str(other) in done.stderr
    assert EXTENSION_SUFFIXES[0] in done.stderr


INTERPRETERS = """
    import sys
    try:
        import _interpreters as interpreters
        run = interpreters.exec
    except ImportError:  # Python 3.11 and 3.12
        import _xxsubinterpreters as interpreters
        run = interpreters.run_string

    def create():
        return interpreters.create("legacy") if hasattr(interpreters, "exec") else interpreters.create(isolated=False)

    import_it = '''if True:
        try:
            import shmstats
            print("imported", shmstats.core.CORE, flush=True)
        except ImportError as error:
            print("refused", error, flush=True)
    '''
    count = '''if True:
        import os
        import shmstats
        shmstats.init({"path": {"data": os.environ["DATA"]}})
        shmstats.stats.incr("web", "requests")
        print(shmstats.core.CORE, shmstats.stats.get("web", "requests"), flush=True)
        shmstats.close()
    '''
"""


CORES = {"C": "", "Python": "1"}


@pytest.fixture(params=CORES)
def counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The core of all interpreters."""
    monkeypatch.setenv("SHMSTATS_PURE", CORES[request.param])
    return str(request.param)


def run_interpreters(code: str, **environment: str) -> list[str]:
    """Return the output of the interpreters of one process, which must end with status 0."""
    whole = {"SHMSTATS_PURE": os.environ["SHMSTATS_PURE"], **environment}
    done = run(PACKAGE / "core", textwrap.dedent(INTERPRETERS) + textwrap.dedent(code), **whole)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("first", ["exec(import_it)", "kept = create(); run(kept, import_it)"])
def test_a_second_interpreter_is_refused_and_the_error_says_what_to_do(first: str, counting: str) -> None:
    imported, refused, again, own_lock, replaced = run_interpreters(f"""
        import os
        {first}
        second = create()
        run(second, import_it)
        run(second, import_it)
        run(interpreters.create(), import_it)
        os.execv(sys.executable, [sys.executable, "-c", import_it])
    """)
    assert imported == replaced == f"imported {counting}"
    assert refused == again
    for each in (refused, own_lock):
        assert each.startswith("refused")
        assert "WSGIApplicationGroup %{GLOBAL}" in each


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all interpreters share one lock")
def test_the_c_core_refuses_an_interpreter_with_its_own_gil(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHMSTATS_PURE", "")
    (refused,) = run_interpreters("run(interpreters.create(), import_it)")
    assert refused.startswith("refused")
    assert "WSGIApplicationGroup %{GLOBAL}" in refused


def test_an_interpreter_started_after_the_end_of_another_counts_on(tmp_path: Path, counting: str) -> None:
    code = """
        for _ in range(2):
            one = create()
            run(one, count)
            interpreters.destroy(one)
        exec(count)
    """
    told = run_interpreters(code, DATA=str(tmp_path / "data"))
    assert told == [f"{counting} 1", f"{counting} 2", f"{counting} 3"]
