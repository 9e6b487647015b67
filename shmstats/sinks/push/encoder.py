"""What the formats of a push have in common, and which series a push ends."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar

from shmstats.series import Snapshot
from shmstats.sinks.push.http import Answer


class Stale(enum.Enum):
    """The series of a snapshot that are pushed as ended; those that are gone from it always are."""

    NONE = enum.auto()
    #: Gauges of living workers: the last of them has left.
    LIVE = enum.auto()
    ALL = enum.auto()


class Encoder:
    """A format. To be used by one thread.

    Attributes:
        headers: of a request, besides those that every push has.
        can_forget: whether there is a way to end series.
    """

    headers: ClassVar[Mapping[str, str]]
    can_forget = True

    def encode(self, snapshot: Snapshot, at: int, stale: Stale) -> bytes:
        """Return the body of a request.

        Args:
            snapshot: what to push.
            at: ms since 1970, later than that of all bodies before.
            stale: which series end. Those that were accepted, but are not in this snapshot, end in any case.
        """
        raise NotImplementedError

    def accept(self) -> None:
        """Note that the last body was accepted: what it ended needs not be ended again."""

    def rejected(self, answer: Answer) -> str:
        """Return what an answer of success says that was not taken, as one line; empty where all was."""
        return ""
