"""The shared block, as prometheus_client's metrics use it: declaring, removing, annotating and reading."""

from __future__ import annotations

import json
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.registry import REGISTRY, CollectorRegistry

from ...attachment.slow_path import SharedProvider
from ...core import Series
from ...once import Once
from ...registry import Registry
from ...series import Labels, Name
from . import asking
from .family import CATEGORY, ClientFamily, FamilyKey
from .functions import Functions
from .samples import NOTHING, Families, Reading, families_of, parsed

log = logging.getLogger("shmstats")

#: The counter of families that could not be shown on a page.
FAMILIES_LEFT_OUT = "families_left_out"

#: An exemplar as it is stored: labels, value, time.
ExemplarFields = tuple[dict[str, str], float, float | None]


class Owners:
    """The registries of this process that have metrics, by name. ``None`` stands for a metric in no registry.

    Two registries may each have a metric of the same name. All processes number these metrics in the same way, by what
    the block has and by the order in which registries get the name, so that each number means the same metric
    everywhere. A registry that is gone leaves its number to the next.
    """

    def __init__(self) -> None:
        self._owners: dict[str, dict[int, weakref.ref[CollectorRegistry] | None]] = {}

    def instance(
        self, name: str, registry: CollectorRegistry | None, found: Iterable[asking.Found]
    ) -> tuple[int, bool]:
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
        taken = {number for number, owner in owners.items() if owner is None or owner() is not None}
        free = [each for each in sorted(found) if each.instance not in taken]
        fitting = [each.instance for each in free if each.default == (registry is REGISTRY)]
        left = [each.instance for each in free if each.inherited]
        there = {each.instance for each in found} | taken
        instance = (*fitting, *left, *sorted(set(range(len(there) + 1)) - there))[0]
        reused = instance in owners
        owners[instance] = None if registry is None else weakref.ref(registry)
        return instance, reused


class MetricStore:
    """The block as prometheus_client's metrics use it.

    Args:
        registry: the owner of the block.

    Attributes:
        registry: likewise.
        functions: of gauges.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._user: tuple[SharedProvider, int] | None = None
        self._families: dict[FamilyKey, ClientFamily] = {}
        self._owners = Owners()
        self.functions = Functions(lambda: self.shared)
        self._read: tuple[Sequence[Name], Families] = (), {}
        self._told = Once()

    @property
    def shared(self) -> SharedProvider | None:
        """The block's provider, which knows all declarations; None if statistics are disabled."""
        shared = self.registry.shared
        if shared is not None and (shared, os.getpid()) != self._user:
            self._user = shared, os.getpid()
            self.functions.announce_all()
        return shared

    # Declarations ------------------------------------------------------------------------------

    def declare(self, family: ClientFamily) -> None:
        """Declare a metric: pages show the newest declaration of all processes."""
        if self._families.get(family.key) == family:
            return
        shared = self.shared
        if shared is not None:
            self._declare(shared, family)
        self._families[family.key] = family

    def instance(self, name: str, registry: CollectorRegistry | None) -> int:
        """Return the number of a registry's metric among those of the same name in several registries."""
        shared = self.shared
        instance, reused = self._owners.instance(name, registry, asking.instances(shared, name))
        if reused and shared is not None and asking.is_alone(shared):
            # It was that of a registry that is gone, and no other process can have counted into it: start at 0.
            for metric in asking.metrics_of(name, instance):
                shared.remove(CATEGORY, metric)
        return instance

    def knows(self, family: ClientFamily) -> bool:
        """Tell whether this process has declared a family."""
        return family.key in self._families

    def is_current(self, family: ClientFamily) -> bool:
        """Tell whether a living process, this one or another, declares a family."""
        return family.key in self._families or not asking.is_inherited(self.shared, family.metric)

    def leave_out(self, family: ClientFamily, error: Exception) -> None:
        """Log once, and count, that a family cannot be shown; the rest of the page is unaffected."""
        self.tell(f"prometheus_client's metric {family.name!r} is left out of the page: {error!r}", about=family.name)
        if self.shared is not None:
            self.shared.count_own(FAMILIES_LEFT_OUT)

    def _declare(self, shared: SharedProvider, family: ClientFamily) -> None:
        if family.type in ("info", "stateset"):
            asking.drop_inherited(shared, family.metric)
        change = shared.declare(CATEGORY, family.metric, family.declaration())
        rivals = asking.rivals(shared, family)
        replaced = bool(rivals) and shared.give_way(CATEGORY, family.metric, rivals)
        if replaced or (change is not None and change.outdated):
            shared.remove(CATEGORY, family.fraction)  # it belongs to the outdated series
        if asking.take_created(shared, family):
            shared.remove(CATEGORY, family.created)

    # Series ------------------------------------------------------------------------------------

    def remove(self, family: ClientFamily, labels: Labels | None) -> None:
        """Remove one label set, or all, for all workers."""
        shared = self.shared
        self.functions.forget(family.metric, labels)
        if shared is not None:
            # The values last: a label set that takes their place then also finds room for what belongs to it.
            for metric in reversed(family.metrics):
                shared.remove(CATEGORY, metric, labels)

    def begin_anew(self, family: ClientFamily, labels: Labels, created: float | None = None) -> None:
        """Set a series to 0, for all workers.

        Args:
            family: of the series.
            labels: of it.
            created: its new time of creation, in seconds since the epoch; None: unchanged.
        """
        shared = self.shared
        if shared is not None:
            for metric in (family.metric, family.fraction):
                shared.reset(CATEGORY, metric, labels)
        if created is not None:
            asking.note_created(shared, family.metric, {labels: created})

    def annotate(self, series: Series, change: Callable[[bytes], bytes]) -> None:
        """Change the note of a series."""
        shared = self.shared
        if shared is not None:
            shared.annotate(series, change)

    def add_exemplar(self, series: Series, limit: str, exemplar: ExemplarFields) -> None:
        """Keep an exemplar.

        Args:
            series: of the exemplar.
            limit: of a histogram: the upper bound of the bucket, else empty.
            exemplar: replaces the previous one.
        """
        labels, value, moment = exemplar
        fields = [labels, float(value), None if moment is None else float(moment)]

        def change(note: bytes) -> bytes:
            return json.dumps({**parsed(note), limit: fields}, separators=(",", ":")).encode()

        self.annotate(series, change)

    def tell(self, text: str, about: str = "") -> None:
        """Log a warning once.

        Args:
            text: of it.
            about: its subject, if the text may differ each time.
        """
        if self._told.first(about or text):
            log.warning(text)

    # Reading -----------------------------------------------------------------------------------

    def read(self, exposed: bool = False) -> Reading:
        """Return everything at this moment.

        Args:
            exposed: whether others will see it: then it is saved before, see ``stats.durable_exposition``.
        """
        shared = self.shared
        if shared is None:
            return NOTHING
        snapshot = shared.exposable() if exposed else shared.read()
        names, families = self._read
        if names is not snapshot.names:
            families = families_of(snapshot.names)
            self._read = snapshot.names, families
        notes = {(name.metric, name.labels): note for name, note in asking.notes(shared)}
        return Reading(families, snapshot.values, notes)
