"""The replacements of the methods of prometheus_client's registries and of its multiprocess mode."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, CollectorRegistry

from .collecting import Scrape, collect_all, is_collector_of_all, looking
from .internals import OF_ONE_PROCESS, multiprocess, registry
from .on_block import put
from .storage import MetricStore


def patch_registries(store: MetricStore) -> None:
    """Make every scrape read the block once, and show metrics that only other processes have made."""
    _patch_scrapes(store)
    _patch_multiprocess(store)
    for cls in OF_ONE_PROCESS:
        _leave_out(cls)


def _patch_scrapes(store: MetricStore) -> None:
    original_collect = registry.CollectorRegistry.collect
    original_restricted = registry.RestrictedRegistry.collect

    def collect(self: CollectorRegistry) -> Iterator[Metric]:
        scrape = Scrape(store, self)
        yield from scrape.follow(original_collect(self))
        if self is REGISTRY:
            yield from scrape.follow(scrape.rest())

    def collect_restricted(self: Any) -> Iterator[Metric]:
        scrape = Scrape(store, self._registry, self._name_set)
        yield from scrape.follow(original_restricted(self))
        beside: list[Iterable[Any]] = [
            scrape.follow(collector.collect())
            for collector, names in list(self._registry._collector_to_names.items())
            if not names
            and is_collector_of_all(collector)
            and collector not in getattr(self._registry, "_collectors_without_names", ())
        ]
        beside.append(scrape.follow(scrape.changed()))
        if self._registry is REGISTRY:
            beside.append(scrape.follow(scrape.rest()))
        for found in beside:
            for metric in found:
                restricted = metric._restricted_metric(self._name_set)
                if restricted:
                    yield restricted

    original_value = registry.CollectorRegistry.get_sample_value

    def get_sample_value(self: CollectorRegistry, name: str, labels: dict[str, str] | None = None) -> float | None:
        token = looking.set(True)
        try:
            found: float | None = original_value(self, name, labels)
            return found
        finally:
            looking.reset(token)

    put(registry.CollectorRegistry, "get_sample_value", get_sample_value)
    put(registry.CollectorRegistry, "collect", collect)
    put(registry.RestrictedRegistry, "collect", collect_restricted)


def _patch_multiprocess(store: MetricStore) -> None:
    original_mark = multiprocess.mark_process_dead

    def init_multiprocess(self: Any, registry: CollectorRegistry | None, path: str | None = None) -> None:
        self._path = path
        if registry:
            registry.register(self)

    def collect_multiprocess(self: Any) -> Iterator[Metric]:
        return collect_all(store, self)

    def mark_process_dead(pid: int, path: str | None = None) -> None:
        # The block itself knows which processes live.
        variables = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
        if path is not None or any(os.environ.get(name) for name in variables):
            original_mark(pid, path)

    put(multiprocess.MultiProcessCollector, "__init__", init_multiprocess)
    put(multiprocess.MultiProcessCollector, "collect", collect_multiprocess)
    put(multiprocess, "mark_process_dead", mark_process_dead)


def _leave_out(cls: Any) -> None:
    """Make a collector of its own process's figures show nothing, because any worker may answer the next scrape.

    A ProcessCollector with a given pid shows that process, whichever worker answers.
    """
    original_collect = cls.collect

    def collect(self: Any) -> Iterable[Metric]:
        pid = vars(self).get("_pid")
        chosen = pid is not None and pid() not in ("self", os.getpid())
        found: Iterable[Metric] = original_collect(self) if chosen else ()
        return found

    put(cls, "collect", collect)
