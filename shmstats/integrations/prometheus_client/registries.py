"""What stands in the place of the methods of prometheus_client's registries and of its multiprocess mode."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import prometheus_client.multiprocess
import prometheus_client.registry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, CollectorRegistry

from .collecting import BlockCollector, Scrape, collect_all
from .patches import put
from .storage import Storage

multiprocess: Any = prometheus_client.multiprocess
registry: Any = prometheus_client.registry


def patch_registries(storage: Storage) -> None:
    """Have every scrape read the block once, and show what only other processes have made."""
    original_collect = registry.CollectorRegistry.collect
    original_restricted = registry.RestrictedRegistry.collect
    original_mark = multiprocess.mark_process_dead

    def collect(self: CollectorRegistry) -> Iterator[Metric]:
        scrape = Scrape(storage, self)
        yield from scrape.follow(original_collect(self))
        if self is REGISTRY:
            yield from scrape.rest()

    def collect_restricted(self: Any) -> Iterator[Metric]:
        scrape = Scrape(storage, self._registry)
        yield from scrape.follow(original_restricted(self))
        beside: list[Iterable[Any]] = [
            scrape.follow(collector.collect())
            for collector, names in list(self._registry._collector_to_names.items())
            if not names
            and isinstance(collector, BlockCollector | multiprocess.MultiProcessCollector)
            and collector not in getattr(self._registry, "_collectors_without_names", ())
        ]
        if self._registry is REGISTRY:
            beside.append(scrape.rest())
        for found in beside:
            for metric in found:
                restricted = metric._restricted_metric(self._name_set)
                if restricted:
                    yield restricted

    def init_multiprocess(self: Any, registry: CollectorRegistry | None, path: str | None = None) -> None:
        self._path = path
        if registry:
            registry.register(self)

    def collect_multiprocess(self: Any) -> Iterator[Metric]:
        return collect_all(storage, self)

    def mark_process_dead(pid: int, path: str | None = None) -> None:
        # The block knows by itself which processes live.
        variables = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
        if path is not None or any(os.environ.get(name) for name in variables):
            original_mark(pid, path)

    put(registry.CollectorRegistry, "collect", collect)
    put(registry.RestrictedRegistry, "collect", collect_restricted)
    put(multiprocess.MultiProcessCollector, "__init__", init_multiprocess)
    put(multiprocess.MultiProcessCollector, "collect", collect_multiprocess)
    put(multiprocess, "mark_process_dead", mark_process_dead)
