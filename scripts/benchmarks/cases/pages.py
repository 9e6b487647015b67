"""The cost of a new page: the first, after a change of names, with labels, of histograms, of many rows.

Figures are processor time, except those of prometheus_client.
"""

from __future__ import annotations

from ..measure import available, in_turns
from ..rows import BYTES, Figure, Measured, Row
from ..subjects import Subject, Workshop
from .counting import ONE_PROCESS, OPENTELEMETRY, PROMETHEUS
from .names import CAPACITY
from .scraping import peer_populated, peer_scrape

_FIRST = "≤ 400 ns a series"
_LATER = "≤ 40 ns a series"


def filled(shop: Workshop, what: str, series: int, capacity: int = CAPACITY) -> Subject:
    """Start a process with a block that has this many series of a kind: plain, labelled or histograms."""
    subject = shop.other("ours_pages")
    subject.do("configure", directory=shop.fresh(), capacity=capacity, max_series_per_metric=CAPACITY)
    subject.do(what, series=series)
    return subject


def page(shop: Workshop) -> list[Row]:
    """The page of 100,000 series: the first, later ones, after a removal and after a first decrement."""
    series = shop.effort.of(100_000)
    rows = []
    for what in ("plain", "labelled"):
        with shop.scope() as part:
            subject = filled(part, what, series)
            rows += _page(part, subject, what, series)
            shop.versions |= part.versions
    return [*rows, *_histograms(shop)]


def _page(shop: Workshop, subject: Subject, what: str, series: int) -> list[Row]:
    work = f"{series:,} {what} series"
    first, samples = subject.do("scrape")
    assert samples >= series, f"{samples} lines of {series} series"
    repeats = shop.effort.repeats(9)
    later = Figure.best([subject.do("scrape")[0] for _ in range(repeats)])
    beside = _of_peers(shop, what, series)
    after = {
        "after a removal": Figure.best([subject.do("scrape_after", change="removed") for _ in range(repeats)]),
        "after a first decrement": Figure.best([subject.do("scrape_after", change="lowered") for _ in range(repeats)]),
    }
    taken, size, packed = subject.do("compress")
    return [
        Measured("page", f"{work}: the first", Figure(first), *beside).at_most(400 * series, _FIRST),
        Measured("page", f"{work}: later", later, *beside).at_most(40 * series, _LATER),
        *(Measured("page", f"{work}: {when}", each).at_most(400 * series, _FIRST) for when, each in after.items()),
        Measured("page", f"{work}: gzip", Figure(taken)).only(),
        Measured("page", f"{work}: bytes, gzip", Figure(packed, BYTES), {"without": Figure(size, BYTES)}).only(),
    ]


def _of_peers(shop: Workshop, what: str, series: int) -> tuple[dict[str, Figure], dict[str, str], str]:
    """Return the cost of the same series for the peers, the reason if it was not measured, and a note."""
    if shop.effort.short:
        return {}, {}, ""
    peers: dict[str, Figure] = {}
    missing: dict[str, str] = {}
    if what != "histograms":
        theirs, missing = peer_populated(shop, 1, series)
        if theirs is not None:
            peers[PROMETHEUS] = Figure(peer_scrape(theirs, series))
    found, why = available({OPENTELEMETRY: lambda: shop.other("opentelemetry_pages")})
    for name, subject in found.items():
        subject.do(what, series=series)
        peers[name] = Figure(peer_scrape(subject, series))
    return peers, missing | why, ONE_PROCESS if found else ""


def _histograms(shop: Workshop) -> list[Row]:
    series = shop.effort.of(2000)
    subject = filled(shop, "histograms", series, 100 * series)
    first, _ = subject.do("scrape")
    later = Figure.best([subject.do("scrape")[0] for _ in range(shop.effort.repeats(9))])
    work = f"{series:,} histograms of durations"
    beside = _of_peers(shop, "histograms", series)
    return [
        Measured("page", f"{work}: the first", Figure(first), *beside).only(),
        Measured("page", f"{work}: later", later, *beside).at_most(1000 * series, "≤ 1 µs a histogram"),
    ]


def rows(shop: Workshop) -> list[Row]:
    """The page of a block whose series are in many rows."""
    series, found = shop.effort.of(10_000), []
    for number in (1, 64, shop.effort.of(1024, least=16)):
        with shop.scope() as part:
            subject = part.other("ours_pages")
            subject.do("configure", directory=part.fresh(), capacity=CAPACITY, max_workers=max(64, number))
            total = subject.do("rows", series=series, rows=number + 1)
            assert total >= series * number, "the sums are wrong"
            subject.do("scrape")
            taken = in_turns({"": lambda: float(subject.do("scrape")[0])}, shop.effort.repeats(9))[""]  # noqa: B023
            found.append(Measured("rows", f"scrape of {series:,} series in {number:,} rows", Figure.best(taken)).only())
    return found


def poll(shop: Workshop) -> list[Row]:
    """The cost of a poll of the live page, after all routes have answered requests."""
    series = shop.effort.of(10_000)
    subject = shop.other("ours_pages")
    subject.do("configure", directory=shop.fresh(), capacity=CAPACITY, max_series_per_metric=CAPACITY)
    found = subject.do("routes", series=series)
    assert found >= series, f"{found} series of {series}"
    polls = [subject.do("poll", routes=series // 10) for _ in range(shop.effort.repeats(30))]
    work = f"{series:,} series, {series // 10:,} of them durations of routes"
    taken, size = (Figure.best([each[at] for each in polls[1:] or polls]) for at in (0, 1))
    return [
        Measured("poll", work, taken).at_most(3e6, "≤ 3 ms"),
        Measured("poll", f"{work}: bytes, gzip", Figure(size.value, BYTES)).at_most(30_000, "≤ 30 KB"),
    ]


def figures(shop: Workshop) -> list[Row]:
    """The cost of the figures of system and health in a page, for each live worker."""
    workers = shop.effort.of(64, least=4)
    subject = shop.other("ours_pages")
    subject.do("configure", directory=shop.fresh())
    taken, live = subject.do("figures", workers=workers)
    assert live >= workers, f"{live} live workers of {workers}"
    work = f"figures of {live} live workers in a scrape, each"
    return [Measured("figures", work, Figure(taken / live)).at_most(20_000, "≤ 20 µs a worker")]


def million(shop: Workshop) -> list[Row]:
    """The page of 1,000,000 series, and the memory of the process that has counted them."""
    series = shop.effort.of(1_000_000)
    subject = filled(shop, "plain", series, series + 1000)
    first, _ = subject.do("scrape")
    later = Figure.best([subject.do("scrape")[0] for _ in range(shop.effort.repeats(5))])
    work = f"{series:,} series"
    return [
        Measured("million", f"{work}: the first", Figure(first)).at_most(1e9, "≤ 1 s"),
        Measured("million", f"{work}: later", later).at_most(60e6, "≤ 60 ms"),
    ]


CASES = {"page": page, "rows": rows, "poll": poll, "figures": figures, "million": million}
