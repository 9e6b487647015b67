"""What gunicorn's master and workers share: the category of their metrics, and what happens when one fails."""

from __future__ import annotations

from typing import Any

from .. import registry as registries
from ._failures import Failures

CATEGORY = "gunicorn"

failures = Failures()


def declare(metric: str, kind: str, help_: str, **more: Any) -> None:
    """Declare a metric of these hooks; one that is declared otherwise is used so."""
    failures.declare(registries.stats, CATEGORY, metric, kind, help_, **more)
