"""The common part of gunicorn's master and workers: the category of their metrics, and the handling of failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import registry as registries
from ._failures import Failures

CATEGORY = "gunicorn"

failures = Failures()


def made(kind: str, metric: str, help_: str, labelnames: Sequence[str] | None = None, **more: Any) -> Any:
    """Declare a metric of these hooks, and return its handle; an existing other declaration stays.

    Args:
        kind: ``"counter"``, ``"gauge"`` or ``"histogram"``.
        metric: of the category `CATEGORY`.
        help_: a sentence for people.
        labelnames: as for `shmstats.registry.Registry.declare`; with some, the result is a metric with labels.
        more: likewise.
    """
    failures.declare(registries.stats, CATEGORY, metric, kind, help_, labelnames=labelnames, **more)
    return getattr(registries.stats, kind)(CATEGORY, metric, labelnames=labelnames)
