"""The requests that every process serves, and the stacks of its threads, as documents for people."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ..block import Worker
from ..reading.requests import Served
from .folding import stacks_of
from .stacks import no_answer


def requests_document(served: Iterable[Served], older_than: float = 0.0) -> dict[str, Any]:
    """Return the requests that are being served, the longest first.

    Args:
        served: by each worker.
        older_than: shortest duration of a request, in seconds.

    Returns:
        ``requests``: for each ``pid``, ``request`` (method and path), ``began`` (ISO 8601) and ``seconds``; and
        ``further``: by pid, the number of requests that have no entry.
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


def stacks_document(answers: Sequence[tuple[Worker, Any | None]], served: Sequence[Served]) -> list[dict[str, Any]]:
    """Return for each process its ``pid``, the ``requests`` that it serves, and its ``stacks`` for people."""
    serving = {each.worker.pid: requests_document([each])["requests"] for each in served}
    return [
        {
            "pid": worker.pid,
            "requests": serving.get(worker.pid, []),
            "stacks": stacks_of([{"goroutine": no_answer(worker.pid), "count": 1}] if answer is None else answer),
        }
        for worker, answer in answers
    ]
