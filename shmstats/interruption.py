"""Tells the errors of an application's signal handlers from our own: those are the application's to catch.

A handler may raise at any line of ours, and what it raises may look like an error that is survived here: a time-out
by SIGALRM is often a `TimeoutError`, which is an `OSError`.
"""

from __future__ import annotations

import signal
import sys
from types import CodeType, FrameType

#: The packages whose classes of exceptions can be of our own errors.
_KNOWN = sys.stdlib_module_names | {__name__.partition(".")[0], "builtins", "numpy", "yaml"}


def came_from_handler(error: BaseException) -> bool:
    """Tell whether an error that was caught was raised by a signal handler, or by another thread (as time-outs are).

    That is so where its class is none that anything called here raises, and where a frame of its traceback is one of
    a signal handler: what was interrupted is among its arguments, or its function is one that handles signals.
    """
    if type(error).__module__.partition(".")[0] not in _KNOWN:
        return True
    trace = error.__traceback__
    interrupted = None
    codes: set[CodeType] | None = None
    while trace is not None:
        if interrupted is not None:
            codes = _handlers() if codes is None else codes
            if trace.tb_frame.f_code in codes or _was_given(trace.tb_frame, interrupted):
                return True
        interrupted, trace = trace.tb_frame, trace.tb_next
    return False


def _handlers() -> set[CodeType]:
    """Return the code of the functions that handle signals now."""
    codes = set()
    for number in signal.valid_signals():
        handler: object = signal.getsignal(number)
        handler = getattr(handler, "func", handler)  # of functools.partial
        handler = getattr(handler, "__func__", handler)  # of a method
        code = getattr(handler, "__code__", None)
        if isinstance(code, CodeType):
            codes.add(code)
    return codes


def _was_given(frame: FrameType, interrupted: FrameType) -> bool:
    """Tell whether a call was given the frame that it interrupted, by itself or among further arguments."""
    values = frame.f_locals.values()
    return any(
        value is interrupted or (type(value) is tuple and any(part is interrupted for part in value))
        for value in values
    )
