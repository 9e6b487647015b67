"""All metrics of prometheus_client on the block at one moment, in the order of their families.

What follows from the names is made once, as a *plan*, and kept as long as snapshots have the same
names object: between two scrapes the values change, but rarely the names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...frozen import NamedTuple
from ...series import Labels, Name, Value
from .family import CATEGORY, ClientFamily, FamilyKey, Part, part_of


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


class Reading(NamedTuple):
    """All metrics at one moment.

    Attributes:
        families: each family with its series, by the family's identity.
        values: of the snapshot, at the positions in the series.
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
            if part is None or part.kind is not name.kind:
                continue
            if part.role == "fraction":
                fractions[part.family, name.labels] = i
            if part.role != "value":
                continue
            if part.family not in families:
                families[part.family] = _family(name, help_, part), []
            families[part.family][1].append(Line(name.labels, i, -1, name.created))
        for family, (_, lines) in families.items():
            lines[:] = [line._replace(fraction=fractions.get((family, line.labels), -1)) for line in lines]
        return cls(names, families)


#: The reading without a block.
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
    """Return the content of a note; empty if it is not ours."""
    try:
        said = json.loads(note) if note else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
