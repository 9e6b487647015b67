"""Requests by which a person only looks at statistics: they are not counted, and no list of requests has them."""

from __future__ import annotations

#: Key of a WSGI environment by which an endpoint marks such a request.
UNSEEN = "shmstats.unseen"

_PATHS = ("/stats/live", "/stats/live/data", "/stats/history", "/debug/requests", "/debug/stacks")


def is_look(request: str) -> bool:
    """Tell whether a request, method and path, belongs to the live page, wherever that is mounted."""
    return request.endswith(_PATHS)
