"""How a call comes to the block, again where another thread has left it meanwhile.

`operation` is for calls that count, which raise their caller's mistakes only, and `question` for calls that read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from .. import lifecycle
from ..block import BlockFullError, DeclarationError, KindError, SeriesLimitError
from ..block.errors import OF_LEAVING
from ..reading.attached import AttachedBlock
from .attachment import Attachment
from .deferring import deferred

_Attachment = TypeVar("_Attachment", bound=Attachment)
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def operation(
    do: Callable[Concatenate[_Attachment, AttachedBlock, _Parameters], object],
) -> Callable[Concatenate[_Attachment, _Parameters], None]:
    """Have a method done on the attached block, now or as soon as this thread can, and never fail.

    What cannot be done is counted as dropped, and logged once. A method of an attachment that another has taken the
    place of is done there.
    """

    @functools.wraps(do)
    def call(self: _Attachment, /, *arguments: _Parameters.args, **named: _Parameters.kwargs) -> None:
        while True:
            block = self._block
            if block is None or self.ending or self._no_thread_until:
                block = self._attached()
            if block is None:
                if self.retired:
                    _pass_on(self, do.__name__, *arguments, **named)
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
    """Tell whether an error came of another thread that has left the block: what was done is to be done anew.

    Raises:
        Exception: the error, if it is neither of that, nor of the system or of damage.
    """
    if attachment._block is not block and isinstance(error, OF_LEAVING):
        return True
    if not block.accounts_for(error):
        raise error
    return False


def retried(
    attempt: Callable[Concatenate[_Attachment, AttachedBlock, int, _Parameters], bool],
) -> Callable[Concatenate[_Attachment, AttachedBlock, _Parameters], None]:
    """Have a method done again as long as the names move on under it.

    It gets the generation of the names before it looks any up, and returns whether that held until it was done.
    """

    @functools.wraps(attempt)
    def call(
        self: _Attachment, block: AttachedBlock, /, *arguments: _Parameters.args, **named: _Parameters.kwargs
    ) -> None:
        while not attempt(self, block, block.cells.generation, *arguments, **named):
            pass

    return call


def _pass_on(retired: Attachment, method: str, *arguments: Any, **named: Any) -> None:
    if retired.successor is not None:
        getattr(retired.successor, method)(*arguments, **named)


def _is_becoming_readable(block: AttachedBlock) -> bool:
    """Tell whether this is a signal handler in the middle of the import of what reads."""
    return "reader" not in block.__dict__ and lifecycle.is_importing()


def question(
    nothing: _Result,
) -> Callable[
    [Callable[Concatenate[_Attachment, AttachedBlock, _Parameters], _Result]],
    Callable[Concatenate[_Attachment, _Parameters], _Result],
]:
    """Have a method read the attached block.

    Args:
        nothing: what is returned where there is none.

    Raises:
        BlockError: the block is damaged.
    """

    def decorate(
        ask: Callable[Concatenate[_Attachment, AttachedBlock, _Parameters], _Result],
    ) -> Callable[Concatenate[_Attachment, _Parameters], _Result]:
        @functools.wraps(ask)
        def call(self: _Attachment, /, *arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result:
            lifecycle.notice_fork()
            while True:
                block = self._block
                if block is None or self.ending or self._no_thread_until:
                    block = self._attached()
                if block is None or _is_becoming_readable(block):
                    successor: Any = self.successor
                    return nothing if successor is None else getattr(successor, ask.__name__)(*arguments, **named)
                try:
                    if self._buffer is not None:
                        self.flush()
                    return ask(self, block, *arguments, **named)
                except Exception as error:
                    # Another thread may have closed the block meanwhile; it is attached anew then.
                    if self._block is block or not isinstance(error, OF_LEAVING):
                        with block.damage_named():
                            raise

        return call

    return decorate
