"""The cost of a new name, of a repeated one, and of a new worker."""

from __future__ import annotations

from functools import partial

from ..measure import available, in_turns
from ..rows import Figure, Measured, Row
from ..subjects import Subject, Workshop
from .counting import MPMETRICS, PROMETHEUS

#: The series of mpmetrics: it makes a series more slowly the more there are.
_FEW = 200

#: The limit in ns until this many workers have attached.
_ATTACH_LIMITS = {256: 500e6, 1000: 5e9}

#: A capacity for 100,000 names.
CAPACITY = 131072


def register(shop: Workshop) -> list[Row]:
    """New names, and the same names from a second process."""
    sizes = {number: shop.effort.of(number) for number in (1000, 10_000, 100_000)}
    found = {number: _register(shop, size, 7 if number < 100_000 else 3) for number, size in sizes.items()}
    rows = []
    for number, size in sizes.items():
        new, again, peers, missing = found[number]
        note = f"{MPMETRICS}: the first {_FEW}" if MPMETRICS in peers else ""
        measured = Measured("register", f"{size:,} new names, each", new, peers, missing, note)
        rows.append(measured.at_most(3000))
        rows.append(Measured("register", f"{size:,} names in a second process, each", again).at_most(2000))
    few, _, _, _ = found[1000]
    many, _, _, _ = found[100_000]
    ratio = many.value / few.value
    flat = Measured("register", f"{sizes[100_000]:,} beside {sizes[1000]:,}", many, {"the fewer": few})
    rows.append(flat.that("flat: ≤ 1.25 × a name", ratio <= 1.25, ratio))
    return rows


def _register(shop: Workshop, size: int, repeats: int) -> tuple[Figure, Figure, dict[str, Figure], dict[str, str]]:
    """Return the times of a new name: ours, ours in a second process, and the peers'."""
    second: list[float] = []
    missing: dict[str, str] = {}

    def ours() -> float:
        with shop.scope() as part:
            directory = part.fresh()
            first = part.block(directory, capacity=CAPACITY)
            taken = first.do("register", number=size)
            second.append(part.block(directory, capacity=CAPACITY).do("register", number=size))
            return float(taken)

    def peer(name: str) -> float:
        with shop.scope() as part:
            starters = {PROMETHEUS: part.prometheus, MPMETRICS: part.mpmetrics}
            subjects, why = available({name: starters[name]})
            missing.update(why)
            number = size if name == PROMETHEUS else min(size, _FEW)
            return float(subjects[name].do("register", number=number)) if subjects else 0.0

    times = in_turns({"": ours, PROMETHEUS: lambda: peer(PROMETHEUS)}, shop.effort.repeats(repeats))
    if size <= 1000:
        times |= in_turns({MPMETRICS: lambda: peer(MPMETRICS)}, 1)
    figures = {name: Figure.best(repeats) for name, repeats in times.items() if name not in missing}
    return figures.pop(""), Figure.best(second), figures, missing


def refill(shop: Workshop) -> list[Row]:
    """Label sets of prometheus_client's metrics that are cleared and counted again, on a block and without."""
    number = shop.effort.of(500)
    ours, alone = shop.other("refill"), shop.other("refill")
    ours.do("share", directory=shop.fresh())
    rows = []
    for kind in ("counter", "summary", "histogram", "all", "livesum", "max", "mostrecent"):
        sides = {name: partial(_refilled, side, kind, number) for name, side in (("", ours), (PROMETHEUS, alone))}
        in_turns(sides, 2)
        figures = {name: Figure.median(each) for name, each in in_turns(sides, shop.effort.repeats(15)).items()}
        what = kind if kind in ("counter", "summary", "histogram") else f"gauge of mode {kind}"
        measured = Measured("refill", f"{number} label sets of a {what}: processor time", figures.pop(""), figures)
        rows.append(measured.slower(PROMETHEUS, 2))
    return rows


def _refilled(subject: Subject, kind: str, number: int) -> float:
    return float(subject.do("refill", kind=kind, number=number))


def attach(shop: Workshop) -> list[Row]:
    """Concurrently forked workers that count once."""
    rows = []
    for number in (8, 64, 256, 1000):
        workers = shop.effort.of(number, 4)
        with shop.scope() as part:
            subject = part.block(max_workers=1024)
            repeats = range(shop.effort.repeats(3) if number < 100 else 1)
            taken, used = zip(*(subject.do("attach", number=workers) for _ in repeats), strict=True)
        note = f"processor time of each {Figure(min(used) / workers)}"
        measured = Measured("attach", f"{workers:,} workers at once, in all", Figure.best(taken), note=note)
        limit = _ATTACH_LIMITS.get(number)
        rows.append(measured.only() if limit is None else measured.at_most(limit))
    return rows


CASES = {"register": register, "refill": refill, "attach": attach}
