"""The array over the shared memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_the_array_is_the_memory_that_all_processes_count_into(stats: Any, data: Path) -> None:
    stats.init({"path": {"data": str(data)}, "stats": {"persist": False, "capacity": 256, "max_workers": 2}})
    counter = stats.counter("c", "m")
    counter.incr(5)
    array = stats.array()
    assert (array.shape[0], array.dtype.itemsize) == (3, 8)
    own = array["value"].sum(axis=0)
    counter.incr(37)
    assert sorted(set((array["value"].sum(axis=0) - own).tolist())) == [0, 37]
    with pytest.raises(ValueError, match="read-only"):
        array["value"][0, 0] = 1
    stats.close()
    assert array["value"].sum() >= 42  # it keeps the memory mapped
