"""Done once: messages that are logged once, attributes made at their first use, values found at most once a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

log = logging.getLogger("shmstats")

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_SECONDS = 1.0


class Once:
    """Remembers the messages that were logged: a failure that every call meets again must not fill the log."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def first(self, what: str) -> bool:
        """Return whether a message is new, and must be logged now."""
        if what in self._said:
            return False
        self._said.add(what)
        return True


class Failures(Once):
    """Logs failures of the integrations, each once: they are never raised into an application or its server."""

    def tell(self, what: str, error: BaseException) -> None:
        """Log a failure, once.

        Args:
            what: failed, in words.
            error: the exception.
        """
        if self.first(what):
            log.error("%s: %r", what, error, exc_info=error)


class lazy_property(Generic[_Value]):  # noqa: N801 - a decorator, as `property` is
    """An attribute that is made at its first use; threads that use it at the same time may each make it.

    `functools.cached_property` has a lock, which a thread that the child of a fork does not have may hold.
    """

    def __init__(self, make: Callable[[Any], _Value]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> _Value:
        made = instance.__dict__[self._name] = self._make(instance)
        return made


class Lately(Generic[_Key, _Value]):
    """Keeps the value for the last key, for a second. Threads may share it.

    Args:
        find: finds the value.
    """

    def __init__(self, find: Callable[[_Key], _Value]) -> None:
        self._find = find
        self._last: tuple[_Key, float, _Value] | None = None

    def get(self, key: _Key) -> _Value:
        """Return the value for a key: the one found within the last second, or a new one."""
        last, now = self._last, time.monotonic()
        if last is None or last[0] != key or now - last[1] > _SECONDS:
            last = self._last = key, now, self._find(key)
        return last[2]
