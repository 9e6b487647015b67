"""Deferring calls that come while their thread holds the guard: they are done when the thread has released it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from os import getpid
from typing import Concatenate, ParamSpec, TypeVar

from .. import lifecycle
from ..block.lock import guards

_Self = TypeVar("_Self")
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def deferred(
    call: Callable[Concatenate[_Self, _Parameters], _Result],
) -> Callable[Concatenate[_Self, _Parameters], _Result | None]:
    """Make a method run as soon as this thread has released the guard of this process; then it returns None.

    That is so if a signal handler has interrupted the thread while it held the guard.
    """

    @functools.wraps(call)
    def now_or_later(self: _Self, /, *arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result | None:
        if getpid() != lifecycle.known_pid:
            lifecycle.notice_fork()
        guard = guards.current
        if not guard.is_held():
            return call(self, *arguments, **named)
        guard.defer(functools.partial(now_or_later, self, *arguments, **named))
        return None

    return now_or_later
