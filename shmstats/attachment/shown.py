"""Infos and states in the block: the series of one thing, of which only the last ones set exist."""

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
    """The calls that set infos and states."""

    @operation
    def show(
        self, block: AttachedBlock, category: str, metric: str, base: Labels, wanted: Mapping[Labels, int]
    ) -> None:
        """Make a thing's series exactly these.

        The note of a series has the labels of its thing, because an info has further labels of its own.

        Args:
            block: the attached one.
            category: of the metric.
            metric: of the category.
            base: the labels of the thing.
            wanted: labels of each series, including those of the thing, and its value.

        Raises:
            KindError: the metric is not a gauge.
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
