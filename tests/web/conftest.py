"""Fixtures of the tests of endpoints: an application in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))

import shmstats
from shmstats.web import create_app


@pytest.fixture(scope="session", autouse=True)
def _found_by_servers() -> Iterator[None]:
    """Make real servers use this checkout of the package in any working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(shmstats.__file__).parents[1]), prepend=os.pathsep)
        yield


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data directory of this test; it exists."""
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def serve(data: Path) -> Iterator[Callable[..., FlaskClient]]:
    """Make an application with settings, and a client for it: ``serve(api={"token": "…"})``."""

    def serve(stats: dict[str, Any] | None = None, **sections: Any) -> FlaskClient:
        # not durable: a test requests many pages a second
        small = {"capacity": 256, "max_workers": 2, "durable_exposition": False}
        config = {"path": {"data": str(data)}, "stats": {**small, **(stats or {})}, **sections}
        return create_app(config).test_client()

    yield serve
    shmstats.close()
