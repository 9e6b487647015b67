"""Figures of the processes that count into a block, and of those that their server has forked beside them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from ..proc import ProcessUse, forks_of, uses_of
from ..reading.requests import Served


def worker_figures(served: Iterable[Served]) -> Iterator[dict[str, Any]]:
    """Give figures of each process that still exists, without details of the requests that it serves.

    A process attaches when it counts for the first time. Processes that have not attached, but were forked by the
    master of one that has, are included, because they serve requests too.

    ``pid``, ``state`` (a word), ``role`` (``master`` if others are its children, else ``worker``), ``started``
    (seconds since 1970), ``begun`` (number of requests), ``serving`` (number of requests now), ``oldest`` (start of the
    first of these, in seconds since 1970), ``cpu`` (seconds) and ``memory`` (bytes).
    """
    found = {each.worker.pid: each for each in served}
    uses = dict(uses_of(found))
    parents = {use.parent for use in uses.values()}
    beside = dict(each for parent in parents for each in forks_of(parent, found))
    for pid, use in (uses | beside).items():
        each = found.get(pid)
        begun, requests = (each.begun, each.requests) if each else (0, ())
        yield {
            "pid": pid,
            "state": _state(use, each),
            "role": "master" if pid in parents and not begun else "worker",
            "started": round(time.time() - use.age),
            "begun": begun,
            "serving": len(requests) + (each.further if each else 0),
            "oldest": round(requests[0].began / 1e9, 1) if requests else None,
            "cpu": round(use.cpu, 2),
            "memory": use.resident,
        }


def _state(use: ProcessUse, served: Served | None) -> str:
    """Return the state of a process as a word."""
    if use.state in "Tt":
        return "stopped"
    if use.state == "Z":
        return "ended"
    if served is not None and (served.requests or served.further):
        return "waits for disk" if use.state == "D" else "busy"
    return "idle"
