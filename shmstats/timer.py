"""Timing a block of code or a function."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from .core import Stopwatch
from .lifecycle import no_fork

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Start:
    """One start of a timer; equal only to itself."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self.at = time.monotonic_ns()
        self.over = False


#: Timings that started in this context and still run, of all timers. One variable for all, because a context keeps
#: every variable that was ever set in it.
_starts: ContextVar[tuple[_Start, ...]] = ContextVar("shmstats_starts", default=())


class Timer(Stopwatch):
    """Measures how long code takes, whether it ends normally or by an exception.

    A context manager, and a decorator of functions and ``async`` functions. One object can be used many
    times, also by several threads and tasks at once and inside itself.

    For a generator function, ``async`` or not, the decorator times only the call that makes the generator, not
    its body: to time the body, use a ``with`` statement in it.

    Args:
        report: a handle of a histogram, or a function that is called with the duration in ms.
    """

    def __call__(self, function: _Function) -> _Function:
        """Return the function, timed at every call; for a generator function, without the body.

        Raises:
            TypeError: it is not callable.
        """
        if not callable(function):
            raise TypeError(f"function must be callable, not {type(function).__name__} ({function!r:.80})")
        with no_fork():
            import inspect  # only for decorators: the import takes longer than everything else here
        now, report_since = time.monotonic_ns, self._report_since
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def timed_async(*args: Any, **kwargs: Any) -> Any:
                start = now()
                try:
                    return await function(*args, **kwargs)
                finally:
                    report_since(start)

            return timed_async  # type: ignore[return-value]

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now()
            try:
                return function(*args, **kwargs)
            finally:
                report_since(start)

        return timed  # type: ignore[return-value]

    def __reduce__(self) -> tuple[Any, ...]:
        return Timer, (self._report,)

    def _enter_again(self) -> Timer:
        """Start while the core times another block by this timer, in this context or another."""
        start = _Start(self)
        _starts.set((*_still_running(), start))
        self._others.append(start)
        return self

    def _exit_again(self) -> None:
        """End the timing that started last in this context and still runs.

        If this context has none, because it is not the one where the timing started (as for the body of a generator),
        the last of all timings ends.
        """
        mine = [start for start in _still_running() if start.timer is self]
        if not mine and (self._first_is_here or not self._others):
            at = self._take_first()
            if not at:
                raise RuntimeError("the timer was not entered")
        else:
            start = (mine or self._others)[-1]
            self._others.remove(start)
            start.over = True
            _starts.set(_still_running())
            at = start.at
        self._report_since(at)


def _still_running() -> tuple[_Start, ...]:
    """Timings that started in this context, without those that have ended in another one or in a copy of it."""
    return tuple([start for start in _starts.get() if not start.over])
