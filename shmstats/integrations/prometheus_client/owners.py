"""The registries of several metrics with the same name: two registries may each have their own.

All processes number these metrics in the same way, by what the block has and by the order in which registries get
the name, so that each number means the same metric everywhere. A registry that is gone leaves its number to the next.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from prometheus_client.registry import REGISTRY, CollectorRegistry

from ...frozen import NamedTuple


class Found(NamedTuple):
    """A metric of some name on the block.

    Attributes:
        instance: its number.
        default: whether it is in the default registry.
        inherited: whether only processes that have ended have declared it.
    """

    instance: int
    default: bool
    inherited: bool


class Owners:
    """The registries of this process that have metrics, by name. ``None`` stands for a metric in no registry."""

    def __init__(self) -> None:
        self._owners: dict[str, dict[int, weakref.ref[CollectorRegistry] | None]] = {}

    def instance(self, name: str, registry: CollectorRegistry | None, found: Iterable[Found]) -> tuple[int, bool]:
        """Return the number of a registry's metric among those with the same name.

        Args:
            name: of the metric.
            registry: that has it.
            found: the metrics of that name that the block has.

        Returns:
            The number, and whether a registry of this process that is gone had it before.
        """
        owners = self._owners.setdefault(name, {})
        for instance, owner in owners.items():
            if (None if owner is None else owner()) is registry and (registry is None) == (owner is None):
                return instance, False
        free = [each for each in sorted(found) if self._is_free(owners, each.instance)]
        default = registry is REGISTRY
        there = {each.instance for each in found}
        unused = next(number for number in range(len(owners) + len(there) + 1) if self._is_new(owners, there, number))
        fitting = [each.instance for each in free if each.default == default]
        left = [each.instance for each in free if each.inherited]
        instance = (*fitting, *left, unused)[0]
        reused = instance in owners
        owners[instance] = None if registry is None else weakref.ref(registry)
        return instance, reused

    def _is_free(self, owners: dict[int, weakref.ref[CollectorRegistry] | None], instance: int) -> bool:
        owner = owners.get(instance)
        return instance not in owners or (owner is not None and owner() is None)

    def _is_new(self, owners: dict[int, weakref.ref[CollectorRegistry] | None], there: set[int], instance: int) -> bool:
        return instance not in there and self._is_free(owners, instance)
