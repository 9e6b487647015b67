"""The pure Python twin of section.h: a lock with something to be done at its outermost level."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from types import TracebackType

#: Most attempts of a section to run ``last``.
_MOST_TRIES = 1000


class Section:
    """A lock for ``with``, with callables that run at its outermost level.

    Wherever a signal handler raises, the section is either not entered, or entered and then left by ``with``.
    A handler may also enter the section itself, even while it is being entered or left.

    Python cannot guarantee this as C does: an exception that a signal handler raises just when ``__enter__``
    has the lock, or before the first line of ``__exit__``, leaves the lock taken. If ``last`` has not run then, the
    next thread to leave the section runs it.

    Args:
        lock: an RLock, or another section.
        first: called with the lock held when the outermost level is entered. If it raises, the section is not
            entered, and left as usual.
        last: called with the lock held when the outermost level is left, repeatedly until it does not raise: calling
            it twice must be the same as once. After a number of attempts it is given up. The first error is raised
            when everything is released.
        after: called, if it is true, when a level was left and the calling thread no longer has the lock.
    """

    def __init__(
        self,
        lock: RLock | Section,
        first: Callable[[], object] | None = None,
        last: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        self._take, self._let_go = lock.__enter__, lock.__exit__
        self._is_owned: Callable[[], bool] = lock._is_owned  # type: ignore[union-attr]
        self._first, self._last, self._after = first, last, after
        self._depth = 0
        self._ready = False  # first has returned, and last has not begun

    def __enter__(self) -> None:
        self._take()
        self._depth += 1
        if self._ready:
            return
        try:
            if self._first is not None:
                self._first()
            self._ready = True
        except BaseException as error:
            self._leave([error])
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._depth == 0:
            raise RuntimeError("the section was not entered")
        errors: list[BaseException] = []
        self._leave(errors)
        if errors:
            raise errors[0]

    def _leave(self, errors: list[BaseException]) -> None:
        """Leave one level. Exceptions raised meanwhile are added to the errors."""
        try:
            for _ in range(_MOST_TRIES if self._depth == 1 and self._last is not None else 0):
                self._ready = False
                # If a handler has entered meanwhile and called first again, this was not the last level.
                if _succeeds(self._last, errors) and not self._ready:  # type: ignore[arg-type]
                    break
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._ready = False
            self._let_go(None, None, None)
        if self._after and not self._is_owned():
            _succeeds(self._after, errors)


def _succeeds(call: Callable[[], object], errors: list[BaseException]) -> bool:
    """Call a callable and ignore its result; returns whether it did not raise. Its exception is kept."""
    try:
        call()
    except BaseException as error:
        errors.append(error)
        return False
    return True
