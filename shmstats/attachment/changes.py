"""Changes of names: declaring, removing, setting to 0, infos and states, for all workers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..block import KindError, Record
from ..block.declarations import Definition
from ..block.declaring import Change, give_way
from ..block.keys import encode_key
from ..block.lock import deferred
from ..block.records import CARRIED
from ..exemplars import read_exemplars
from ..reading.attached import AttachedBlock
from ..series import INFO, Declaration, Kind, Labels
from .attachment import Attachment, tell_change
from .calls import is_left, operation, question


class Changes(Attachment):
    """The calls that change names under the table lock."""

    @deferred
    def declare(self, category: str, metric: str, declared: Declaration) -> Change | None:
        """Declare a metric in the block, now or as soon as this thread can, and in any that is attached later.

        Returns the change, if it was done now. Changes and failures are logged.
        """
        former = self._declared.get((category, metric))
        if former is None or former.declared != declared:
            self._declared[category, metric] = Definition.now(declared)
        while (block := self._attached()) is not None:
            try:
                return self._declare(block, category, metric)
            except Exception as error:
                if is_left(self, block, error):
                    continue
                self._log_once(f"metric {metric!r} of category {category!r} is not declared: {error}")
                break
        return None

    @question(False)
    def give_way(self, block: AttachedBlock, category: str, metric: str, rivals: list[str]) -> bool:
        """Withdraw metrics that share names on the page with a declared one, so that only the newest one is shown.

        Args:
            block: the attached one.
            category: of the metrics.
            metric: declared by this process.
            rivals: the others.

        Returns:
            Whether any of them was withdrawn.
        """
        change = give_way(block, category, metric, self._declared[category, metric], rivals)
        if change is not None:
            tell_change(category, metric, change)
        return change is not None

    @deferred
    @question(0)
    def remove(self, block: AttachedBlock, category: str, metric: str | None, labels: Labels | None = None) -> int:
        """Remove series; returns their number, or None if it is done later. The metric's declaration stays.

        Args:
            block: the attached one.
            category: of the series.
            metric: of the category; None for all.
            labels: of one series; None for all of the metric.
        """
        with block.exclusive():
            numbers = _matching(block, category, metric, labels)
            block.remove(numbers)
        return len(numbers)

    @deferred
    @question(0)
    def reset(self, block: AttachedBlock, category: str, metric: str | None, labels: Labels | None = None) -> int:
        """Set series to 0, chosen as in `remove`; returns their number, or None if it is done later.

        Timestamps and infos have no 0: they are removed. Exemplars of the series are removed, too.
        """
        with block.exclusive():
            records = list(map(block.names.record, _matching(block, category, metric, labels)))
            gone = [record for record in records if record.kind is Kind.TIMESTAMP or _is_info(block, record)]
            if gone:
                block.remove([record.number for record in gone])
            for record in records:
                block.stripes.clear(record)
                block.names.set_flags(record, record.flags & ~CARRIED)
                if read_exemplars(block.names.note(record.number)):
                    block.names.annotate(record.number, b"")
        return len(records)

    @operation
    def show(
        self, block: AttachedBlock, category: str, metric: str, base: Labels, wanted: Mapping[Labels, int]
    ) -> None:
        """Make the series of a thing exactly these: infos and states, of which only the last ones set exist.

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


def _is_info(block: AttachedBlock, record: Record) -> bool:
    declared = block.declared(block.names.record(record.family)) if record.family >= 0 else None
    return declared is not None and declared.shown == INFO


def _matching(block: AttachedBlock, category: str, metric: str | None, labels: Labels | None) -> list[int]:
    """Return the numbers of the series of a category, or of one of its metrics, or of one of its series.

    The table lock is held.
    """
    names = block.names
    if metric is None:
        prefix = category.encode() + b"\0"
        return [record.number for record in names.records() if names.key(record.number).startswith(prefix)]
    key = encode_key(category, metric, labels or ())
    found, family = names.find(key), None if labels is not None else names.family_of(key)
    members = [] if family is None else names.numbers_of(family.number)
    if found is not None and found.number not in members:
        members.append(found.number)
    return members
