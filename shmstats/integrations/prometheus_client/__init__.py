"""prometheus_client's own metrics on the shared block: every worker counts into it, and any worker shows the sums.

`install` moves every metric of the process there, existing and future ones, also those of libraries. `internals` checks
what is used beyond prometheus_client's interface; `family` and `values` store metrics as series of the block;
`on_block` replaces methods of metrics, `collecting` those of registries; `samples` makes samples of the series.
"""

from __future__ import annotations

import threading

from .internals import check

check()  # first: the other modules may not even be importable with other internals

# ruff: noqa: E402
from prometheus_client.registry import CollectorRegistry

from ...registry import Registry, stats
from .collecting import BlockCollector, patch_registries
from .moving import move_existing
from .on_block import patch_metrics
from .storage import MetricStore

__all__ = ["BlockCollector", "collector", "install"]

_lock = threading.Lock()

#: The result of `install`; None in it if statistics are disabled.
_installed: list[MetricStore | None] = []


def install(registry: Registry = stats) -> None:
    """Put all metrics of prometheus_client on the block, existing and future ones.

    Call it once in each process that counts, as early as is convenient: in the module of the application,
    or with ``gunicorn --preload`` in the parent. Earlier counts are kept. Further calls do
    nothing. If statistics are disabled, prometheus_client stays unchanged.

    Args:
        registry: whose block is used.

    Raises:
        ConfigError: the configuration has an error.
        ValueError: an existing metric cannot be put on the block, or another registry's block
            is in use.
    """
    with _lock:
        if _installed:
            if _installed[0] is not None and _installed[0].registry is not registry:
                raise ValueError("prometheus_client's metrics are on the block of another registry already")
            return
        enabled = registry.settings.stats.enabled
        store = MetricStore(registry) if enabled else None
        if store is not None:
            patch_metrics(store)
            patch_registries(store)
            move_existing(store)
        _installed.append(store)


def collector(registry: CollectorRegistry | None = None) -> BlockCollector:
    """Return a collector of every metric on the block, whichever process and registry made it.

    It corresponds to prometheus_client's ``MultiProcessCollector``, which here returns the same.
    The registries of the metrics do not need it.

    Args:
        registry: of prometheus_client, to register it in.

    Raises:
        RuntimeError: `install` has not been called.
    """
    if not _installed:
        raise RuntimeError("prometheus_client's metrics are not on the block: call install() first")
    made = BlockCollector(_installed[0])
    if registry is not None:
        registry.register(made)
    return made
