"""Health as series, for those who scrape: gauges in the library's own category, after all that is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..series import Kind, Name, Snapshot
from .own_metrics import OWN

#: What is shown of `shmstats.attachment.health.health`, with a sentence about it. Errors and the saver are 1 or 0.
_FIGURES = {
    "saved_seconds_ago": "Time since the last snapshot was saved.",
    "save_error": "Whether the last save failed.",
    "saver": "Whether a process saves.",
    "agents": "Live workers that answer questions of others.",
    "agents_missing": "Live workers that do not.",
    "pushed_seconds_ago": "Time since the last push succeeded.",
    "push_error": "Whether the last push failed.",
    "pool": "Largest share in use of what the block has.",
}
_WHETHER = frozenset({"save_error", "saver", "push_error"})


class HealthSeries:
    """Puts health after the series of snapshots; the same names again give the same object, as in a reader."""

    def __init__(self) -> None:
        self._last: tuple[Sequence[Name], tuple[str, ...], Sequence[Name]] = (), (), ()

    def added(self, snapshot: Snapshot, found: Mapping[str, Any]) -> Snapshot:
        """Return a snapshot with health after its series; what never happened has none.

        Args:
            snapshot: without a breakdown by worker.
            found: from `shmstats.attachment.health.health`.
        """
        figures = {
            metric: float(found[metric] is not None) if metric in _WHETHER else found[metric]
            for metric in _FIGURES
            if metric in _WHETHER or found[metric] is not None
        }
        names, shown, extended = self._last
        if names is not snapshot.names or shown != tuple(figures):
            own = [Name(OWN, metric, Kind.GAUGE, help=_FIGURES[metric]) for metric in figures]
            extended = [*snapshot.names, *own]
            self._last = snapshot.names, tuple(figures), extended
        return replace(snapshot, names=extended, values=[*snapshot.values, *figures.values()])
