"""Histograms of bounded error: the cost of an observation, and the size of a page."""

from __future__ import annotations

import gzip
import random

from shmstats.bounds import DEFAULT_BOUNDS, buckets_of
from shmstats.export import FORMATS
from shmstats.export.view import PLAIN
from shmstats.series import Distribution, Kind, Name, Snapshot

from ..measure import Loop, available, time_loops
from ..rows import BYTES, Figure, Measured, Row
from ..subjects import Workshop

#: The loops of the peers in `benchmarks.peers.sketches`, by name.
_LOOPS = {"OpenTelemetry exponential": "exponential", "ddsketch": "ddsketch", "hdrhistogram": "hdrhistogram"}

#: The same of ours with explicit bounds.
_BOUNDS = "19 bounds"

#: Observations of each histogram of the page.
_OBSERVATIONS = 1000


def sketches(shop: Workshop) -> list[Row]:
    """An observation with an error of 5 %, by handle."""
    others = {name: lambda: shop.other("sketches") for name in _LOOPS}
    subjects, missing = available({"": shop.ours, _BOUNDS: shop.ours, **others})
    loops = {name: Loop(subject, _LOOPS.get(name, f"observe {name}".strip())) for name, subject in subjects.items()}
    figures = time_loops(loops, shop.effort)
    note = "the peers count in one process only; hdrhistogram takes integers"
    measured = Measured("sketches", "histogram.observe(ms), error 5 %", figures.pop(""), figures, missing, note)
    return [measured.faster("OpenTelemetry exponential", 25), measured.slower(_BOUNDS, 1.1)]


def histogram_sizes(shop: Workshop) -> list[Row]:
    """The size of a page of histograms in each format, with and without gzip."""
    number = shop.effort.of(1000)
    snapshot = _snapshot(number)
    rows = []
    for name in ("prometheus", "openmetrics", "protobuf"):
        content = FORMATS[name].render(snapshot, PLAIN)
        figures = {"with gzip": Figure(len(gzip.compress(content, 6)), BYTES)}
        rows.append(
            Measured("histogram-sizes", f"{number:,} histograms as {name}", Figure(len(content), BYTES), figures).only()
        )
    return rows


def _snapshot(number: int) -> Snapshot:
    """Return this many timings of one metric, lognormal with different means."""
    chance = random.Random(1)
    labels = [(("route", f"/r{i}"),) for i in range(number)]
    names = [Name("http", "request", Kind.HISTOGRAM, each, bounds=DEFAULT_BOUNDS) for each in labels]
    return Snapshot(names, [_observed(chance) for _ in range(number)])


def _observed(chance: random.Random) -> Distribution:
    middle = chance.uniform(0, 6)
    values = [chance.lognormvariate(middle, 0.7) for _ in range(_OBSERVATIONS)]
    return Distribution(sum(values), max(values), buckets_of(values, DEFAULT_BOUNDS), min(values))


CASES = {"sketches": sketches, "histogram-sizes": histogram_sizes}
