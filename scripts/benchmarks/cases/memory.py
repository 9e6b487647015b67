"""The use of shared memory."""

from __future__ import annotations

from ..rows import BYTES, Figure, Measured, Row
from ..subjects import Subject, Workshop
from .counting import PROMETHEUS
from .scraping import peer_populated


def memory(shop: Workshop) -> list[Row]:
    """Bytes for series, workers and processes; beside the files of prometheus_client, which are also in memory."""
    series, workers = shop.effort.of(10_000), 8
    passing, number = shop.effort.of(100), shop.effort.of(1000, least=16)
    ours = shop.block(max_workers=64)
    empty = ours.do("size")
    ours.do("populate", workers=1, first=0, series=series)
    one = ours.do("size")
    ours.do("populate", workers=workers - 1, first=0, series=series)
    many = ours.do("size")
    theirs, missing = peer_populated(shop, 1, series)
    their_one = their_many = 0
    if theirs is not None:
        their_one = theirs.do("size")
        theirs.do("populate", workers=workers - 1, first=0, series=series)
        their_many = theirs.do("size")

    def measured(what: str, ours: float, theirs: float | None, note: str = "") -> Measured:
        peers = {} if theirs is None or missing else {PROMETHEUS: Figure(theirs, BYTES)}
        return Measured("memory", what, Figure(ours, BYTES), peers, missing, note)

    all_of_it = f"{series:,} series × {workers} workers"
    rows = [
        measured(f"{all_of_it}, all", many, their_many).smaller(PROMETHEUS, 4),
        measured("each series, 1 worker", (one - empty) / series, their_one / series).only(),
        measured(
            f"each further worker that uses {series:,} names",
            (many - one) / (workers - 1),
            (their_many - their_one) / (workers - 1),
        ).only(),
        measured("a block without a name, 1 process", empty, None).only(),
    ]
    ours.do("replace", number=number, series=passing, of=series)
    if theirs is not None:
        theirs.do("replace", number=number, series=passing, of=series)
        their_many = theirs.do("size")
    later = ours.do("size")
    what = f"{all_of_it}, after {number:,} workers that use {passing} each have come and gone"
    note = f"ours grew by {later - many:,} bytes"
    rows.append(measured(what, later, their_many, note).smaller(PROMETHEUS, 4))
    rows.append(measured(what, later, their_many).that("not larger than before", later <= many, later / many))
    return [*rows, *_ten_names(ours, series)]


def _ten_names(subject: Subject, series: int) -> list[Row]:
    """Return the bytes of a further worker that uses few names."""
    step = max(1, series // 10)
    uses = {
        "a further worker that uses 1 name": [0],
        "a further worker that uses 10 names, one after another": list(range(10)),
        f"a further worker that uses 10 names, every {step:,}th": list(range(0, 10 * step, step)),
    }
    rows = []
    for what, numbers in uses.items():
        cost = Figure(subject.do("worker_size", numbers=numbers), BYTES)
        measured = Measured("memory", what, cost)
        rows.append(measured.only() if len(numbers) == 1 else measured.at_most(16 * 1024))
    return rows


CASES = {"memory": memory}
