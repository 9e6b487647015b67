"""The statistics as rows, for CSV and the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shmstats.frozen import NamedTuple
from shmstats.series import Kind, Labels, Name, Snapshot, Value, label_text

#: The worker of a row with the value over all workers.
TOTAL = "total"


class Row(NamedTuple):
    """One value of one series: that of a worker row, or the total."""

    name: Name
    worker: str
    value: Value


def rows(snapshot: Snapshot) -> Iterator[Row]:
    """Give every series' total, each followed by the workers' values, then the system's figures."""
    for i, (name, value) in enumerate(zip(snapshot.names, snapshot.values, strict=True)):
        yield Row(name, TOTAL, value)
        for worker, values in snapshot.workers.items():
            own = values[i]
            if own is not None:
                yield Row(name, str(worker), own)
    for metric, figure in snapshot.system.items():
        yield Row(Name("system", metric, Kind.GAUGE), TOTAL, figure)


def label_columns(labels: Labels, columns: Sequence[str]) -> list[str]:
    """Return the values of labels with a column of their own, "" for a missing one, and the other labels as text."""
    values = dict(labels)
    others = label_text((name, value) for name, value in labels if name not in columns)
    return [*(values.get(name, "") for name in columns), others]
