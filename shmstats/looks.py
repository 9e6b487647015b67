"""Requests by which a person only looks at statistics: no integration counts them, and no list of requests has them."""

from __future__ import annotations

#: Key of a WSGI environment by which an endpoint says so of its request.
UNSEEN = "shmstats.unseen"

_PATHS = ("/stats/live", "/stats/live/data", "/stats/history", "/debug/requests", "/debug/stacks")


def is_look(request: str) -> bool:
    """Tell whether a request, method and path, is one of the live page, wherever that is mounted."""
    return request.endswith(_PATHS)
