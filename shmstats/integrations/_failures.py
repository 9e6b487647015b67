"""Failures in the integrations: they are logged once, and never raised into an application or its server."""

from __future__ import annotations

import logging
from typing import Any

from ..once import Once
from ..registry import Registry

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

    def declare(self, registry: Registry, category: str, metric: str, kind: str, help_: str, **more: Any) -> None:
        """Declare a metric. Another existing declaration stays: new workers must be able to start beside old ones.

        Args:
            registry: to declare it in.
            category: of the metric.
            metric: of the category.
            kind: as for `shmstats.registry.Registry.declare`, and so on.
            help_: a sentence for people.
            more: as there.
        """
        try:
            registry.declare(category, metric, kind=kind, help=help_, **more)
        except Exception as error:
            self.tell(f"the metric {metric} stays as it is declared", error)
