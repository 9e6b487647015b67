"""Values that are expensive to find, and are therefore found at most once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

_Key = TypeVar("_Key")
_Found = TypeVar("_Found")

_SECONDS = 1.0


class Lately(Generic[_Key, _Found]):
    """Keeps the value for the last key, for a second. Threads may share it.

    Args:
        find: finds the value.
    """

    def __init__(self, find: Callable[[_Key], _Found]) -> None:
        self._find = find
        self._last: tuple[_Key, float, _Found] | None = None

    def get(self, key: _Key) -> _Found:
        """Return the value for a key: the one found within the last second, or a new one."""
        last, now = self._last, time.monotonic()
        if last is None or last[0] != key or now - last[1] > _SECONDS:
            last = self._last = key, now, self._find(key)
        return last[2]
