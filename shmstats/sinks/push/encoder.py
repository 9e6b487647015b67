"""The common interface of the formats of a push, and the series that a push ends."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar

from shmstats.series import Snapshot
from shmstats.sinks.push.http import Answer


class Stale(enum.Enum):
    """The series of a snapshot that are pushed as ended; series that are missing from it always are."""

    NONE = enum.auto()
    #: Gauges of living workers: the last worker has left.
    LIVE = enum.auto()
    ALL = enum.auto()


class Encoder:
    """A format. For use by one thread.

    Attributes:
        headers: of a request, in addition to those of every push.
        can_forget: whether the format can end series.
    """

    headers: ClassVar[Mapping[str, str]]
    can_forget = True

    def encode(self, snapshot: Snapshot, at: int, stale: Stale) -> bytes:
        """Return the body of a request.

        Args:
            snapshot: to push.
            at: ms since 1970, later than that of all bodies before.
            stale: the series to end. Series that were accepted before, but are not in this snapshot, end in any case.
        """
        raise NotImplementedError

    def accept(self) -> None:
        """The last body was accepted: the series that it ended need not be ended again."""

    def rejected(self, answer: Answer) -> str:
        """Return as one line what a successful answer reports as rejected; empty if nothing was."""
        return ""
