"""The cost of a counting call."""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

from ..measure import Loop, available, in_turns, time_loops
from ..rows import Figure, Measured, Row
from ..subjects import Effort, Subject, SubjectError, Workshop

NOTHING = "C nothing"
PROMETHEUS = "prometheus_client"
MPMETRICS = "mpmetrics"
VALUE = "mp.Value"
ARRAY = "numpy + Lock"
OPENTELEMETRY = "OpenTelemetry"

ONE_PROCESS = f"{OPENTELEMETRY} counts in one process only"


def _compared(shop: Workshop, case: str, work: str, loops: dict[str, str], note: str = "") -> Measured:
    """Time a loop of ours beside the peers' loops; ``loops`` has their names, ours under ""."""
    starters = {
        "": shop.ours,
        PROMETHEUS: shop.prometheus,
        MPMETRICS: shop.mpmetrics,
        VALUE: lambda: shop.other("locks"),
        ARRAY: lambda: shop.other("locks"),
        OPENTELEMETRY: lambda: shop.other("opentelemetry"),
    }
    subjects, missing = available({name: starters[name] for name in loops if name in starters})
    ready = {"": Loop(subjects[""], loops[""])}
    if NOTHING in loops:
        if _has_nothing(subjects[""], loops[NOTHING]):
            ready[NOTHING] = Loop(subjects[""], loops[NOTHING])
        else:
            missing[NOTHING] = "there is no C compiler"
    ready |= {name: Loop(subject, loops[name]) for name, subject in subjects.items()}
    figures = time_loops(ready, shop.effort)
    return Measured(case, work, figures.pop(""), figures, missing, note)


def _has_nothing(subject: Subject, loop: str) -> bool:
    try:
        subject.do("time_loop", name=loop, calls=1000)
    except SubjectError:
        return False
    return True


def inc(shop: Workshop) -> list[Row]:
    """A bound handle, one process."""
    loops = {"": "inc", NOTHING: "inc nothing", PROMETHEUS: "inc", MPMETRICS: "inc"}
    loops |= {VALUE: "value", ARRAY: "array", OPENTELEMETRY: "inc"}
    measured = _compared(shop, "inc", "counter.incr(), 1 process", loops, ONE_PROCESS)
    return [measured.slower(NOTHING, 1.4), measured.faster(PROMETHEUS, 50), measured.faster(MPMETRICS, 5)]


def incr(shop: Workshop) -> list[Row]:
    """``stats.incr(category, metric, n)``, 1,000 different names in turn."""
    loops = {"": "incr", NOTHING: "incr nothing", PROMETHEUS: "labels", OPENTELEMETRY: "labels"}
    measured = _compared(shop, "incr", "stats.incr(category, metric, n), 1,000 names", loops, ONE_PROCESS)
    return [measured.slower(NOTHING, 2.2), measured.faster(PROMETHEUS, 40)]


def observe(shop: Workshop) -> list[Row]:
    """A histogram by handle."""
    loops = {"": "observe", PROMETHEUS: "observe", MPMETRICS: "observe", OPENTELEMETRY: "observe"}
    measured = _compared(shop, "observe", "histogram.observe(ms), 10 values", loops, ONE_PROCESS)
    return [measured.faster(PROMETHEUS, 25)]


def labels(shop: Workshop) -> list[Row]:
    """A series of a labelled counter, looked up at each call."""
    work = "counter.labels(a, b).incr(), 1,000 sets"
    loops = {"": "labels", PROMETHEUS: "labels", MPMETRICS: "labels", OPENTELEMETRY: "labels"}
    measured = _compared(shop, "labels", work, loops, f"{MPMETRICS}: 100 sets; {ONE_PROCESS}")
    given = time_loops({"": Loop(shop.ours(), "labels dict")}, shop.effort)[""]
    shown = Measured("labels", "stats.incr(…, labels={…}), 1,000 sets", given, measured.peers)
    return [measured.faster(PROMETHEUS, 1), measured.at_most(40), shown.at_most(100)]


def pure(shop: Workshop) -> list[Row]:
    """The pure Python twin, one process."""
    loops = {"": Loop(shop.ours(SHMSTATS_PURE="1"), "incr"), PROMETHEUS: Loop(shop.prometheus(), "labels")}
    figures = time_loops(loops, shop.effort)
    work = "the Python twin: stats.incr, 1,000 names"
    return [Measured("pure", work, figures.pop(""), figures).slower(PROMETHEUS, 2.5)]


def buffered(shop: Workshop) -> list[Row]:
    """Buffered mode beside real-time mode: it saves stores to shared memory, not time, so both should cost alike."""
    subject = shop.ours()
    figures = time_loops({"": Loop(subject, "buffered"), "real-time": Loop(subject, "inc")}, shop.effort)
    return [Measured("buffered", "counter.incr(), buffered", figures.pop(""), figures).slower("real-time", 1.1)]


def contended(shop: Workshop) -> list[Row]:
    """Several processes and one name, per operation and core, beside one process alone."""
    subjects, missing = available(
        {
            "": shop.ours,
            PROMETHEUS: shop.prometheus,
            MPMETRICS: shop.mpmetrics,
            VALUE: lambda: shop.other("locks"),
            ARRAY: lambda: shop.other("locks"),
        }
    )
    loops = {"": "inc", PROMETHEUS: "inc", MPMETRICS: "inc", VALUE: "value", ARRAY: "array"}
    sides = {name: Loop(subject, loops[name]) for name, subject in subjects.items()}
    if _has_nothing(subjects[""], "inc nothing"):
        sides[NOTHING] = Loop(subjects[""], "inc nothing")
    costs = {name: _costs(side, shop.effort, name) for name, side in sides.items()}
    rows = []
    for processes in (2, 8):
        work = f"counter.incr(), {processes} processes, one name"
        wall = {name: cost[processes].wall for name, cost in costs.items()}
        spent = {name: cost[processes].spent for name, cost in costs.items()}
        wall["uncontended"], spent["uncontended"] = costs[""][1].wall, costs[""][1].spent
        note = "wall: wall × cores / operations; uncontended: ours, 1 process"
        measured = Measured("contended", f"{work}: wall", wall.pop(""), wall, missing, note)
        rows.append(measured.slower("uncontended", 1.2))
        rows.append(Measured("contended", f"{work}: processor time", spent.pop(""), spent).only())
    return rows


class _Cost(NamedTuple):
    """The cost of an operation in ns.

    Attributes:
        wall: elapsed time, times the number of cores used by the processes.
        spent: processor time, which excludes other programs.
    """

    wall: Figure
    spent: Figure


def _costs(side: Loop, effort: Effort, name: str) -> dict[int, _Cost]:
    """Return the cost of an operation, by the number of processes."""
    taken, _ = side.subject.do("time_loop", name=side.name, calls=2000)
    calls = max(1000, int(2 * effort.seconds * 1e6 / taken) * 1000)
    cores = len(os.sched_getaffinity(0))
    found: dict[int, list[list[float]]] = {1: [], 2: [], 8: []}

    def together(processes: int) -> float:
        loop, empty = side.subject.do("time_together", name=side.name, calls=calls, processes=processes)
        operations = calls * processes
        scale = min(cores, processes) / operations
        found[processes].append([loop[0] * scale, empty[0] * scale, loop[1] / operations, empty[1] / operations])
        return float(loop[0])

    rounds = effort.rounds // 2 if name in ("", NOTHING) else 4
    in_turns({n: functools.partial(together, n) for n in found}, max(2, rounds))
    costs = {}
    for processes, repeats in found.items():
        wall, empty_wall, spent, empty_spent = zip(*repeats, strict=True)
        costs[processes] = _Cost(
            Figure.best([each - min(empty_wall) for each in wall]),
            Figure.best([each - min(empty_spent) for each in spent]),
        )
    return costs


CASES = {
    "inc": inc,
    "incr": incr,
    "observe": observe,
    "labels": labels,
    "contended": contended,
    "buffered": buffered,
    "pure": pure,
}
