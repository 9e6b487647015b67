"""Timing a block of code or a function."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Start:
    """One beginning of a timer; equal only to itself."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self.at = time.perf_counter_ns()
        self.over = False


#: What began in this context and still runs, of all timers: a context keeps every variable that was ever set in it,
#: so a variable for each timer would stay in it for good.
_starts: ContextVar[tuple[_Start, ...]] = ContextVar("shmstats_starts", default=())


class Timer:
    """Reports how long something took, whether it ended well or by an exception.

    A context manager and a decorator, of functions and of ``async`` functions. One object can be used many
    times, also by several threads and tasks at once and inside itself.

    Of a generator function, ``async`` or not, the decorator times the call only, which makes the generator and runs
    nothing of its body: there the body needs a ``with`` statement.

    Args:
        report: called with the duration in ms.
    """

    def __init__(self, report: Callable[[float], object]) -> None:
        self._report = report
        self._running: list[_Start] = []

    def __enter__(self) -> Timer:
        start = _Start(self)
        _starts.set((*_still_running(), start))
        self._running.append(start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The last that began in this context and still runs. There is none where this is another context
        # than it was entered in, as may be for the body of a generator: then the last of all.
        mine = [start for start in _still_running() if start.timer is self]
        start = (mine or self._running)[-1]
        self._running.remove(start)
        start.over = True
        _starts.set(_still_running())
        self._finish(start.at)

    def __call__(self, function: _Function) -> _Function:
        """Return the function, timed at every call; of a generator function not what its generators do.

        Raises:
            TypeError: it is none.
        """
        if not callable(function):
            raise TypeError(f"function must be callable, not {type(function).__name__} ({function!r:.80})")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def timed_async(*args: Any, **kwargs: Any) -> Any:
                start = time.perf_counter_ns()
                try:
                    return await function(*args, **kwargs)
                finally:
                    self._finish(start)

            return timed_async  # type: ignore[return-value]

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self._finish(start)

        return timed  # type: ignore[return-value]

    def _finish(self, start: int) -> None:
        self._report((time.perf_counter_ns() - start) / 1e6)


def _still_running() -> tuple[_Start, ...]:
    """What began in this context, without what has ended in another one, or in a copy of it."""
    return tuple([start for start in _starts.get() if not start.over])
