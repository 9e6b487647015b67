"""Failures in the integrations: they are logged once, and never raised into an application or its server."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from .. import registry as registries
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

    def made(
        self,
        category: str,
        kind: str,
        metric: str,
        help_: str,
        labelnames: Sequence[str] | None = None,
        **more: Any,
    ) -> Any:
        """Declare a metric, and return its handle.

        Another existing declaration stays: new workers must be able to start beside old ones. The label names are not
        declared, because a reload may add one.

        Args:
            category: of the metric.
            kind: ``"counter"``, ``"gauge"`` or ``"histogram"``.
            metric: of the category.
            help_: a sentence for people.
            labelnames: of its series; with some, the result is a metric with labels.
            more: as for `shmstats.registry.Registry.declare`.
        """
        try:
            registries.stats.declare(category, metric, kind=kind, help=help_, **more)
        except Exception as error:
            self.tell(f"the metric {metric} stays as it is declared", error)
        return getattr(registries.stats, kind)(category, metric, labelnames=labelnames)
