"""What the block is asked about prometheus_client's metrics, and what is changed in it beyond counting."""

from __future__ import annotations

import os
from collections.abc import Container
from typing import Any

from ...attachment.calls import question
from ...attachment.peers import socket_path
from ...attachment.slow_path import SharedProvider
from ...block.keys import decode_key, encode_key, overflow_key
from ...block.records import INHERITED, Record
from ...frozen import NamedTuple
from ...reading.attached import AttachedBlock
from ...series import Kind, Labels, Mode, Name
from .family import CATEGORY, EXPOSED_SUFFIXES, ClientFamily, family_in, instance_metric


class Found(NamedTuple):
    """A metric of some name on the block.

    Attributes:
        instance: its number among those of its name.
        default: whether it is in the default registry.
        inherited: whether only processes that have ended have declared it.
    """

    instance: int
    default: bool
    inherited: bool


# Series ---------------------------------------------------------------------------------------------


@question(0)
def generation(shared: SharedProvider, block: AttachedBlock) -> int:
    """Return a number that changes whenever any process removes a series."""
    return block.cells.generation


@question(False)
def has(shared: SharedProvider, block: AttachedBlock, metric: str, labels: Labels) -> bool:
    """Tell whether a series exists."""
    return block.names.find(encode_key(CATEGORY, metric, labels)) is not None


@question(0)
def value(shared: SharedProvider, block: AttachedBlock, metric: str, labels: Labels, kind: Kind) -> Any:
    """Return the value of a series over all processes; 0 if there is none."""
    record = shared.find(block, CATEGORY, metric, labels, kind)
    return 0 if record is None else block.reader.value(record)


@question(0.0)
def own_value(shared: SharedProvider, block: AttachedBlock, metric: str, labels: Labels) -> float:
    """Return this process's value of a gauge."""
    record = shared.find(block, CATEGORY, metric, labels, Kind.GAUGE)
    if record is None or record.kind is not Kind.GAUGE:
        return 0.0
    return float(block.cells.load_gauge(block.row_for(record), record.cell))


@question(())
def label_sets(shared: SharedProvider, block: AttachedBlock, metric: str, category: str = CATEGORY) -> list[Labels]:
    """Return the label sets of a metric, whichever processes have made them."""
    with block.exclusive():
        keys = [block.names.key(record.number) for record in _members(block, metric, category)]
    return [decode_key(key)[2] for key in keys]


@question(())
def notes(shared: SharedProvider, block: AttachedBlock) -> list[tuple[Name, bytes]]:
    """Return the notes of all series that have one."""
    return block.reader.notes(CATEGORY)


@question(None)
def note_created(shared: SharedProvider, block: AttachedBlock, metric: str, created: dict[Labels, float]) -> None:
    """Store when series of a metric were created, in seconds since the epoch."""
    with block.exclusive():
        for labels, moment in created.items():
            record = block.names.find(encode_key(CATEGORY, metric, labels))
            if record is not None:
                whole = int(moment)
                block.names.set_created(record.number, whole * 10**9 + round((moment - whole) * 1e9))
        block.names.raise_revision()


@question(None)
def drop_inherited(shared: SharedProvider, block: AttachedBlock, metric: str) -> None:
    """Remove what ended processes left: a state is no longer true when the process that was in it has ended."""
    with block.exclusive():
        gone = [record for record in _members(block, metric) if record.flags & INHERITED]
        if gone:
            block.names.remove(gone)


# Declarations ---------------------------------------------------------------------------------------


@question(False)
def is_inherited(shared: SharedProvider, block: AttachedBlock, metric: str) -> bool:
    """Tell whether only processes that have ended have declared a metric."""
    family = block.names.family_of(encode_key(CATEGORY, metric))
    return family is not None and bool(family.flags & INHERITED)


@question(False)
def is_of_default_registry(shared: SharedProvider, block: AttachedBlock, metric: str) -> bool:
    """Tell whether a metric belongs to prometheus_client's default registry."""
    family = family_in(_help(block, metric))
    return family is not None and family.default


@question(())
def instances(shared: SharedProvider, block: AttachedBlock, name: str) -> list[Found]:
    """Return the metrics of one name, for different registries."""
    found = []
    for instance in range(block.layout.capacity):
        families = [block.names.family_of(encode_key(CATEGORY, metric)) for metric in metrics_of(name, instance)]
        there = [family for family in families if family is not None]
        if not there:
            break
        for family in there:
            declared = family_in(_help_of(block, family))
            if declared is not None and declared.key == (name, instance):
                found.append(Found(instance, declared.default, bool(family.flags & INHERITED)))
                break
    return found


@question(())
def rivals(shared: SharedProvider, block: AttachedBlock, family: ClientFamily) -> list[str]:
    """Return the other metrics of the block that share names on the page with a family."""
    suffixes = sorted({suffix for more in EXPOSED_SUFFIXES.values() for suffix in more})
    names = {name.removesuffix(suffix) for name in family.exposed for suffix in ("", *suffixes)}
    found: list[str] = []
    for metric in sorted({metric for name in names for metric in metrics_of(name, family.instance)} - {family.metric}):
        rival = family_in(_help(block, metric))
        if rival is not None and rival.instance == family.instance and rival.exposed & family.exposed:
            found += rival.metrics
    return found


@question(False)
def take_created(shared: SharedProvider, block: AttachedBlock, family: ClientFamily) -> bool:
    """Move the times of creation from where version 0.1 stored them; returns whether there were any."""
    if block.names.family_of(encode_key(CATEGORY, family.created)) is None:
        return False
    created = {}
    for record in _members(block, family.created):
        moment = block.reader.value(record)
        if isinstance(moment, float) and moment > 0:
            created[decode_key(block.names.key(record.number))[2]] = moment
    note_created(shared, family.metric, created)
    return True


@question(False)
def is_alone(shared: SharedProvider, block: AttachedBlock) -> bool:
    """Tell whether no other process uses the block."""
    return all(worker.pid == os.getpid() for worker in block.reader.workers.live())


# Functions of gauges --------------------------------------------------------------------------------


@question(0)
def started(shared: SharedProvider, block: AttachedBlock) -> int:
    """Return a number that differs between blocks of the same directory."""
    return block.header.started


@question({})
def others(shared: SharedProvider, block: AttachedBlock, key: bytes) -> dict[int, tuple[int, str]]:
    """Return the other processes that have a part in a gauge: signature and socket by pid."""
    record = block.names.find(key) or block.names.find(overflow_key(key))
    having = set() if record is None else {each.signature for each in block.reader.contributions(record)}
    return {
        worker.pid: (worker.signature, socket_path(block.name, worker.slot))
        for worker in (block.reader.workers.live() if having else ())
        if worker.signature in having and worker.pid != os.getpid()
    }


@question(None)
def set_unknown(shared: SharedProvider, block: AttachedBlock, metric: str, signatures: Container[int]) -> None:
    """Set a gauge to NaN for some processes; what they set next is shown again."""
    with block.exclusive():
        records = _members(block, metric)
    for record in records:
        if record.kind is Kind.GAUGE and not record.shared:
            mode = record.mode
            for found in block.reader.contributions(record):
                if found.signature in signatures:
                    by = (found.signature, mode.live, mode.base is Mode.MOSTRECENT, mode is not Mode.SUM)
                    block.cells.set_gauge(found.row, record.cell, float("nan"), block.cells.generation, by)


def metrics_of(name: str, instance: int) -> list[str]:
    """Return the metrics of the block that a family with some name may have, whatever its type."""
    return [instance_metric(name + suffix, instance) for suffix in ("", "_total", "_info")]


def _members(block: AttachedBlock, metric: str, category: str = CATEGORY) -> list[Record]:
    """Return the series of a metric. The table lock is held."""
    family = block.names.family_of(encode_key(category, metric))
    return [] if family is None else block.names.members_of(family)


def _help(block: AttachedBlock, metric: str) -> str:
    """Return the declared help text of a metric; "" without one."""
    family = block.names.family_of(encode_key(CATEGORY, metric))
    return "" if family is None else _help_of(block, family)


def _help_of(block: AttachedBlock, family: Record) -> str:
    declared = block.declared(family)
    return "" if declared is None else declared.help
