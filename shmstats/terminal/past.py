"""``shmstats-dump --history``: the last 24 hours as a table for pandas, or as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from shmstats.export.printable import json_text
from shmstats.history.ring import RingError
from shmstats.terminal.command import NotThereError

FORMATS = ("csv", "json")

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?P<count>[0-9]{1,9}(?:\.[0-9]+)?) *(?P<unit>s|m|min|h|d|)")


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 or so
    """The type of an option for a duration: ``90``, ``10s``, ``15m``, ``1h``, ``1d``; its value is in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds; anything but a duration above 0 is wrong usage."""
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(str(value))
        seconds = float(match["count"]) * _UNITS[match["unit"]] if match else 0.0
        if not seconds:
            self.fail(f"found {value!r}; allowed: a time above 0, as 90, 10s, 15m, 1h, 1d", param, ctx)
        return seconds


def past_content(data: Path, since: float, step: float | None, form: str, globs: Sequence[str]) -> bytes:
    """Return values from the history's ring, as JSON or CSV.

    Args:
        data: the data directory.
        since: seconds before now.
        step: seconds between values; None: chosen for about 300 values.
        form: of `FORMATS`.
        globs: of the categories; empty: all.

    Raises:
        NotThereError: there is no history, or nothing in it matches.
        UsageError: there would be too many steps.
    """
    # Only here: a dump of current values does not need numpy.
    from shmstats.history.documents import to_csv, to_json
    from shmstats.history.past import Query, QueryError, read_past

    try:
        query = Query.made(-since, None, None if step is None else max(int(step), 1), [f"{glob}.*" for glob in globs])
        past = read_past(data, query)
    except QueryError as error:
        raise click.UsageError(str(error)) from error
    except FileNotFoundError:
        raise NotThereError(
            f"there is no history for the data directory {data}: it is kept while an application runs, where"
            " stats.persist and history.enabled are true"
        ) from None
    except RingError as error:
        raise NotThereError(str(error)) from error
    if globs and not past.series:
        raise NotThereError(f"no series in the history of {data} matches {', '.join(map(repr, globs))}")
    if form == "json":
        return (json_text(to_json(past)) + "\n").encode(errors="backslashreplace")
    return to_csv(past).encode(errors="backslashreplace")
