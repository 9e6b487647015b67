"""The functions of gauges (``Gauge.set_function``): each is called in the process that has it, at every scrape.

A process with functions for a metric announces that in a gauge of its own, which ends with it. Before a page with that
metric is made, these processes are asked to write the results of their functions into the block, in their background
threads. If a function fails or a process does not answer, the result is NaN: an old value is never shown.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from ...attachment.calls import question
from ...attachment.peers import ask_all, socket_path
from ...attachment.slow_path import OWN, SharedProvider
from ...block.keys import decode_key, encode_key, overflow_key
from ...core import Gauge
from ...frozen import NamedTuple
from ...hashing import blake2b
from ...once import Once
from ...reading.attached import AttachedBlock
from ...reading.gauges import Contribution
from ...series import Declaration, Kind, Labels, Mode
from .family import CATEGORY

log = logging.getLogger("shmstats")

#: The gauge by which processes announce functions, with the metric as its label.
FUNCTIONS = "prometheus_client_functions"

_LABEL = "family"
_DECLARATION = Declaration(Kind.GAUGE, "Processes that have a function for a gauge.", mode=Mode.LIVESUM)


class Settable(Protocol):
    """A gauge that can be set."""

    @property
    def metric(self) -> str:
        """Its metric of the block."""

    @property
    def labels(self) -> Labels:
        """Its labels."""

    def set(self, value: float) -> None:
        """Set it."""


class _Process(NamedTuple):
    """Another process that has functions."""

    pid: int
    signature: int
    row: int
    socket: str


class Functions:
    """The functions of this process, and the calls of those of other processes.

    Args:
        shared: returns the block's provider; None if statistics are disabled.
    """

    def __init__(self, shared: Callable[[], SharedProvider | None]) -> None:
        self._shared = shared
        self._functions: dict[str, dict[Labels, tuple[Settable, Callable[[], float]]]] = {}
        self._announced: dict[str, int] = {}
        self._logged = Once()

    def set(self, gauge: Settable, function: Callable[[], float]) -> None:
        """Use a function for the value of a gauge of this process."""
        metric = gauge.metric
        self._functions.setdefault(metric, {})[gauge.labels] = gauge, function
        self.announce(metric)

    def forget(self, metric: str, labels: Labels | None) -> None:
        """Forget the function of one label set of a metric, or of all."""
        if labels is None:
            self._functions.pop(metric, None)
        else:
            self._functions.get(metric, {}).pop(labels, None)

    def metrics(self) -> list[str]:
        """Return the metrics for which any process has functions."""
        # Those of this process may not be announced: it may have left the block and attached again.
        return list(dict.fromkeys([*self._functions, *_announced(self._shared())]))

    def announce_all(self) -> None:
        """Announce all metrics with functions again, for another provider or after a fork."""
        for metric in list(self._functions):
            self.announce(metric)

    def announce(self, metric: str) -> None:
        """Announce that this process has functions for a metric, and be ready to be asked."""
        shared = self._shared()
        if shared is None:
            return
        shared.declare(OWN, FUNCTIONS, _DECLARATION)
        shared.answer(_question(metric), partial(self.refresh, metric))
        shared.set(Gauge(self, OWN, FUNCTIONS, ((_LABEL, metric),)), 1)
        self._announced[metric] = _epoch(shared)

    def refresh(self, metric: str) -> int:
        """Write the results of this process's functions for a metric; returns the number of functions."""
        shared, functions = self._shared(), self._functions.get(metric, {})
        if shared is None:
            return 0
        if _epoch(shared) != self._announced.get(metric):
            self.announce(metric)  # the block is a new one, which does not have the gauges yet
        else:
            for labels in [labels for labels in list(functions) if not _has(shared, metric, labels)]:
                functions.pop(labels, None)  # removed by another process
        for gauge, function in list(functions.values()):
            gauge.set(self._called(metric, function))
        return len(functions)

    def refresh_everywhere(self, metrics: Iterable[str]) -> None:
        """Make every process write the results of its functions for some metrics, before they are read."""
        stuck: set[int] = set()  # processes that did not answer for one of the metrics, and are not asked again
        for metric in metrics:
            if metric in self._functions:
                self.refresh(metric)
            shared = self._shared()
            others = _others(shared, metric)
            asked = {other.pid: other.socket for other in others if other.pid not in stuck}
            answers = ask_all(asked, _question(metric)) if asked else {}
            silent = [other for other in others if answers.get(other.pid) is None]
            stuck.update(other.pid for other in silent)
            if silent:
                _set_unknown(shared, metric, silent)

    def _called(self, metric: str, function: Callable[[], float]) -> float:
        """Return the result of a function; NaN if it fails, which is logged once."""
        try:
            return float(function())
        except Exception as error:
            failure = f"the function of gauge {metric!r} failed: {type(error).__name__}"
            if self._logged.first(failure):
                log.warning("%s: %s; the gauge is NaN until the function returns a number again", failure, error)
            return float("nan")


def _question(metric: str) -> str:
    """Return the question that makes a process write the results of its functions for a metric."""
    return f"prometheus_client {blake2b(metric.encode(), digest_size=8).hexdigest()}"


@question(True)
def _has(shared: SharedProvider, block: AttachedBlock, metric: str, labels: Labels) -> bool:
    return block.names.find(encode_key(CATEGORY, metric, labels)) is not None


@question(0)
def _epoch(shared: SharedProvider, block: AttachedBlock) -> int:
    """Return a number that differs between blocks of the same directory."""
    return block.header.started


@question(())
def _announced(shared: SharedProvider, block: AttachedBlock) -> list[str]:
    """Return the metrics for which functions were announced."""
    family = block.names.family_of(encode_key(OWN, FUNCTIONS))
    if family is None:
        return []
    with block.exclusive():
        keys = [block.names.key(record.number) for record in block.names.members_of(family)]
    return [dict(decode_key(key)[2])[_LABEL] for key in keys]


@question(())
def _others(shared: SharedProvider, block: AttachedBlock, metric: str) -> list[_Process]:
    """Return the other processes that have functions for a metric."""
    key = encode_key(OWN, FUNCTIONS, ((_LABEL, metric),))
    record = block.names.find(key) or block.names.find(overflow_key(key))
    having = set() if record is None else {each.signature for each in block.reader.contributions(record)}
    return [
        _Process(worker.pid, worker.signature, worker.row, socket_path(block.name, worker.slot))
        for worker in (block.reader.workers.live() if having else ())
        if worker.signature in having and worker.pid != os.getpid()
    ]


@question(None)
def _set_unknown(shared: SharedProvider, block: AttachedBlock, metric: str, silent: list[_Process]) -> None:
    """Set a metric to NaN for processes that have not answered; their next answer is shown again."""
    signatures = {process.signature for process in silent}
    family = block.names.family_of(encode_key(CATEGORY, metric))
    with block.exclusive():
        records = [] if family is None else block.names.members_of(family)
    for record in records:
        if record.kind is Kind.GAUGE and not record.shared:
            for found in block.reader.contributions(record):
                if found.signature in signatures:
                    _sign_unknown(block, record.cell, found, record.mode)


def _sign_unknown(block: AttachedBlock, cell: int, found: Contribution, mode: Mode) -> None:
    by = (found.signature, mode.live, mode.base is Mode.MOSTRECENT, mode is not Mode.SUM)
    block.cells.set_gauge(found.row, cell, float("nan"), block.cells.generation, by)
