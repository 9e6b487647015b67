"""What every process serves at the moment, for people: without the requests of those who only look."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ..block import Worker
from ..reading import BlockReader
from ..reading.requests import Request, Served

#: What the paths end with by which the live page asks, wherever it is mounted.
LOOKS = ("/stats/live", "/stats/live/data", "/stats/history", "/debug/requests", "/debug/stacks")


def serving(reader: BlockReader, workers: Iterable[Worker]) -> list[Served]:
    """Return what each of some workers serves, longest first, without what is only a look."""
    return [
        served._replace(requests=[request for request in served.requests if not is_look(request)])
        for served in reader.served(workers)
    ]


def is_look(request: Request) -> bool:
    """Tell whether a request is one of the live page."""
    return request.text.endswith(LOOKS)


def requests_document(served: Iterable[Served], older_than: float = 0.0) -> dict[str, Any]:
    """Return the requests that are being served, the one that takes longest first.

    Args:
        served: by each worker.
        older_than: seconds that a request must have taken.

    Returns:
        ``requests``: for each ``pid``, ``request`` (method and path), ``began`` (ISO 8601) and ``seconds``; and
        ``further``: how many there are, by pid, of which no more is known.
    """
    served = list(served)
    now = time.time_ns()
    found = sorted((request for each in served for request in each.requests), key=lambda request: request.began)
    return {
        "requests": [
            {
                "pid": request.pid,
                "request": request.text,
                "began": datetime.fromtimestamp(request.began / 1e9, UTC).isoformat(timespec="milliseconds"),
                "seconds": round(seconds, 3),
            }
            for request in found
            if (seconds := max(now - request.began, 0) / 1e9) >= older_than
        ],
        "further": {str(each.worker.pid): each.further for each in served if each.further},
    }
