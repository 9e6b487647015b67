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


class Timer:
    """Reports how long something took, whether it ended well or by an exception.

    A context manager and a decorator, of functions and of ``async`` functions. One object can be used many
    times, also by several threads and tasks at once and inside itself.

    Args:
        report: called with the duration in ms.
    """

    def __init__(self, report: Callable[[float], object]) -> None:
        self._report = report
        self._starts: ContextVar[tuple[int, ...]] = ContextVar("starts", default=())
        self._running: list[int] = []

    def __enter__(self) -> Timer:
        start = time.perf_counter_ns()
        self._starts.set((*self._starts.get(), start))
        self._running.append(start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        starts = self._starts.get()
        if starts:
            self._starts.set(starts[:-1])
            self._running.remove(starts[-1])
            self._finish(starts[-1])
        else:
            # Left in another context than it was entered in, as the body of a generator may be.
            self._finish(self._running.pop())

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
