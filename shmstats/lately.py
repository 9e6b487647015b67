"""What is found out at most once a second, for it costs more than it changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

_Key = TypeVar("_Key")
_Found = TypeVar("_Found")

_SECONDS = 1.0


class Lately(Generic[_Key, _Found]):
    """Keeps what was found for one key, the last one, for a second. Safe to share by threads.

    Args:
        find: finds it out.
    """

    def __init__(self, find: Callable[[_Key], _Found]) -> None:
        self._find = find
        self._last: tuple[_Key, float, _Found] | None = None

    def get(self, key: _Key) -> _Found:
        """Return what was found for a key within the last second, or is found now."""
        last, now = self._last, time.monotonic()
        if last is None or last[0] != key or now - last[1] > _SECONDS:
            last = self._last = key, now, self._find(key)
        return last[2]
