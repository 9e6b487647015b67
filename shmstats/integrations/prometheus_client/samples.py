"""prometheus_client's samples of all its metrics on the block at one moment.

The families follow from the names alone. They are kept as long as snapshots have the same names object: between two
scrapes the values change, but rarely the names.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from ...frozen import NamedTuple
from ...series import Distribution, Kind, Labels, Name
from .family import CATEGORY, KINDS, ClientFamily, FamilyKey, family_in, state_number
from .internals import metrics


class Line(NamedTuple):
    """A series of a family, and the positions of its values in a snapshot; -1 for none.

    Attributes:
        labels: of the series; the mode *all* adds the label ``pid``.
        value: position of its value.
        fraction: of a counter: position of the fraction to add.
        created: when it was created, in ns since 1970; 0 if unknown.
    """

    labels: Labels
    value: int
    fraction: int = -1
    created: int = 0


Families = dict[FamilyKey, tuple[ClientFamily, list[Line]]]


class Reading(NamedTuple):
    """All metrics at one moment.

    Attributes:
        families: each family with its series, by the family's identity.
        values: of the snapshot, at the positions in the series, each of its family's kind.
        notes: by metric and labels.
    """

    families: Families
    values: Sequence[Any]
    notes: Mapping[tuple[str, Labels], bytes]

    def note(self, family: ClientFamily, line: Line) -> dict[str, Any]:
        """Return the note of a series."""
        return parsed(self.notes.get((family.metric, line.labels), b""))


#: The reading without a block.
NOTHING = Reading({}, (), {})


def families_of(names: Sequence[Name]) -> Families:
    """Return each family with its series, by the names of a snapshot."""
    families: Families = {}
    fractions: dict[tuple[str, Labels], int] = {}
    declared: dict[str, ClientFamily | None] = {}
    for i, name in enumerate(names):
        if name.category != CATEGORY:
            continue
        if name.help not in declared:
            declared[name.help] = family_in(name.help)
        family = declared[name.help]
        if family is None and name.kind is Kind.HISTOGRAM:
            fractions[name.metric, name.labels] = i
        elif family is not None and KINDS[family.type] is name.kind:
            if family.key not in families:
                bounds = name.bounds if family.type == "histogram" else ()
                families[family.key] = replace(family, unit=name.unit, mode=name.mode, bounds=bounds), []
            families[family.key][1].append(Line(name.labels, i, -1, name.created))
    for family, lines in families.values():
        lines[:] = [line._replace(fraction=fractions.get((family.fraction, line.labels), -1)) for line in lines]
    return families


def parsed(note: bytes) -> dict[str, Any]:
    """Return the content of a note; empty if it is not ours."""
    try:
        said = json.loads(note) if note else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


# The samples of one series, with suffixes as their names, by type ------------------------------------


def _counter(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    value = float(reading.values[line.value])
    if line.fraction >= 0:
        value += reading.values[line.fraction].sum
    samples = [Sample("_total", dict(line.labels), value, None, _exemplar(reading.note(family, line), ""))]
    return samples + _created(line)


def _gauge(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    labels = dict(line.labels)
    if len(labels) < len(line.labels):  # the gauge has its own label ``pid``
        *own, (_, pid) = line.labels
        labels = {**dict(own), "worker_pid": pid}
    return [Sample("", labels, float(reading.values[line.value]))]


def _summary(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    value: Distribution = reading.values[line.value]
    return [
        Sample("_count", dict(line.labels), float(value.count)),
        Sample("_sum", dict(line.labels), _sum(value)),
        *_created(line),
    ]


def _histogram(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    value: Distribution = reading.values[line.value]
    note = reading.note(family, line)
    limits = [*map(floatToGoString, family.bounds), "+Inf"]
    samples = [
        Sample("_bucket", {**dict(line.labels), "le": limit}, float(count), None, _exemplar(note, limit))
        for limit, count in zip(limits, itertools.accumulate(value.buckets), strict=True)
    ]
    if not family.bounds or family.bounds[0] >= 0:
        # OpenMetrics forbids a sum where there are negative buckets, and a count without a sum.
        samples.append(Sample("_count", dict(line.labels), float(value.count)))
        samples.append(Sample("_sum", dict(line.labels), _sum(value)))
    return samples + _created(line)


def _info(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    return [Sample("_info", {**dict(line.labels), **reading.note(family, line)}, 1.0)]


def _stateset(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    number = reading.values[line.value]
    # One that was never set is in its first state, as in prometheus_client; 0 means no state.
    current = number or state_number(family.states[0])
    return [
        Sample("", {**dict(line.labels), family.name: state}, 1.0 if state_number(state) == current else 0.0)
        for state in family.states
    ]


#: The functions that make the samples, by type.
SAMPLES = {
    "counter": _counter,
    "gauge": _gauge,
    "summary": _summary,
    "histogram": _histogram,
    "info": _info,
    "stateset": _stateset,
}


def _created(line: Line) -> list[Sample]:
    if not line.created or not metrics._use_created:
        return []
    return [Sample("_created", dict(line.labels), line.created / 10**9)]


def _sum(value: Distribution) -> float:
    """Return the sum of observations: the block stops at the largest float, where floats become infinite."""
    if abs(value.sum) < sys.float_info.max:
        return value.sum
    return math.copysign(math.inf, value.sum)


def _exemplar(note: Mapping[str, Any], limit: str) -> Exemplar | None:
    fields = note.get(limit)
    return None if fields is None else Exemplar(*fields)
