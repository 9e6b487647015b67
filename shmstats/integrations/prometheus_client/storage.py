"""The shared block as prometheus_client's metrics use it: declared, removed, annotated and read here.

The functions of gauges (``Gauge.set_function``) are this module's as well. A worker that has some says so in
a gauge of its own, which goes with it. Before everything is read, those workers are asked to write what
their functions give into the block, each in its background thread.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Protocol

from ...attachment.peers import ask_all, socket_path
from ...attachment.slow_path import OWN, SharedProvider
from ...block import Block, DeclarationError
from ...block.names import INHERITED, OVERFLOW, decode_key, encode_key
from ...core import Gauge, Series
from ...once import Once
from ...registry import Registry
from ...series import Declaration, Kind, Labels, Mode, Name
from .family import CATEGORY, Family, part_of
from .reading import NOTHING, Plan, Reading, parsed

log = logging.getLogger("shmstats")

#: The question that has a worker write what its functions give.
QUESTION = "prometheus_client"

#: The gauge that tells which workers have such functions.
FUNCTIONS = "prometheus_client_functions"

#: An exemplar as it is stored: labels, value, time.
ExemplarFields = tuple[dict[str, str], float, float | None]


class Settable(Protocol):
    """A gauge that can be set."""

    series: Series

    def set(self, value: float) -> None:
        """Set it."""


class Storage:
    """The block as prometheus_client's metrics use it.

    Args:
        registry: whose block that is.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._provider: SharedProvider | None = None
        self._pid = os.getpid()
        self._families: dict[str, Family] = {}
        self._functions: dict[tuple[str, Labels], tuple[Settable, Callable[[], float]]] = {}
        self._announced = 0
        self._plan = Plan((), {})
        self._told = Once()

    @property
    def registry(self) -> Registry:
        """Whose block that is."""
        return self._registry

    @property
    def shared(self) -> SharedProvider | None:
        """The block's provider, which knows of all that is declared; None where statistics are disabled."""
        shared = self._registry.shared
        if shared is not None and shared is not self._provider:
            self._provider = shared
            shared.answer(QUESTION, self.refresh)
            for family in list(self._families.values()):
                try:
                    self._declare(shared, family)
                except DeclarationError as error:
                    self.tell(str(error))
        if self._pid != os.getpid():
            self._pid = os.getpid()
            if shared is not None and self._functions:
                self._announce(shared)
        return shared

    # Declarations ------------------------------------------------------------------------------

    def declare(self, family: Family) -> None:
        """Declare a metric.

        What differs only in help, unit, buckets or states from what the block has gives way to it: a new
        version of an application must be able to start while the former still runs.

        Raises:
            DeclarationError: it is of another type, or of another mode, in the processes that use the block.
        """
        if self._families.get(family.name) == family:
            return
        shared = self.shared
        if shared is not None:
            self._declare(shared, family)
        self._families[family.name] = family

    def family(self, name: str) -> Family | None:
        """Return the family that this process has declared by a name."""
        return self._families.get(name)

    def is_current(self, family: Family) -> bool:
        """Tell whether a family is declared by this process or another, or only left by some that are gone."""
        shared = self.shared
        if family.name in self._families or shared is None:
            return True
        return not shared.consult(lambda block: _is_inherited(block, family.metric), False)

    def _declare(self, shared: SharedProvider, family: Family) -> None:
        if family.type in ("info", "stateset"):
            shared.consult(lambda block: _drop_inherited(block, family.metric), None)
        self.declare_metric(shared, family.metric, family.declaration())
        if family.created in family.metrics:
            self.declare_metric(shared, family.created, family.created_declaration())

    def declare_metric(self, shared: SharedProvider, metric: str, declaration: Declaration) -> None:
        """Declare a metric of the block, for this block and any that is attached later.

        Raises:
            DeclarationError: as `declare` does.
        """
        try:
            shared.declare(CATEGORY, metric, declaration)
        except DeclarationError as error:
            found = shared.consult(lambda block: _declared(block, metric), None)
            if found is None or _essence(found) != _essence(declaration):
                raise DeclarationError(
                    f"prometheus_client's metric {metric!r} is {_in_words(found)} in the processes that use"
                    f" the block; it cannot be {_in_words(declaration)} in this one"
                ) from error
            self.tell(
                f"prometheus_client's metric {metric!r} keeps the help text, unit, buckets and states that it has"
                " in the block until all processes have left it: this process declares others"
            )
        shared.declare_later(CATEGORY, metric, declaration)

    # Series ------------------------------------------------------------------------------------

    def remove(self, family: Family, labels: Labels | None) -> None:
        """Remove one label set, or all, for all workers."""
        shared = self.shared
        for key in list(self._functions):
            if key[0] == family.metric and labels in (None, key[1]):
                self._functions.pop(key, None)
        if shared is not None:
            # The values last: whoever makes a label set in their place finds room for what belongs to it.
            for metric in reversed(family.metrics):
                shared.remove(CATEGORY, metric, labels)

    def label_sets(self, family: Family) -> list[Labels]:
        """Return the label sets that a family has, whichever worker has made them."""

        def read(block: Block) -> list[Labels]:
            found = block.names.family_of(encode_key(CATEGORY, family.metric))
            if found is None:
                return []
            with block.exclusive():
                keys = [block.names.key(record.number) for record in block.names.members_of(found)]
            return [decode_key(key)[2] for key in keys]

        shared = self.shared
        nothing: list[Labels] = []
        return nothing if shared is None else shared.consult(read, nothing)

    def admits(self, family: Family, labels: Labels) -> bool:
        """Tell whether a label set is there, or may come to be."""
        shared = self.shared
        return shared is None or shared.admits(CATEGORY, family.metric, labels)

    def has(self, metric: str, labels: Labels) -> bool:
        """Tell whether a series is there."""
        shared = self.shared
        key = encode_key(CATEGORY, metric, labels)
        return shared is not None and shared.consult(lambda block: block.names.find(key) is not None, False)

    def begin(self, family: Family, labels: Labels, created: float | None) -> Labels:
        """Have a series of a counter, histogram or summary note when it was created.

        Args:
            family: of the series.
            labels: of it.
            created: the time, in seconds since the epoch; None where that is not wanted.

        Returns:
            The labels under which it is counted: its own, or the overflow set's where there are too many.
        """
        shared = self.shared
        overflow = tuple((name, OVERFLOW) for name, _ in labels)
        if shared is None:
            return labels
        if not self.has(family.metric, labels) and self.has(family.metric, overflow):
            labels = overflow
        if created is not None and not self.has(family.created, labels):
            shared.set(Gauge(self, CATEGORY, family.created, labels), float(created))
        return labels

    def begin_anew(self, family: Family, labels: Labels, created: float | None = None) -> None:
        """Set a series to 0, for all workers.

        Args:
            family: of the series.
            labels: of it.
            created: the time that it notes as that of its creation, in seconds since the epoch; None: it stays.
        """
        shared = self.shared
        if shared is not None:
            for metric in (family.metric, family.fraction):
                shared.reset(CATEGORY, metric, labels)
            if created is not None and self.has(family.created, labels):
                shared.set(Gauge(self, CATEGORY, family.created, labels), float(created))

    def annotate(self, series: Series, change: Callable[[bytes], bytes]) -> None:
        """Change the note of a series."""
        shared = self.shared
        if shared is not None:
            shared.annotate(series, change)

    def add_exemplar(self, series: Series, limit: str, exemplar: ExemplarFields) -> None:
        """Keep an exemplar.

        Args:
            series: that it is of.
            limit: of a histogram: the upper bound of the bucket, else empty.
            exemplar: to keep; the one before it goes.
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
            about: what it is about, where the text may be another each time.
        """
        if self._told.first(about or text):
            log.warning(text)

    # Functions of gauges -----------------------------------------------------------------------

    def set_function(self, gauge: Settable, function: Callable[[], float]) -> None:
        """Have a function give the value of a gauge of this worker, whichever worker is scraped."""
        self._functions[gauge.series.metric, gauge.series.labels] = gauge, function
        shared = self.shared
        if shared is not None:
            self._announce(shared)

    def refresh(self) -> int:
        """Write what the functions of this worker give; returns how many there are."""
        shared = self.shared
        if shared is None:
            return 0
        if shared.consult(_epoch, 0) != self._announced:
            self._announce(shared)  # the block is another one, which has none of the gauges yet
        else:
            for key in [key for key in list(self._functions) if not self.has(*key)]:
                self._functions.pop(key, None)  # removed by another worker
        for (metric, _), (gauge, function) in list(self._functions.items()):
            try:
                gauge.set(float(function()))
            except Exception as error:
                failure = f"the function of gauge {metric!r} failed: {type(error).__name__}"
                self.tell(f"{failure}: {error}", about=failure)
        return len(self._functions)

    def _announce(self, shared: SharedProvider) -> None:
        declaration = Declaration(Kind.GAUGE, mode=Mode.LIVESUM)
        shared.declare(OWN, FUNCTIONS, declaration)
        shared.declare_later(OWN, FUNCTIONS, declaration)
        shared.set(Gauge(self, OWN, FUNCTIONS), 1)
        self._announced = shared.consult(_epoch, 0)

    def _refresh_all(self, shared: SharedProvider) -> None:
        """Have every worker write what its functions give."""
        if self._functions:
            self.refresh()
        nobody: dict[int, str] = {}
        sockets = shared.consult(_sockets_of_functions, nobody)
        if sockets:
            ask_all(sockets, QUESTION)

    # Reading -----------------------------------------------------------------------------------

    def read(self) -> Reading:
        """Return everything that is there now."""
        shared = self.shared
        if shared is None:
            return NOTHING
        self._refresh_all(shared)
        snapshot = shared.read()
        plan = self._plan
        if plan.names is not snapshot.names:
            plan = self._plan = Plan.of(snapshot.names)
        nothing: list[tuple[Name, bytes]] = []
        notes = shared.consult(lambda block: block.reader.notes(CATEGORY), nothing)
        return Reading(plan.families, snapshot.values, {(name.metric, name.labels): note for name, note in notes})


def _drop_inherited(block: Block, metric: str) -> None:
    """Remove what processes left that are gone: a state is not true any more when who was in it has ended."""
    with block.exclusive():
        family = block.names.family_of(encode_key(CATEGORY, metric))
        series = [] if family is None else block.names.members_of(family)
        gone = [record for record in series if record.flags & INHERITED]
        if gone:
            block.names.remove(gone, block.cells)
        for record in gone:
            block.clear(record)


def _is_inherited(block: Block, metric: str) -> bool:
    family = block.names.family_of(encode_key(CATEGORY, metric))
    return family is not None and bool(family.flags & INHERITED)


def _declared(block: Block, metric: str) -> Declaration | None:
    family = block.names.family_of(encode_key(CATEGORY, metric))
    return None if family is None else block.reader.declaration(family.number)


def _essence(declared: Declaration) -> tuple[Kind, Mode, str]:
    """Return that of a declaration in which all processes must agree."""
    _, part = part_of(declared.help)
    return declared.kind, declared.mode, "" if part is None else str(part.about.get("type", part.role))


def _in_words(declared: Declaration | None) -> str:
    if declared is None:
        return "another one"
    kind, mode, type_ = _essence(declared)
    word = type_ or kind.name.lower()
    return f"a {word} of mode {mode.name.lower()}" if word == "gauge" else f"a {word}"


def _epoch(block: Block) -> int:
    """Return what tells a block from another one of the same directory."""
    return block.reader.header("started")


def _sockets_of_functions(block: Block) -> dict[int, str]:
    """Return the sockets of the other workers that have functions, by pid."""
    record = block.names.find(encode_key(OWN, FUNCTIONS))
    if record is None:
        return {}
    having = {contribution.signature for contribution in block.reader.contributions(record)}
    workers = [worker for worker in block.reader.workers.live() if worker.signature in having]
    return {worker.pid: socket_path(block.name, worker.slot) for worker in workers if worker.pid != os.getpid()}
