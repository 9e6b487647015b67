"""prometheus_client's own metrics on the shared block: every worker counts into it, and any one shows the sum of all.

    from shmstats.integrations import prometheus_client as shared_metrics

    shared_metrics.install()

From then on every Counter, Gauge, Histogram, Summary, Info and Enum of the process, made before or after,
by the application or by a library, counts into the block. Nothing else changes: the metrics are the same objects,
and are exposed as before.

- `internals` is what is used of prometheus_client beyond its interface, checked here before anything else.
- `family` says how a metric is kept: one series of the block for each label set; `owners`, which registry has it.
- `values` are the values of the metrics, as prometheus_client's value classes are; `children` those with labels.
- `storage` is the block, as they use it; `functions` those of gauges; `reading` is all that it has at one moment.
- `collecting` makes samples of that again.
- `on_block`, `patches`, `distributions`, `states` and `registries` put all this in the place of prometheus_client's
  own methods; `moving` takes along the metrics that were made before.
"""

from __future__ import annotations

import threading

from .internals import check

check()  # first: what follows may not even be imported with other internals

# ruff: noqa: E402
from prometheus_client.registry import CollectorRegistry

from ...registry import Registry, stats
from .collecting import BlockCollector
from .moving import move_existing
from .patches import patch_metrics
from .registries import patch_registries
from .storage import MetricStore

__all__ = ["BlockCollector", "collector", "install"]

_lock = threading.Lock()

#: What `install` has made; None in it where statistics are disabled.
_installed: list[MetricStore | None] = []


def install(registry: Registry = stats) -> None:
    """Put all metrics of prometheus_client on the block, those that are there and those that will be.

    Call it once in each process that counts, as early as is convenient: in the module of the application,
    or with ``gunicorn --preload`` in the parent. What was counted before is taken along. Further calls do
    nothing. Where statistics are disabled, prometheus_client stays as it is.

    Args:
        registry: whose block is used.

    Raises:
        ConfigError: the configuration has an error.
        ValueError: a metric that is there already cannot be put on the block, or another registry's block
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
    """Return a collector of every metric on the block, whichever process and registry it was made for.

    It is what prometheus_client's ``MultiProcessCollector`` is in its multiprocess mode, and that gives the
    same here. The registries that the metrics are in need none.

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
