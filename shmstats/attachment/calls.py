"""How a call comes to the block: later where this thread is busy with one, again where the block was left meanwhile.

`deferred` is for what changes something, `operation` for what counts, which never fails by what is not its caller's
mistake, and `question` for what reads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from os import getpid
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from .. import lifecycle
from ..block import BlockFullError, DeclarationError, KindError, SeriesLimitError
from ..block.errors import OF_LEAVING
from ..block.lock import guards
from ..reading import AttachedBlock

if TYPE_CHECKING:
    from .attachment import Attachment


_Attachment = TypeVar("_Attachment", bound="Attachment")
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def deferred(
    call: Callable[Concatenate[_Attachment, _Parameters], _Result],
) -> Callable[Concatenate[_Attachment, _Parameters], _Result | None]:
    """Have a method done as soon as this thread has left the guard of this process; then it returns None.

    A signal handler may have interrupted the thread inside of it.
    """

    @functools.wraps(call)
    def now_or_later(self: _Attachment, /, *arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result | None:
        if getpid() != lifecycle.known_pid:
            lifecycle.notice_fork()
        guard = guards.current
        if not guard.is_held():
            return call(self, *arguments, **named)
        guard.defer(functools.partial(now_or_later, self, *arguments, **named))
        return None

    return now_or_later


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
                if self._block is not block and isinstance(error, OF_LEAVING):
                    continue  # another thread has closed the block; it is attached anew
                if not block.accounts_for(error):
                    raise
                self._log_once(f"an operation was not counted: {error!r}")
            self._dropped += 1
            self._count_dropped(block)
            return

    return deferred(call)


def _pass_on(retired: Attachment, method: str, *arguments: Any, **named: Any) -> None:
    if retired.successor is not None:
        getattr(retired.successor, method)(*arguments, **named)


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
                block = self._attached()
                if block is None:
                    successor: Any = self.successor
                    return nothing if successor is None else getattr(successor, ask.__name__)(*arguments, **named)
                try:
                    self.flush()
                    with block.damage_named():
                        return ask(self, block, *arguments, **named)
                except OF_LEAVING:
                    # Another thread may have closed the block meanwhile; it is attached anew then.
                    if self._block is block:
                        raise

        return call

    return decorate
