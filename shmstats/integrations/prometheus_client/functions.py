"""The functions of gauges (``Gauge.set_function``): each is called in the process that has it, at every scrape.

A process with functions for a metric announces that in a gauge of its own, which ends with it. Before a page with that
metric is made, these processes are asked to write the results of their functions into the block, in their background
threads. If a function fails or a process does not answer, the result is NaN: an old value is never shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from ...attachment.asking import ask_all
from ...attachment.own_metrics import OWN
from ...attachment.slow_path import SharedProvider
from ...block.keys import encode_key
from ...core import Gauge
from ...hashing import blake2b
from ...once import Once
from ...series import Declaration, Kind, Labels, Mode
from . import asking

log = logging.getLogger("shmstats")

#: The gauge by which processes announce functions, with the metric as its label.
FUNCTIONS = "prometheus_client_functions"

_LABEL = "family"
_DECLARATION = Declaration(Kind.GAUGE, "Processes that have a function for a gauge.", mode=Mode.LIVESUM)


class Functions:
    """The functions of this process, and the calls of those of other processes.

    Args:
        shared: returns the block's provider; None if statistics are disabled.
    """

    def __init__(self, shared: Callable[[], SharedProvider | None]) -> None:
        self._shared = shared
        self._functions: dict[str, dict[Labels, tuple[Gauge, Callable[[], float]]]] = {}
        self._announced: dict[str, int] = {}
        self._logged = Once()

    def set(self, gauge: Gauge, function: Callable[[], float]) -> None:
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
        announced = [dict(labels)[_LABEL] for labels in asking.label_sets(self._shared(), FUNCTIONS, OWN)]
        return list(dict.fromkeys([*self._functions, *announced]))

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
        self._announced[metric] = asking.started(shared)

    def refresh(self, metric: str) -> int:
        """Write the results of this process's functions for a metric; returns the number of functions."""
        shared, functions = self._shared(), self._functions.get(metric, {})
        if shared is None:
            return 0
        if asking.started(shared) != self._announced.get(metric):
            self.announce(metric)  # the block is a new one, which does not have the gauges yet
        else:
            for labels in [labels for labels in list(functions) if not asking.has(shared, metric, labels)]:
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
            others = asking.others(shared, encode_key(OWN, FUNCTIONS, ((_LABEL, metric),)))
            answers = ask_all({pid: path for pid, (_, path) in others.items() if pid not in stuck}, _question(metric))
            silent = [pid for pid in others if answers.get(pid) is None]
            if silent:
                stuck.update(silent)
                asking.set_unknown(shared, metric, {others[pid][0] for pid in silent})

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
