"""Writes the requests that this process serves to the table of requests, for the live page and other readers.

If several integrations see a request, the outermost one writes it: gunicorn's hooks, if they see it.
"""

from __future__ import annotations

import logging
from typing import Any

from .. import registry as registries

log = logging.getLogger("shmstats")

#: Results of `Serving.begin` if the block was left, and if nothing is written.
LEFT, NOT_NOTED = -1, -2


class Serving:
    """Writes requests for one integration.

    Args:
        outermost: whether it sees each request before any other integration; others then write nothing.

    Attributes:
        begin: called with method and path when a request comes; returns the argument for ``end``, or `LEFT`,
            after which `again` must be called instead.
        end: called at the end of the request.
    """

    _outermost: Serving | None = None

    def __init__(self, outermost: bool = False) -> None:
        self.begin: Any = self.again
        self.end: Any = _nothing
        if outermost:
            Serving._outermost = self

    def note(self, method: str, path: str) -> int:
        """Begin, even if the block was left meanwhile."""
        entry: int = self.begin(method, path)
        return self.again(method, path) if entry == LEFT else entry

    def again(self, method: str, path: str) -> int:
        """Attach the table, and begin; a failure is logged, and then nothing is written."""
        self.begin, self.end = _not_noted, _nothing
        shared = registries.stats.shared
        if shared is None or Serving._outermost not in (None, self):
            return NOT_NOTED
        try:
            requests = shared.attach().requests
        except Exception as error:
            log.warning("the requests that this process serves are not shown: %s", error)
            return NOT_NOTED
        self.begin, self.end = requests.begin, requests.end
        entry: int = requests.begin(method, path)
        return entry


def text_of(path: str) -> str:
    """Return a path for people from that in WSGI's environment, which has bytes in the form of Latin-1 (PEP 3333)."""
    if path.isascii():
        return path
    return path.encode("latin-1", "replace").decode(errors="replace")


def _not_noted(method: str, path: str) -> int:
    return NOT_NOTED


def _nothing(entry: int) -> None:
    pass
