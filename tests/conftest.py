"""Fixtures of all tests: both cores, real processes, and a check that a test leaves nothing behind.

`shmstats` is the package with a new default registry, once with the C core and once with its pure Python twin; a test
that uses it (also through `stats`, `attach` or `python`) runs twice. Child processes inherit the core and the file that
`configure` writes through the environment (``$SHMSTATS_CONFIG``).
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# The package is imported again and again. Without bytecode files, compiling would take most of the time of many tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No test multiplies matrices, but starting OpenBLAS's threads would take most of the time of a process start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))
if importlib.util.find_spec("shmstats") is None:
    sys.path.insert(0, str(ROOT))

from helpers import BOUND, SHARED_MEMORY, PythonRunner, segment_of  # noqa: E402

# The workers of pytest-xdist ignore SIGINT, and every process that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _has_extension() -> bool:
    return importlib.util.find_spec("shmstats.core._cells") is not None


#: Directories and modules whose tests all start processes: a quick run does not even import them.
_NOT_QUICK = {"attacks", "browser", "comparison", "deployments", "faults", "fleet", "model", "real"} | {
    f"test_{name}.py"
    for name in (
        *("access_table", "beats", "bench", "cli", "created", "duty", "file_endpoints", "gunicorn_hooks", "imports"),
        *("kit_live", "pools", "processes", "prometheus_client", "prometheus_client_document"),
        *("prometheus_client_exporters", "push_command", "pytest_plugin", "routes_document", "setup", "termination"),
        *("typing", "walks", "web_document", "web_servers"),
    )
}

#: Fixtures that start processes.
_STARTING = {"python", "sleeper", "open_server", "token_server"}

#: The audit events that Python raises when a process is started.
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that ``scripts/test --quick`` passes."""
    parser.addoption("--quick", action="store_true", help="run only tests that start no process, with one core")


def pytest_configure(config: pytest.Config) -> None:
    """In a quick run, skip each test at the point where it would start a process, and do not wait for a disk."""
    if config.getoption("quick"):
        sys.addaudithook(_leave_where_a_process_starts)
        if shutil.disk_usage(SHARED_MEMORY).free > 1 << 30:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", SHARED_MEMORY)


def _leave_where_a_process_starts(event: str, arguments: object) -> None:
    if event in _STARTS and "PYTEST_CURRENT_TEST" in os.environ:
        pytest.skip(f"not quick: {event}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the collection of files that a quick run does not need: collecting takes much of its time."""
    return True if config.getoption("quick") and collection_path.name in _NOT_QUICK else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the second core to the thorough run, for tests of code far above the cores."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        is_second = callspec is not None and callspec.params.get("core") == "Python"
        if is_second and item.get_closest_marker("far_from_core"):
            item.add_marker(pytest.mark.thorough)
    if config.getoption("quick"):
        items[:] = [item for item in items if _is_quick(item)]


def _is_quick(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    is_second = callspec is not None and "Python" in (callspec.params.get("core"), callspec.params.get("plain_case"))
    processes = _STARTING & set(getattr(item, "fixturenames", ()))
    return not (is_second or processes or item.get_closest_marker("slow"))


@pytest.fixture(params=["C", "Python"])
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the core that this run of the test uses; the environment selects it."""
    chosen: str = request.param
    if chosen == "C":
        if not _has_extension():
            if os.environ.get("CI"):
                pytest.fail("the C extension is not built, and CI must test it")
            pytest.skip("the C extension is not built")
        monkeypatch.delenv("SHMSTATS_PURE", raising=False)
    else:
        monkeypatch.setenv("SHMSTATS_PURE", "1")
    return chosen


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data directory of this test; it is not created yet."""
    return tmp_path / "data"


@pytest.fixture
def configure(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Write the configuration file that this process and its children read: ``configure(capacity=256)``."""
    file = tmp_path / "shmstats-test.yml"
    monkeypatch.setenv("SHMSTATS_CONFIG", str(file))

    def configure(**stats: Any) -> dict[str, Any]:
        config = {"path": {"data": str(data)}, "stats": {"capacity": 1024, "max_workers": 8, **stats}}
        file.write_text(json.dumps(config))
        return config

    configure()
    return configure


#: The package over each core, imported once: an imported module can never be unloaded completely.
_packages: dict[str, dict[str, ModuleType]] = {}

#: Modules that keep a reference to the default registry, which is a different one in each test.
_USERS_OF_REGISTRY = ("shmstats.web", "shmstats.terminal", "shmstats.cli", "shmstats.__main__")


def _import_what_comes_late() -> None:
    """Import what a fork or a thread could import later, while another package is in the place of this one."""
    for room in ("block", "reading", "snapshot", "export", "history", "debug", "attachment", "sinks"):
        package = importlib.import_module(f"shmstats.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    late = importlib.import_module("shmstats.attachment.late")
    late._import_all()
    late._imported = True


def _modules_replaced_by(modules: dict[str, ModuleType]) -> dict[str, ModuleType]:
    """Replace the imported modules of the package by these; return the modules that were replaced."""
    names = [name for name in sys.modules if name.startswith("shmstats") and name[8:9] in "."]
    before = {name: sys.modules.pop(name) for name in names}
    sys.modules.update(modules)
    return before


#: The registries of earlier tests.
_left: weakref.WeakSet[Any] = weakref.WeakSet()


def _registries_of(registry: ModuleType) -> list[Any]:
    """Return the registries that the package has told of forks and the exit, as long as they exist."""
    parts = importlib.import_module("shmstats.lifecycle")._told("leave")
    return [part for part in parts if isinstance(part, registry.Registry)]


@pytest.fixture
def shmstats(core: str, configure: object) -> Iterator[ModuleType]:
    """The package over the core of this run, with a new default registry; attached blocks are left at the end."""
    before = _modules_replaced_by(_packages.get(core, {}))
    package = importlib.import_module("shmstats")
    registry = importlib.import_module("shmstats.registry")
    if core not in _packages:
        _import_what_comes_late()
    assert package.core.CORE == core
    package.stats = registry.stats = registry.Registry()
    for call in [name for name in package.__all__ if hasattr(registry.Registry, name)]:
        setattr(package, call, getattr(package.stats, call))
    try:
        yield package
    finally:
        # Registries of earlier tests may never be collected: the garbage collector skips frozen objects.
        for each in _registries_of(registry):
            if each not in _left:
                each.leave()
                _left.add(each)
        used = _modules_replaced_by(before)
        _packages[core] = {name: module for name, module in used.items() if not name.startswith(_USERS_OF_REGISTRY)}


@pytest.fixture
def stats(shmstats: ModuleType) -> Any:
    """The default registry; it finds the test's configuration by itself."""
    return shmstats.stats


@pytest.fixture
def attach(shmstats: ModuleType, data: Path) -> Iterator[Callable[..., Any]]:
    """Attach the block of the test's data directory: ``attach(capacity=256, max_workers=2)``.

    Each block is a worker of its own, although all are in one process. Blocks still attached at the end are left.
    """
    blocks = []

    def attach(capacity: int = 256, max_workers: int = 4, **more: Any) -> Any:
        block = shmstats.reading.attached.AttachedBlock.attach(
            more.pop("directory", data), capacity, max_workers, **more
        )
        blocks.append(block)
        return block

    yield attach
    for block in blocks:
        if block.cells.generation:  # not closed
            block.leave()


@pytest.fixture
def python(shmstats: ModuleType, tmp_path: Path) -> Iterator[PythonRunner]:
    """Run code in a new interpreter: see `helpers.PythonRunner`."""
    runner = PythonRunner(tmp_path, Path(shmstats.__file__).parents[1])
    yield runner
    runner.kill_all()


def pytest_collection_finish() -> None:
    """Exclude the many objects of the collected tests from later garbage collections."""
    _import_what_comes_late()
    gc.collect()
    gc.freeze()


def _own_children(request: pytest.FixtureRequest) -> set[int]:
    """The children of this process, except those that multiprocessing keeps for itself; none in a quick run."""
    children: set[int] = set()
    if request.config.getoption("quick"):
        return children
    for task in os.listdir("/proc/self/task"):
        # A thread may have ended just now.
        with suppress(FileNotFoundError), open(f"/proc/self/task/{task}/children") as file:
            children |= {int(pid) for pid in file.read().split()}
    return {pid for pid in children if b"multiprocessing" not in _command(pid)}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _in_shared_memory() -> set[str]:
    return {name for name in os.listdir(SHARED_MEMORY) if name.startswith("shmstats_")}


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that a test leaves no segment of its own in shared memory and no live child."""
    if "shmstats" in request.fixturenames:
        # Objects from before the test are not its garbage, and would take most of the time of a collection.
        gc.collect()
        gc.freeze()
    before, children = _in_shared_memory(), _own_children(request)
    yield
    if "shmstats" in request.fixturenames:
        # Collect this test's garbage now, so that its warnings do not appear in the next test.
        gc.collect()
    stayed = _own_children(request) - children
    for pid in stayed:
        _kill(pid)
    new = _in_shared_memory() - before
    own = _own_segments(request) if new else set()
    left = [name for name in new if name.partition(".")[0] in own]
    for name in left:
        os.unlink(os.path.join(SHARED_MEMORY, name))
    assert not stayed, f"processes still live: {stayed}"
    assert not left, f"left in {SHARED_MEMORY}: {left}"


def _own_segments(request: pytest.FixtureRequest) -> set[str]:
    """The segments of data directories of this test only: other tests may run at the same time."""
    top: Path | None = request.node.funcargs.get("tmp_path")
    if top is None:
        return set()
    directories = [top, top / "data", *(path for path in top.rglob("*") if path.is_dir())]
    return {segment_of(directory) for directory in directories}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that does nothing; returns its pid."""
    with subprocess.Popen(["sleep", str(BOUND)]) as process:
        yield process.pid
        process.kill()
