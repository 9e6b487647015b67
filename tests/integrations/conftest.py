"""Fixtures of the tests of middlewares: the default registry in this process, and servers that find the package."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))

import shmstats as package
from shmstats import registry


@pytest.fixture
def statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[registry.Registry]:
    """A default registry of this test, attached to a block of this test: declarations stay with a registry."""
    statistics = registry.Registry()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "shmstats" and hasattr(module, "stats"):
            monkeypatch.setattr(module, "stats", statistics)
    statistics.init({"path": {"data": str(tmp_path / "data")}, "stats": {"capacity": 8192, "max_workers": 4}})
    yield statistics
    statistics.close()


@pytest.fixture
def counts(statistics: registry.Registry) -> Callable[[], object]:
    """Reads the counts."""
    from counted import Counts

    return lambda: Counts(statistics.read())


@pytest.fixture(params=["C", "Python"])
def plain_case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the plain case of a WSGI request in C, and in its pure Python twin."""
    from shmstats import core
    from shmstats.integrations import _exchange_py, wsgi

    if request.param == "C":
        if wsgi.PlainExchange is _exchange_py.PlainExchange:
            if os.environ.get("CI"):
                pytest.fail("the C extension is not built, and CI must test it")
            pytest.skip("the C extension is not built")
        yield
        return
    with monkeypatch.context() as patch:
        patch.setattr(core, "CORE", "Python")
        importlib.reload(wsgi)
        yield
    importlib.reload(wsgi)


@pytest.fixture
def found_by_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make real servers use this checkout of the package in any working directory."""
    monkeypatch.setenv("PYTHONPATH", str(Path(package.__file__).parents[1]), prepend=os.pathsep)
