"""Push: the statistics of one data directory, sent to an engine that adds up machines.

`duty` decides when, `sender` sends and judges the answer, `remote_write`, `otlp` and `text` are the formats. What is
imported here is little: every process that attaches asks for the duty, and most push nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmstats.config import Settings

if TYPE_CHECKING:
    from shmstats.sinks.push.duty import PushDuty


def make_duty(settings: Settings) -> PushDuty | None:
    """Return the duty that is configured; None where nothing is pushed."""
    if not settings.push.url:
        return None
    from shmstats.sinks.push.duty import PushDuty

    return PushDuty(settings)
