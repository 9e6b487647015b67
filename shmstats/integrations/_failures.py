"""What the integrations do instead of failing an application or its server: they log what failed, and go on."""

from __future__ import annotations

import logging
from typing import Any

from ..once import Once
from ..registry import Registry

log = logging.getLogger("shmstats")


class Failures:
    """Logs what failed, each thing once."""

    def __init__(self) -> None:
        self._told = Once()

    def tell(self, what: str, error: BaseException) -> None:
        """Log something that failed, once.

        Args:
            what: it, in words.
            error: by which it failed.
        """
        if self._told.first(what):
            log.error("%s: %r", what, error, exc_info=error)

    def declare(self, registry: Registry, category: str, metric: str, kind: str, help_: str, **more: Any) -> None:
        """Declare a metric. One that is declared otherwise is used so: new workers must start beside old ones.

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
