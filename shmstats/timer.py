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
    """One beginning of a timer; equal only to itself."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self.at = time.monotonic_ns()
        self.over = False


#: What began in this context and still runs, of all timers: a context keeps every variable that was ever set in it,
#: so a variable for each timer would stay in it for good.
_starts: ContextVar[tuple[_Start, ...]] = ContextVar("shmstats_starts", default=())


class Timer(Stopwatch):
    """Reports how long something took, whether it ended well or by an exception.

    A context manager and a decorator, of functions and of ``async`` functions. One object can be used many
    times, also by several threads and tasks at once and inside itself.

    Of a generator function, ``async`` or not, the decorator times the call only, which makes the generator and runs
    nothing of its body: there the body needs a ``with`` statement.

    Args:
        report: a handle of a histogram, or what is called with the duration in ms.
    """

    def __call__(self, function: _Function) -> _Function:
        """Return the function, timed at every call; of a generator function not what its generators do.

        Raises:
            TypeError: it is none.
        """
        if not callable(function):
            raise TypeError(f"function must be callable, not {type(function).__name__} ({function!r:.80})")
        with no_fork():
            import inspect  # only for who decorates: it takes longer than all that times
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
        """Begin while the core times another block by this timer, in this context or another."""
        start = _Start(self)
        _starts.set((*_still_running(), start))
        self._others.append(start)
        return self

    def _exit_again(self) -> None:
        """End what began last in this context and still runs.

        There is none where this is another context than it was entered in, as may be for the body of a generator:
        then the last of all ends.
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
    """What began in this context, without what has ended in another one, or in a copy of it."""
    return tuple([start for start in _starts.get() if not start.over])
