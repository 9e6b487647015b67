"""Infos and states in the block: the series of one thing, of which there are no others than were said last."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..block import KindError
from ..block.keys import encode_key
from ..reading.attached import AttachedBlock
from ..series import Kind, Labels
from .attachment import Attachment
from .calls import operation


class Shown(Attachment):
    """What shows infos and states."""

    @operation
    def show(
        self, block: AttachedBlock, category: str, metric: str, base: Labels, wanted: Mapping[Labels, int]
    ) -> None:
        """Have exactly these series of what has some labels.

        Whose series it is stands in its note, for an info has labels of its own beside those of the thing.

        Args:
            block: the attached one.
            category: of the metric.
            metric: of the category.
            base: the labels of the thing.
            wanted: of each series its labels, those of the thing among them, and its value.

        Raises:
            KindError: the metric is no gauge.
        """
        limit = self._settings.stats.max_series_per_metric
        mine, note = self._mine(category, metric), json.dumps(base).encode()
        with block.exclusive():
            kept, families = set(), set()
            for labels, value in wanted.items():
                record = block.find_or_add(encode_key(category, metric, labels), Kind.GAUGE, limit, mine)
                if record.kind is not Kind.GAUGE:
                    raise KindError(
                        f"metric {metric!r} of category {category!r} is a {record.kind.name.lower()}, not an info or"
                        f" a state"
                    )
                block.cells.set_gauge(block.row_for(record), record.cell, value, block.cells.generation)
                if block.names.note(record.number) != note:
                    block.names.annotate(record.number, note)
                kept.add(record.number)
                families.add(record.family)
            beside = [each for family in families for each in block.names.members_of(block.names.record(family))]
            gone = [each for each in beside if each.number not in kept and block.names.note(each.number) == note]
            if gone:
                block.remove([record.number for record in gone])
