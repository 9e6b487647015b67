"""Figures and rows of the table: the measured work, the sides, and whether a target is met.

A case measures once and makes a row for each target with the methods of `Measured`, for example
``Measured("inc", "bound handle", ours, {"prometheus_client": theirs}).faster("prometheus_client", 50)``. A target that
could not be measured is neither met nor missed; its row says why.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

#: The units of figures. Times are kept in ns and shown in a readable unit.
NS = "ns"
BYTES = "bytes"
PER_SECOND = "/s"


@dataclass(frozen=True)
class Figure:
    """A measured number.

    Attributes:
        value: in ``unit``.
        unit: NS, BYTES or PER_SECOND.
        spread: of the repeats: the distance of their quartiles over their median; None for one repeat.
        repeats: how many there were.
    """

    value: float
    unit: str = NS
    spread: float | None = None
    repeats: int = 1

    @classmethod
    def best(cls, repeats: Sequence[float], unit: str = NS) -> Figure:
        """Take the least: noise only adds to the time of a short loop."""
        return cls(min(repeats), unit, spread_of(repeats), len(repeats))

    @classmethod
    def median(cls, repeats: Sequence[float], unit: str = NS) -> Figure:
        """Take the median: for work whose own time varies."""
        return cls(statistics.median(repeats), unit, spread_of(repeats), len(repeats))

    def __str__(self) -> str:
        return _shown(self.value, self.unit)


def spread_of(repeats: Sequence[float]) -> float | None:
    """Return the distance of the quartiles over the median; None if that means nothing."""
    if len(repeats) < 2 or not statistics.median(repeats):
        return None
    low, middle, high = statistics.quantiles(repeats, n=4, method="inclusive")
    return abs((high - low) / middle)


def _shown(value: float, unit: str) -> str:
    scales = {
        NS: ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")),
        BYTES: ((2**20, "MiB"), (2**10, "KiB"), (1, "B")),
        PER_SECOND: ((1, "/s"),),
    }[unit]
    scale, name = next((pair for pair in scales if abs(value) >= pair[0]), scales[-1])
    return f"{number(value / scale)} {name}"


def number(value: float) -> str:
    """Return a number with three significant digits, and all digits before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        case: its name.
        work: the measured work, in a few words.
        ours: our figure; None if it was not measured.
        peers: those of the peers, by name.
        ratio: the subject of the target; None if that is the figure itself.
        target: in words; "" for a row that only shows.
        met: None if there is no target, or it was not measured.
        note: why it was not measured, or a remark about it.
    """

    case: str
    work: str
    ours: Figure | None
    peers: dict[str, Figure] = field(default_factory=dict)
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """met, missed, or that it was not measured; nothing for a row without a target."""
        if not self.target:
            return ""
        return "not measured" if self.met is None else "met" if self.met else "missed"

    @property
    def fails(self) -> bool:
        """Whether there is a target, and it is not met."""
        return bool(self.target) and not self.met

    def plain(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return {
            "case": self.case,
            "work": self.work,
            "ours": None if self.ours is None else vars(self.ours),
            "peers": {name: vars(figure) for name, figure in self.peers.items()},
            "ratio": self.ratio,
            "target": self.target,
            "verdict": self.verdict,
            "note": self.note,
        }


@dataclass(frozen=True)
class Measured:
    """The result of one measurement, which makes the rows of its targets.

    Attributes:
        case: its name.
        work: the measured work.
        ours: our figure.
        peers: those of the peers.
        missing: why a peer has none, by name.
        note: for the rows.
    """

    case: str
    work: str
    ours: Figure
    peers: dict[str, Figure] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def slower(self, peer: str, limit: float) -> Row:
        """Return the row of a target: ours costs at most this many times the peer's."""
        return self._beside(peer, f"≤ {number_of(limit)} × {peer}", lambda ours, theirs: ours / theirs, limit)

    def faster(self, peer: str, least: float) -> Row:
        """Return the row of a target: the peer's costs at least this many times ours."""
        target = f"≥ {number_of(least)} × faster than {peer}"
        row = self._beside(peer, target, lambda ours, theirs: theirs / ours, None)
        return row if row.ratio is None else _replace(row, met=row.ratio >= least)

    def smaller(self, peer: str, least: float) -> Row:
        """Like `faster`, for a size."""
        row = self.faster(peer, least)
        return _replace(row, target=f"≤ 1/{number_of(least)} of {peer}")

    def at_most(self, limit: float, target: str = "") -> Row:
        """Return the row of a target: ours is at most this."""
        shown = target or f"≤ {_shown(limit, self.ours.unit)}"
        return self._row(target=shown, met=self.ours.value <= limit)

    def only(self) -> Row:
        """Return a row without a target."""
        return self._row()

    def that(self, target: str, met: bool, ratio: float | None = None) -> Row:
        """Return the row of any other target."""
        return self._row(target=target, met=met, ratio=ratio)

    def _beside(self, peer: str, target: str, ratio: Any, limit: float | None) -> Row:
        theirs = self.peers.get(peer)
        if theirs is None:
            why = self.missing.get(peer, "it has no figure for this")
            return self._row(target=target, note=f"not measured: {peer}: {why}")
        value = ratio(self.ours.value, theirs.value) if theirs.value and self.ours.value else float("inf")
        return self._row(target=target, ratio=value, met=limit is not None and value <= limit)

    def _row(self, note: str = "", **more: Any) -> Row:
        notes = [note or self.note]
        if not note:
            notes += [f"{peer}: {why}" for peer, why in self.missing.items()]
        text = "; ".join(each for each in notes if each)
        return Row(self.case, self.work, self.ours, self.peers, note=text, **more)


def number_of(limit: float) -> str:
    """Return a limit as it was written."""
    return f"{limit:g}"


def not_measured(case: str, work: str, target: str, why: str) -> Row:
    """Return the row of a target that could not be measured."""
    return Row(case, work, None, target=target, note=f"not measured: {why}")


def _replace(row: Row, **changes: Any) -> Row:
    return Row(**{**vars(row), **changes})
