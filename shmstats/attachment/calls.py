"""How a call gets to the block, and is repeated if another thread has left the block meanwhile.

`operation` is for counting calls, which raise only for mistakes of their caller; `question` is for calls that read.
Both do nothing for None, which stands for the attachment if nothing is counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from .. import lifecycle
from ..block import BlockFullError, DeclarationError, KindError, SeriesLimitError
from ..block.errors import OF_LEAVING
from ..block.lock import deferred
from ..reading.attached import AttachedBlock
from .attachment import Attachment

_Attachment = TypeVar("_Attachment", bound=Attachment)
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def operation(
    do: Callable[Concatenate[_Attachment, AttachedBlock, _Parameters], object],
) -> Callable[Concatenate[_Attachment | None, _Parameters], None]:
    """Make a method run on the attached block, now or as soon as this thread can, and never fail.

    An operation that cannot be done is counted as dropped, and logged once. A method of a replaced attachment
    runs on its successor.
    """

    @functools.wraps(do)
    def call(self: _Attachment | None, /, *arguments: _Parameters.args, **named: _Parameters.kwargs) -> None:
        while self is not None:
            block = self._block
            if block is None or self.ending or self._no_thread_until:
                block = self._attached()
            if block is None:
                if self.retired:
                    successor: Any = self.successor
                    call(successor, *arguments, **named)
                else:
                    self._dropped += 1
                return
            try:
                do(self, block, *arguments, **named)
                if self._dropped:
                    self._count_dropped(block)
                return
            except (KindError, DeclarationError):
                raise
            except (BlockFullError, SeriesLimitError) as error:
                self._log_once(f"a new name is not counted: {error}")
            except Exception as error:
                if is_left(self, block, error):
                    continue
                self._log_once(f"an operation was not counted: {error!r}")
            self._dropped += 1
            self._count_dropped(block)
            return

    return deferred(call)


def is_left(attachment: Attachment, block: AttachedBlock, error: Exception) -> bool:
    """Tell whether an error was caused by another thread that has left the block, so that the call must be repeated.

    Raises:
        Exception: the error, if it has another cause than that, the system, or damage.
    """
    if attachment._block is not block and isinstance(error, OF_LEAVING):
        return True
    if not block.accounts_for(error):
        raise error
    return False


def retried(
    attempt: Callable[Concatenate[_Attachment, AttachedBlock, int, _Parameters], bool],
) -> Callable[Concatenate[_Attachment, AttachedBlock, _Parameters], None]:
    """Repeat a method as long as the names change during it.

    The method gets the generation of the names, and returns whether it was still the same at its end.
    """

    @functools.wraps(attempt)
    def call(
        self: _Attachment, block: AttachedBlock, /, *arguments: _Parameters.args, **named: _Parameters.kwargs
    ) -> None:
        while not attempt(self, block, block.cells.generation, *arguments, **named):
            pass

    return call


def _is_becoming_readable(block: AttachedBlock) -> bool:
    """Tell whether this is a signal handler that interrupted the import of the reading modules."""
    return "reader" not in block.__dict__ and lifecycle.is_importing()


def question(
    nothing: Any,
) -> Callable[
    [Callable[Concatenate[_Attachment, AttachedBlock, _Parameters], _Result]],
    Callable[Concatenate[_Attachment | None, _Parameters], _Result],
]:
    """Make a method, or a function of an attachment, read the attached block.

    Args:
        nothing: the result if there is no block, or no attachment.

    Raises:
        BlockError: the block is damaged.
    """

    def decorate(
        ask: Callable[Concatenate[_Attachment, AttachedBlock, _Parameters], _Result],
    ) -> Callable[Concatenate[_Attachment | None, _Parameters], _Result]:
        @functools.wraps(ask)
        def call(self: _Attachment | None, /, *arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result:
            if self is None:
                return nothing  # type: ignore[no-any-return]
            lifecycle.notice_fork()
            while True:
                block = self._block
                if block is None or self.ending or self._no_thread_until:
                    block = self._attached()
                if block is None or _is_becoming_readable(block):
                    successor: Any = self.successor
                    return call(successor, *arguments, **named)
                try:
                    if self._buffer is not None:
                        self.flush()
                    return ask(self, block, *arguments, **named)
                except Exception as error:
                    # Another thread may have closed the block; it is attached again then.
                    if self._block is block or not isinstance(error, OF_LEAVING):
                        with block.damage_named():
                            raise

        return call

    return decorate
