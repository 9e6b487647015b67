"""The cost of reading the counts of all workers."""

from __future__ import annotations

from ..measure import available, in_turns
from ..rows import BYTES, Figure, Measured, Row
from ..subjects import Subject, Workshop
from .counting import PROMETHEUS
from .names import CAPACITY

SERIES = (1000, 10_000, 100_000)
WORKERS = (1, 8, 64)

#: Beyond this product of series and workers prometheus_client takes seconds for a page, and minutes in all.
_PATIENCE = 100_000


def populated(shop: Workshop, workers: int, series: int) -> Subject:
    """Start our side: this many workers that have counted all names, and a process that reads."""
    subject = shop.block(capacity=CAPACITY, max_workers=max(64, workers + 1))
    subject.do("populate", workers=workers, first=0, series=series)
    assert subject.do("total") == workers * series, "the sums are wrong"
    return subject


def peer_populated(shop: Workshop, workers: int, series: int) -> tuple[Subject | None, dict[str, str]]:
    """Start prometheus_client's side in the same way; return the reason if there is none."""
    subjects, missing = available({PROMETHEUS: shop.prometheus})
    if not subjects:
        return None, missing
    subjects[PROMETHEUS].do("populate", workers=workers, first=0, series=series)
    return subjects[PROMETHEUS], {}


def our_scrape(subject: Subject, series: int) -> float:
    """Scrape, after every value has changed; returns ns."""
    subject.do("count_again", series=series)
    taken, samples = subject.do("scrape")
    assert samples == series, f"{samples} samples of {series}"
    return float(taken)


def peer_scrape(subject: Subject, series: int) -> float:
    """Scrape; returns ns."""
    taken, samples = subject.do("scrape")
    assert samples == series, f"{samples} samples of {series}"
    return float(taken)


def scrape(shop: Workshop) -> list[Row]:
    """Render the Prometheus text."""
    rows, warm = [], {}
    for number in SERIES:
        for workers in WORKERS:
            series = shop.effort.of(number)
            with shop.scope() as part:
                measured, first = _scrape(part, series, shop.effort.of(workers, least=8))
                shop.versions |= part.versions
            warm[number, workers] = measured.ours
            if (number, workers) == (10_000, 8):
                rows.append(measured.faster(PROMETHEUS, 150))
            limit = 200 * series
            rows.append(measured.at_most(limit, "≤ 200 ns a series"))
            rows.append(first.only())
    for workers in WORKERS:
        many, few = warm[100_000, workers], warm[10_000, workers]
        ratio = many.value / few.value / (shop.effort.of(100_000) / shop.effort.of(10_000))
        measured = Measured("scrape", f"a series of 100,000 beside one of 10,000, {workers} rows", many)
        rows.append(measured.that("linear: ≤ 1.25 ×", ratio <= 1.25, ratio))
    return rows


def _scrape(shop: Workshop, series: int, workers: int) -> tuple[Measured, Measured]:
    work = f"{series:,} series × {workers} rows"
    ours = populated(shop, workers, series)
    cold = Figure(our_scrape(ours, series))
    sides = {"": lambda: our_scrape(ours, series)}
    peers: dict[str, Figure] = {}
    missing: dict[str, str] = {}
    repeats = 15
    if series * workers <= _PATIENCE:
        theirs, missing = peer_populated(shop, workers, series)
        if theirs is not None:
            peer_scrape(theirs, series)
            sides[PROMETHEUS] = lambda: peer_scrape(theirs, series)
            repeats = 5 if series * workers < 200_000 else 2
    else:
        missing = {PROMETHEUS: "it would take minutes"}
    times = in_turns(sides, shop.effort.repeats(repeats))
    # A slow peer allows few rounds; more rounds of ours take little time.
    times[""] += in_turns({"": sides[""]}, shop.effort.repeats(15 - repeats))[""] if repeats < 15 else []
    peers = {name: Figure.best(found) for name, found in times.items() if name}
    warm = Measured("scrape", work, Figure.best(times[""]), peers, missing)
    return warm, Measured("scrape", f"{work}: the first", cold)


def churn(shop: Workshop) -> list[Row]:
    """A scrape, and the size of the block, after many workers have been recycled."""
    series, workers, number = shop.effort.of(1000), 8, shop.effort.of(1000, least=16)
    work = f"{series:,} series × {workers} rows, after {number:,} workers have come and gone"
    ours = populated(shop, workers, series)
    theirs, missing = peer_populated(shop, workers, series)

    repeats = shop.effort.repeats(100)
    first = [our_scrape(ours, series) for _ in range(repeats)]
    length, size = ours.do("length"), ours.do("size")
    total = ours.do("total")
    ours.do("replace", number=number, series=series, of=series)
    number = -(-number // workers) * workers
    assert ours.do("total") == total + number * series, "the sums are wrong"
    then = [our_scrape(ours, series) for _ in range(repeats)]
    length_after, size_after = ours.do("length"), ours.do("size")
    peers = {"ours before": Figure.best(first[1:])}
    sizes = {"ours before": Figure(size, BYTES)}
    if theirs is not None:
        peers[f"{PROMETHEUS} before"] = Figure.best([peer_scrape(theirs, series) for _ in range(3)])
        sizes[f"{PROMETHEUS} before"] = Figure(theirs.do("size"), BYTES)
        theirs.do("replace", number=number, series=series, of=series)
        peers[PROMETHEUS] = Figure(peer_scrape(theirs, series))
        sizes[PROMETHEUS] = Figure(theirs.do("size"), BYTES)
    measured = Measured("churn", f"scrape, {work}", Figure.best(then), peers, missing)
    block = Measured("churn", f"block, {work}", Figure(size_after, BYTES), sizes, missing)
    unchanged = length == length_after and size_after <= size
    return [
        measured.slower("ours before", 1.2),
        block.that("unchanged", unchanged, size_after / size),
    ]


def document(shop: Workshop) -> list[Row]:
    """The document of ``/stats``, by a request to the application."""
    series, workers = shop.effort.of(10_000), 8
    ours = populated(shop, workers, series)
    theirs, missing = peer_populated(shop, workers, series)

    def our_side() -> float:
        ours.do("count_again", series=series)
        taken, metrics = ours.do("document")
        assert metrics == series, f"{metrics} metrics of {series}"
        return float(taken)

    our_side()
    sides = {"": our_side}
    if theirs is not None:
        sides[PROMETHEUS] = lambda: peer_scrape(theirs, series)
    figures = {name: Figure.best(each) for name, each in in_turns(sides, shop.effort.repeats(7)).items()}
    work = f"GET /stats of {series:,} series × {workers} rows, its scrape"
    return [Measured("json", work, figures.pop(""), figures, missing).faster(PROMETHEUS, 20)]


CASES = {"scrape": scrape, "churn": churn, "json": document}
