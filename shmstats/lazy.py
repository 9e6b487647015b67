"""`functools.cached_property` without its lock, which a thread that the child of a fork does not have may hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

_Value = TypeVar("_Value")


class lazy_property(Generic[_Value]):  # noqa: N801 - a decorator, as `property` is
    """An attribute that is made at its first use; threads that use it at the same time may each make it."""

    def __init__(self, make: Callable[[Any], _Value]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> _Value:
        made = instance.__dict__[self._name] = self._make(instance)
        return made
