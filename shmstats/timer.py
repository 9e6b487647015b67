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
    """One beginning; equal only to itself."""

    def __init__(self) -> None:
        self.at = time.perf_counter_ns()


class Timer:
    """Reports how long something took, whether it ended well or by an exception.

    A context manager and a decorator, of functions and of ``async`` functions. One object can be used many
    times, also by several threads and tasks at once and inside itself.

    Args:
        report: called with the duration in ms.
    """

    def __init__(self, report: Callable[[float], object]) -> None:
        self._report = report
        self._starts: ContextVar[tuple[_Start, ...]] = ContextVar("starts", default=())
        self._running: list[_Start] = []

    def __enter__(self) -> Timer:
        start = _Start()
        self._starts.set((*self._starts.get(), start))
        self._running.append(start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The last that began in this context and still runs. There is none where this is another context
        # than it was entered in, as may be for the body of a generator: then the last of all.
        mine = [start for start in self._starts.get() if start in self._running]
        start = (mine or self._running)[-1]
        self._running.remove(start)
        self._starts.set(tuple(mine[:-1]))
        self._finish(start.at)

    def __call__(self, function: _Function) -> _Function:
        """Return the function, timed at every call."""
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
