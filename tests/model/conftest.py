"""The package under the scheduler of threads: see `schedule`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from schedule import Lock, Thread

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


@pytest.fixture
def controlled(shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package, with the locks and threads of `schedule`."""
    native, lifecycle, lock = (
        importlib.import_module(f"shmstats.{name}") for name in ("native", "lifecycle", "block.lock")
    )
    with monkeypatch.context() as patch:
        patch.setattr(native, "RLock", Lock)
        patch.setattr(native, "Thread", Thread)
        patch.setattr(lifecycle, "_forking", Lock())
        patch.setattr(os, "fsync", lambda descriptor: None)
        lock.guards.forget()
        yield shmstats
    lock.guards.forget()
