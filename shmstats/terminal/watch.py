"""``shmstats-dump --watch``: a table on a terminal, redrawn in place, with rates; CSV with the time."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from shmstats.export.people import number
from shmstats.export.printable import aligned, printable
from shmstats.export.tables import label_columns
from shmstats.series import Distribution, Kind, Name, Snapshot, Value
from shmstats.terminal.panes import value_text

#: Go to the upper left corner; clear the rest of a line, and of the screen; show or hide the cursor (ECMA-48).
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_CLEAR = "\x1b[2J"


class TimedTable:
    """Joins several CSV tables into one: with a first column ``time``, and one header."""

    def __init__(self) -> None:
        self._begun = False

    def content(self, table: bytes) -> bytes:
        """Return the rows of a table with the current time, ISO 8601; the first time with the header."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        header, *rows = csv.reader(io.StringIO(table.decode(), newline=""))
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        if not self._begun:
            writer.writerow(["time", *header])
            self._begun = True
        writer.writerows([moment, *row] for row in rows)
        return text.getvalue().encode()


class Repaint:
    """Makes the content of a terminal from one snapshot after another.

    Args:
        raw: whether values are shown unchanged, without units for people.
        columns: labels with a column of their own.
    """

    def __init__(self, raw: bool = False, columns: Sequence[str] = ()) -> None:
        self._raw = raw
        self._columns = tuple(columns)
        self._before: dict[tuple[object, ...], float] = {}
        self._at = 0.0
        self._first = True

    def content(self, snapshot: Snapshot, title: str, now: Callable[[], float] = time.monotonic) -> bytes:
        """Return the bytes to write to the terminal, limited to its number of lines.

        Args:
            snapshot: the one to show.
            title: of the first line.
            now: a clock, in seconds.
        """
        width, height = shutil.get_terminal_size()
        at = now()
        rows = [self._row(name, value, at) for name, value in zip(snapshot.names, snapshot.values, strict=True)]
        empty = [""] * len(self._columns)
        rows += [
            ("", value_text("gauge", "", value, self._raw), *empty, f"system.{metric}")
            for metric, value in snapshot.system.items()
        ]
        self._at = at
        shown = max(height - 3, 1)
        table = [("rate", "value", *self._columns, "metric"), *rows[:shown]]
        *labels, names = ([printable(text) for text in column] for column in list(zip(*table, strict=True))[2:])
        beside = [*(aligned(column, right=False) for column in labels), names]
        lines = [f"{title}  {time.strftime('%H:%M:%S')}"]
        for (rate, amount, *_), *texts in zip(table, *beside, strict=True):
            lines.append("  ".join((f"{amount:>20}", f"{rate:>10}", *texts)))
        if len(rows) > shown:
            lines[-1] = f"and {len(rows) - shown + 1} more; --category chooses"
        text = "".join(f"{printable(line)[: width - 1]}{_CLEAR_LINE}\r\n" for line in lines)
        beginning, self._first = (_CLEAR if self._first else ""), False
        return f"{beginning}{_HOME}{text}{_CLEAR_BELOW}".encode()

    def _row(self, name: Name, value: Value, at: float) -> tuple[str, ...]:
        """Return rate, value, the labels of the columns, and the name with the other labels."""
        key = name[:2] + name.labels
        amount = (value.count, value.sum) if isinstance(value, Distribution) else value
        count = float(value.count if isinstance(value, Distribution) else value)
        before, self._before[key] = self._before.get(key), count
        rate = ""
        if before is not None and at > self._at and (name.monotonic or name.kind is Kind.HISTOGRAM):
            rate = f"{number(max(count - before, 0) / (at - self._at))}/s"
        *labels, others = label_columns(name.labels, self._columns)
        series = f"{name.metric}{{{others}}}" if others else name.metric
        text = value_text(name.kind.name.lower(), name.unit, amount, self._raw)
        return rate, text, *labels, f"{name.category}.{series}"
