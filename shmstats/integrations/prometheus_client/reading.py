"""Everything that the block has of prometheus_client's metrics at one moment, in the order of families.

What follows from the names is made once, as a *plan*, and kept for as long as snapshots come with the same
names object: between two scrapes the values change, and hardly ever the names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...frozen import NamedTuple
from ...series import Labels, Name, Value
from .family import CATEGORY, ClientFamily, FamilyKey, Part, part_of


class Line(NamedTuple):
    """A series of a family, and where its values are in a snapshot; -1 for nowhere.

    Attributes:
        labels: of the series; the mode *all* adds the label ``pid``.
        value: of it.
        fraction: of a counter: what is to be added.
        created: when it was created, in ns since 1970; 0 where that is not known.
    """

    labels: Labels
    value: int
    fraction: int = -1
    created: int = 0


class Reading(NamedTuple):
    """Everything that was there at one moment.

    Attributes:
        families: the family, and its series, by what tells it from others.
        values: of the snapshot, which the series tell the places of.
        notes: by metric and labels.
    """

    families: Mapping[FamilyKey, tuple[ClientFamily, list[Line]]]
    values: Sequence[Value]
    notes: Mapping[tuple[str, Labels], bytes]

    def note(self, family: ClientFamily, line: Line) -> dict[str, Any]:
        """Return the note of a series."""
        return parsed(self.notes.get((family.metric, line.labels), b""))


class ClientPlan(NamedTuple):
    """What follows from the names of a snapshot.

    Attributes:
        names: of the snapshot.
        families: as in `Reading`.
    """

    names: Sequence[Name]
    families: dict[FamilyKey, tuple[ClientFamily, list[Line]]]

    @classmethod
    def of(cls, names: Sequence[Name]) -> ClientPlan:
        """Make the plan for the names of a snapshot."""
        families: dict[FamilyKey, tuple[ClientFamily, list[Line]]] = {}
        fractions: dict[tuple[FamilyKey, Labels], int] = {}
        for i, name in enumerate(names):
            if name.category != CATEGORY:
                continue
            help_, part = part_of(name.help)
            if part is None:
                continue
            if part.role == "fraction":
                fractions[part.family, name.labels] = i
            if part.role != "value":
                continue
            if part.family not in families:
                families[part.family] = _family(name, help_, part), []
            families[part.family][1].append(Line(name.labels, i, created=name.created))
        for family, (_, lines) in families.items():
            lines[:] = [line._replace(fraction=fractions.get((family, line.labels), -1)) for line in lines]
        return cls(names, families)


#: Where there is no block.
NOTHING = Reading({}, (), {})


def _family(name: Name, help_: str, part: Part) -> ClientFamily:
    about = part.about
    return ClientFamily(
        name=part.family[0],
        type=str(about["type"]),
        help=help_,
        unit=name.unit,
        mode=name.mode,
        bounds=name.bounds if about["type"] == "histogram" else (),
        states=tuple(about.get("states", ())),
        default=bool(about.get("default")),
        instance=part.family[1],
    )


def parsed(note: bytes) -> dict[str, Any]:
    """Return what a note says; nothing where it is none of ours."""
    try:
        said = json.loads(note) if note else {}
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
