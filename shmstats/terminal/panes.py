"""The lines that ``shmstats top`` shows: a head, and the panes workers, routes, metrics and stacks.

A line is a text and its mark: ``""``, ``"head"``, ``"bad"``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..dashboard.rates import request_figures, route_figures
from ..export.figures import iso_time
from ..export.people import duration, milliseconds, number, share, size
from ..frozen import NamedTuple

#: Seconds after which a request that is still being served is marked.
STUCK_SECONDS = 5.0

#: Share of responses of class 5xx from which on the share is marked.
_MANY_ERRORS = 0.01

#: A line, and its mark.
Line = tuple[str, str]


class Look(NamedTuple):
    """The state at one moment.

    Attributes:
        at: monotonic clock, seconds.
        document: see `shmstats.dashboard.totals`.
        requests: see `shmstats.debug.documents.requests_document`.
    """

    at: float
    document: dict[str, Any]
    requests: dict[str, Any]


def head(title: str, now: Look, before: Look | None, width: int) -> list[Line]:
    """Return the lines above every pane."""
    document = now.document
    workers = [worker for worker in document["workers"] if worker["role"] == "worker"]
    busy = sum(1 for worker in workers if worker["serving"])
    up = duration(max(time.time() - document["started"], 0))
    memory = sum(each["memory"] for each in document["workers"])
    figures = [f"busy {busy} of {len(workers)}", f"memory {size(memory)}"]
    if document["backlog"] is not None:
        figures.insert(1, f"waiting {number(document['backlog'])}")
    lines = [(f"shmstats  {title}  up {up}", "head"), ("  ".join(figures), "")]
    requests = request_figures(document, before.document, now.at - before.at) if before else None
    if requests is not None:
        text = f"{number(requests.rate)} req/s  p50 {milliseconds(requests.p50)}  p99 {milliseconds(requests.p99)}"
        lines.append((f"{text}  errors {share(requests.errors)}", "bad" if requests.errors > _MANY_ERRORS else ""))
    return [*((text[:width], mark) for text, mark in lines), ("", "")]


def workers_pane(now: Look, before: Look | None, width: int) -> list[Line]:
    """Return what each worker does, the longest request first."""
    known = {worker["pid"]: worker for worker in (before.document["workers"] if before else ())}
    serves: dict[int, list[dict[str, Any]]] = {}
    for request in now.requests["requests"]:
        serves.setdefault(request["pid"], []).append(request)
    rows = []
    for worker in now.document["workers"]:
        earlier, requests = known.get(worker["pid"]), serves.get(worker["pid"], [])
        longest = requests[0]["seconds"] if requests else None
        rate = cpu = None
        if earlier is not None and before is not None:
            rate = max(worker["begun"] - earlier["begun"], 0) / (now.at - before.at)
            cpu = max(worker["cpu"] - earlier["cpu"], 0) / (now.at - before.at)
        what = ", ".join(request["request"] for request in requests[:2])
        if worker["serving"] > 2:
            what += f", and {worker['serving'] - 2} more"
        stuck = worker["state"] == "stopped" or (longest or 0) > STUCK_SECONDS
        cells = [
            str(worker["pid"]),
            "master" if worker["role"] == "master" else worker["state"],
            number(rate),
            "-" if cpu is None else share(cpu),
            size(worker["memory"]),
            "" if longest is None else duration(longest),
            what,
        ]
        rows.append((-(longest or 0), cells, "bad" if stuck else ""))
    rows.sort(key=lambda row: row[0])
    columns = (("pid", 7), ("state", -8), ("req/s", 7), ("cpu", 7), ("memory", 9), ("for", 11), ("serves now", 0))
    return _table(columns, [(cells, mark) for _, cells, mark in rows], width)


def routes_pane(now: Look, before: Look | None, width: int) -> list[Line]:
    """Return the routes, ordered by their total time."""
    seconds = now.at - before.at if before else 1.0
    found = route_figures(now.document, before.document if before else None, seconds)
    if not found:
        return [("No integration counts requests by route: see ShmStats of shmstats.integrations.", "")]
    all_time = sum(figures.time for _, figures in found)
    rows = [
        (
            [
                number(figures.rate),
                share(figures.errors),
                milliseconds(figures.p50),
                milliseconds(figures.p99),
                share(figures.time / all_time) if all_time else "-",
                f"{route['method']} {route['route']}",
            ],
            "bad" if figures.errors > _MANY_ERRORS else "",
        )
        for route, figures in found
    ]
    columns = (("req/s", 8), ("errors", 8), ("p50", 9), ("p99", 9), ("time", 8), ("route", 0))
    return _table(columns, rows, width)


def metrics_pane(now: Look, before: Look | None, width: int) -> list[Line]:
    """Return all metrics, an application's own first."""
    known = {tuple(row[:2]): row[4] for row in (before.document["metrics"]["rows"] if before else ())}
    rows = []
    for category, series, kind, unit, value in now.document["metrics"]["rows"]:
        count = value[0] if kind == "histogram" else value
        earlier = known.get((category, series))
        rate = ""
        if before is not None and earlier is not None and kind in ("counter", "histogram"):
            was = earlier[0] if kind == "histogram" else earlier
            rate = f"{number(max(count - was, 0) / (now.at - before.at))}/s"
        rows.append(([value_text(kind, unit, value), rate, f"{category}.{series}"], ""))
    shown = now.document["metrics"]
    lines = _table((("value", 20), ("rate", 10), ("metric", 0)), rows, width)
    if shown["found"] > len(rows):
        lines.append((f"and {shown['found'] - len(rows)} more", ""))
    return lines


def stacks_pane(found: Iterable[Mapping[str, Any]], width: int) -> list[Line]:
    """Return the stacks of each worker's threads; see `shmstats.debug.documents.stacks_document`."""
    lines: list[Line] = []
    for process in found:
        lines.append((f"process {process['pid']}"[:width], "head"))
        for request in process["requests"]:
            lines.append((f"  serves {request['request']} for {duration(request['seconds'])}"[:width], ""))
        for stack in process["stacks"]:
            often = f" ({stack['count']} times)" if stack["count"] > 1 else ""
            if stack["kind"]:
                lines.append((f"  {stack['kind']}{often}"[:width], ""))
            lines += [(f"    {line}"[:width], "") for line in stack["lines"]]
        lines.append(("", ""))
    return lines


def value_text(kind: str, unit: str, value: Any, raw: bool = False) -> str:
    """Return a value for people, or unchanged if ``raw``; of a histogram, given as count and sum, count and mean."""
    if value is None:
        return number(value)
    if kind == "timestamp":
        return iso_time(int(value))[:19]
    if kind != "histogram":
        return _amount(unit, value, raw)
    count, total = value
    if not count:
        return "0"
    mean = total / count
    return f"{number(count)} ({_amount(unit, mean, raw) if unit or raw else milliseconds(mean)})"


def _amount(unit: str, value: float, raw: bool) -> str:
    if raw:
        return str(value)
    return size(value) if unit == "bytes" else f"{number(value)} {unit}".rstrip()


def _table(columns: Sequence[tuple[str, int]], rows: Iterable[tuple[Sequence[str], str]], width: int) -> list[Line]:
    """Return a table: a positive width is right-aligned; a negative one, and the last column, left-aligned."""

    def line(cells: Sequence[str]) -> str:
        shown = [
            cell if not wide else f"{cell:<{-wide}}" if wide < 0 else f"{cell:>{wide}}"
            for (_, wide), cell in zip(columns, cells, strict=True)
        ]
        return "  ".join(shown)[:width].rstrip()

    return [(line([name for name, _ in columns]), "head"), *((line(cells), mark) for cells, mark in rows)]
