"""The shared block, as prometheus_client's metrics use it: declaring, removing, annotating and reading."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

from prometheus_client.registry import CollectorRegistry

from ...attachment.calls import question
from ...attachment.slow_path import SharedProvider
from ...block.keys import OVERFLOW, decode_key, encode_key
from ...block.records import INHERITED
from ...core import Series
from ...once import Once
from ...reading.attached import AttachedBlock
from ...registry import Registry
from ...series import Declaration, Kind, Labels, Name, Value
from .family import CATEGORY, EXPOSED_SUFFIXES, ClientFamily, FamilyKey, instance_metric, part_of
from .functions import Functions
from .owners import Found, Owners
from .reading import NOTHING, ClientPlan, Reading, parsed

log = logging.getLogger("shmstats")

#: The counter of families that could not be shown on a page.
FAMILIES_LEFT_OUT = "families_left_out"

#: An exemplar as it is stored: labels, value, time.
ExemplarFields = tuple[dict[str, str], float, float | None]


class MetricStore:
    """The block as prometheus_client's metrics use it.

    Args:
        registry: the owner of the block.

    Attributes:
        functions: of gauges.
        registrar: binds handles at once in common cases.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.registrar = registry._registrar
        self._provider: SharedProvider | None = None
        self._pid = os.getpid()
        self._families: dict[FamilyKey, ClientFamily] = {}
        self._owners = Owners()
        self.functions = Functions(lambda: self.shared)
        self._plan = ClientPlan((), {})
        self._told = Once()

    @property
    def registry(self) -> Registry:
        """The owner of the block."""
        return self._registry

    @property
    def shared(self) -> SharedProvider | None:
        """The block's provider, which knows all declarations; None if statistics are disabled."""
        shared = self._registry.shared
        if shared is not None and shared is not self._provider:
            self._provider = shared
            self.functions.announce_all()
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.functions.announce_all()
        return shared

    @property
    def generation(self) -> int:
        """A number that changes whenever any process removes a series."""
        return _generation(self.shared)

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
        instance, reused = self._owners.instance(name, registry, _instances(shared, name))
        if reused and shared is not None and _is_alone(shared):
            # It was that of a registry that is gone, and no other process can have counted into it: start at 0.
            for metric in _metrics_of(name, instance):
                shared.remove(CATEGORY, metric)
        return instance

    def knows(self, family: ClientFamily) -> bool:
        """Tell whether this process has declared a family."""
        return family.key in self._families

    def is_current(self, family: ClientFamily) -> bool:
        """Tell whether a living process, this one or another, declares a family."""
        return family.key in self._families or not _is_inherited(self.shared, family.metric)

    def is_of_default_registry(self, metric: str) -> bool:
        """Tell whether a metric of the block belongs to prometheus_client's default registry."""
        return _is_of_default_registry(self.shared, metric)

    def leave_out(self, family: ClientFamily, error: Exception) -> None:
        """Log once, and count, that a family cannot be shown; the rest of the page is unaffected."""
        self.tell(f"prometheus_client's metric {family.name!r} is left out of the page: {error!r}", about=family.name)
        if self.shared is not None:
            self.shared.count_own(FAMILIES_LEFT_OUT)

    def _declare(self, shared: SharedProvider, family: ClientFamily) -> None:
        if family.type in ("info", "stateset"):
            _drop_inherited(shared, family.metric)
        change = shared.declare(CATEGORY, family.metric, family.declaration())
        rivals = _rivals(shared, family)
        replaced = bool(rivals) and shared.give_way(CATEGORY, family.metric, rivals)
        if replaced or (change is not None and change.outdated):
            shared.remove(CATEGORY, family.fraction)  # it belongs to the outdated series
        if _take_created(shared, family):
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

    def label_sets(self, family: ClientFamily) -> list[Labels]:
        """Return the label sets of a family, whichever workers have made them."""
        return _label_sets(self.shared, family.metric)

    def admits(self, family: ClientFamily, labels: Labels) -> bool:
        """Tell whether a label set exists, or may be added."""
        shared = self.shared
        return shared is None or shared.admits(CATEGORY, family.metric, labels)

    def has(self, metric: str, labels: Labels) -> bool:
        """Tell whether a series exists."""
        return _has(self.shared, encode_key(CATEGORY, metric, labels))

    def value(self, metric: str, labels: Labels, kind: Kind) -> Value:
        """Return the value of a series over all processes; 0 if there is none."""
        return _value(self.shared, metric, labels, kind)

    def own_value(self, metric: str, labels: Labels) -> float:
        """Return this process's value of a gauge."""
        return _own_value(self.shared, metric, labels)

    def overflows(self, series: Series) -> bool:
        """Tell whether a series is counted in the overflow set, because there are too many label sets."""
        metric, labels = series.metric, series.labels
        return not self.has(metric, labels) and self.has(metric, tuple((name, OVERFLOW) for name, _ in labels))

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
            self.note_created(family, labels, created)

    def note_created(self, family: ClientFamily, labels: Labels, created: float) -> None:
        """Store when a series was created, in seconds since the epoch."""
        _note_created(self.shared, {encode_key(CATEGORY, family.metric, labels): created})

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
        plan = self._plan
        if plan.names is not snapshot.names:
            plan = self._plan = ClientPlan.of(snapshot.names)
        notes = {(name.metric, name.labels): note for name, note in _notes(shared)}
        return Reading(plan.families, snapshot.values, notes)


# What the block is asked, and given -------------------------------------------------------------------


@question(0)
def _generation(shared: SharedProvider, block: AttachedBlock) -> int:
    return block.cells.generation


@question(())
def _notes(shared: SharedProvider, block: AttachedBlock) -> list[tuple[Name, bytes]]:
    return block.reader.notes(CATEGORY)


@question(False)
def _has(shared: SharedProvider, block: AttachedBlock, key: bytes) -> bool:
    return block.names.find(key) is not None


@question(0)
def _value(shared: SharedProvider, block: AttachedBlock, metric: str, labels: Labels, kind: Kind) -> Value:
    record = shared.find(block, CATEGORY, metric, labels, kind)
    return 0 if record is None else block.reader.value(record)


@question(0.0)
def _own_value(shared: SharedProvider, block: AttachedBlock, metric: str, labels: Labels) -> float:
    record = shared.find(block, CATEGORY, metric, labels, Kind.GAUGE)
    if record is None or record.kind is not Kind.GAUGE:
        return 0.0
    return float(block.cells.load_gauge(block.row_for(record), record.cell))


@question(())
def _label_sets(shared: SharedProvider, block: AttachedBlock, metric: str) -> list[Labels]:
    found = block.names.family_of(encode_key(CATEGORY, metric))
    if found is None:
        return []
    with block.exclusive():
        keys = [block.names.key(record.number) for record in block.names.members_of(found)]
    return [decode_key(key)[2] for key in keys]


@question(False)
def _is_of_default_registry(shared: SharedProvider, block: AttachedBlock, metric: str) -> bool:
    declared = _declared(block, metric)
    _, part = part_of("" if declared is None else declared.help)
    return part is not None and bool(part.about.get("default"))


@question(())
def _instances(shared: SharedProvider, block: AttachedBlock, name: str) -> list[Found]:
    """Return the metrics of one name on the block, for different registries."""
    found = []
    for instance in range(block.layout.capacity):
        families = [block.names.family_of(encode_key(CATEGORY, metric)) for metric in _metrics_of(name, instance)]
        there = [family for family in families if family is not None]
        if not there:
            break
        for family in there:
            declared = block.reader.declaration(family.number)
            _, part = part_of("" if declared is None else declared.help)
            if part is not None and part.role == "value" and part.family == (name, instance):
                default = bool(part.about.get("default"))
                found.append(Found(instance, default, bool(family.flags & INHERITED)))
                break
    return found


@question(None)
def _note_created(shared: SharedProvider, block: AttachedBlock, created: dict[bytes, float]) -> None:
    """Store when series, given by their keys, were created, in seconds since the epoch."""
    with block.exclusive():
        for key, moment in created.items():
            record = block.names.find(key)
            if record is not None:
                whole = int(moment)
                block.names.set_created(record.number, whole * 10**9 + round((moment - whole) * 1e9))
        block.names.raise_revision()


@question(False)
def _take_created(shared: SharedProvider, block: AttachedBlock, family: ClientFamily) -> bool:
    """Move the times of creation from where earlier versions stored them; returns whether there were any."""
    former = block.names.family_of(encode_key(CATEGORY, family.created))
    if former is None:
        return False
    created = {}
    for record in block.names.members_of(former):
        moment = block.reader.value(record)
        if isinstance(moment, float) and moment > 0:
            labels = decode_key(block.names.key(record.number))[2]
            created[encode_key(CATEGORY, family.metric, labels)] = moment
    _note_created(shared, created)
    return True


@question(())
def _rivals(shared: SharedProvider, block: AttachedBlock, family: ClientFamily) -> list[str]:
    """Return the other metrics of the block that share names on the page with a family."""
    suffixes = sorted({suffix for more in EXPOSED_SUFFIXES.values() for suffix in more})
    names = {name.removesuffix(suffix) for name in family.exposed for suffix in ("", *suffixes)}
    rivals = []
    for metric in sorted({metric for name in names for metric in _metrics_of(name, family.instance)}):
        declared = None if metric == family.metric else _declared(block, metric)
        help_, part = part_of("" if declared is None else declared.help)
        if declared is None or part is None or part.role != "value":
            continue
        rival = ClientFamily(part.family[0], str(part.about["type"]), help_, instance=part.family[1])
        if rival.instance == family.instance and rival.exposed & family.exposed:
            rivals += [rival.metric, *([rival.fraction] if rival.type == "counter" else [])]
    return rivals


def _metrics_of(name: str, instance: int) -> list[str]:
    """Return the metrics of the block that a family with some name may have, whatever its type."""
    return [instance_metric(name + suffix, instance) for suffix in ("", "_total", "_info")]


@question(False)
def _is_alone(shared: SharedProvider, block: AttachedBlock) -> bool:
    """Tell whether no other process uses the block."""
    return all(worker.pid == os.getpid() for worker in block.reader.workers.live())


@question(None)
def _drop_inherited(shared: SharedProvider, block: AttachedBlock, metric: str) -> None:
    """Remove what ended processes left: a state is no longer true when the process that was in it has ended."""
    with block.exclusive():
        family = block.names.family_of(encode_key(CATEGORY, metric))
        series = [] if family is None else block.names.members_of(family)
        gone = [record for record in series if record.flags & INHERITED]
        if gone:
            block.names.remove(gone)


@question(False)
def _is_inherited(shared: SharedProvider, block: AttachedBlock, metric: str) -> bool:
    family = block.names.family_of(encode_key(CATEGORY, metric))
    return family is not None and bool(family.flags & INHERITED)


def _declared(block: AttachedBlock, metric: str) -> Declaration | None:
    family = block.names.family_of(encode_key(CATEGORY, metric))
    return None if family is None else block.reader.declaration(family.number)
