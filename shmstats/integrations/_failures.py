"""Failures in the integrations: they are logged once, and never raised into an application or its server."""

from __future__ import annotations

import logging

from ..once import Once

log = logging.getLogger("shmstats")


class Failures:
    """Logs failures, each once."""

    def __init__(self) -> None:
        self._told = Once()

    def tell(self, what: str, error: BaseException) -> None:
        """Log a failure, once.

        Args:
            what: failed, in words.
            error: the exception.
        """
        if self._told.first(what):
            log.error("%s: %r", what, error, exc_info=error)
