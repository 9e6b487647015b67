"""A fixture for tests of code that counts: it gives a test an empty registry, which is never saved.

pytest finds it by the entry point ``pytest11``; nothing needs to be imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .registry import Registry


@pytest.fixture
def shmstats_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """``shmstats.stats``, empty for this test; what the test counts is separate from all else, and removed afterwards.

    Declarations stay, and the previous configuration is restored afterwards.
    """
    from .registry import stats

    directory: Path = tmp_path_factory.mktemp("shmstats")
    mapping = {"path": {"data": str(directory)}, "stats": {"persist": False, "capacity": 16384, "max_workers": 8}}
    with stats.configured_as(mapping):
        yield stats
