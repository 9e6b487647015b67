"""The cost of saving and restoring, also for other processes."""

from __future__ import annotations

import functools
import statistics
import time

from ..measure import in_turns
from ..rows import Figure, Measured, Row
from ..subjects import Subject, Workshop
from .names import CAPACITY

#: Seconds in which a busy worker measures its longest increment, in one round.
_WATCH = 2.0

_QUIET = "nothing is saved"

#: The sides of `durable`, with the seconds between two saves for pages.
_DURABLE = {True: "saved first", False: "not saved first"}
_EXPOSE_SECONDS = 1.1


def save(shop: Workshop) -> list[Row]:
    """Save all series, and count meanwhile."""
    series = shop.effort.of(100_000)
    subject = shop.block(capacity=CAPACITY)
    subject.do("populate", workers=2, first=0, series=series)
    directory = shop.fresh()

    def one() -> float:
        subject.do("count_again", series=series)
        return float(subject.do("save", directory=directory))

    times = in_turns({"": one}, shop.effort.repeats(9))[""]
    rows = [Measured("save", f"{series:,} series, to the disk", Figure.best(times)).at_most(120e6)]
    subject.do("finish")
    return rows + _undelayed(shop, series)


def own_save(shop: Workshop) -> list[Row]:
    """The longest increment of a process that saves 100,000 series meanwhile."""
    subject = shop.block(shop.fresh(), capacity=CAPACITY, snapshot_interval_ms=250, persist=True)
    series = shop.effort.of(100_000)
    subject.do("register", number=series)
    subject.do("longest_increment", seconds=0.3 if shop.effort.tiny else _WATCH)
    longest, saved = subject.do("longest_increment", seconds=0.3 if shop.effort.tiny else _WATCH)
    measured = Measured("save", f"longest increment, its own process saves {series:,} series", Figure(longest))
    return [measured.that("≤ 1 ms, with saves", saved > 0 and longest <= 1e6)]


def _undelayed(shop: Workshop, series: int) -> list[Row]:
    """Return the longest increment of a busy worker: without saving, with saving by another process, and by its own."""
    busy: dict[str, tuple[Subject, ...]] = {}
    section = {"capacity": CAPACITY, "snapshot_interval_ms": 250}
    quiet = shop.block(capacity=CAPACITY)
    quiet.do("register", number=series)
    busy[_QUIET] = (quiet,)
    for who in ("another process saves", "its own process saves"):
        directory = shop.fresh()
        saver = shop.block(directory, persist=True, **section)
        saver.do("register", number=series)
        another = who.startswith("another")
        busy[who] = (shop.block(directory, persist=True, **section), saver) if another else (saver,)
    saves = dict.fromkeys(busy, 0)
    # Each side saves only in its own turn.
    for subjects in busy.values():
        for subject in subjects:
            subject.pause()

    def watch(who: str) -> float:
        for subject in busy[who]:
            subject.resume()
        longest, saved = busy[who][0].do("longest_increment", seconds=0.3 if shop.effort.tiny else _WATCH)
        for subject in busy[who]:
            subject.pause()
        saves[who] += saved
        return float(longest)

    found = in_turns({who: functools.partial(watch, who) for who in busy}, shop.effort.repeats(5))
    figures = {who: Figure.median(longest) for who, longest in found.items()}
    base = figures.pop(_QUIET)
    rows = []
    for who, figure in figures.items():
        note = (
            f"{who}: median of the longest of {len(found[who])} rounds of {_WATCH:g} s, {saves[who]} saves;"
            f" longest of all {Figure(max(found[who]))}, while nothing is saved {Figure(max(found[_QUIET]))}"
        )
        measured = Measured("save", f"longest increment, {who}", figure, {_QUIET: base}, note=note)
        met = saves[who] > 0 and figure.value <= max(2 * base.value, 1e6)
        rows.append(measured.that("not delayed: ≤ 2 × while nothing is saved, or 1 ms", met, figure.value / base.value))
    return rows


def durable(shop: Workshop) -> list[Row]:
    """A page whose values are saved before it is answered, beside one that does not wait for that."""
    rows = []
    for series in (shop.effort.of(1000), shop.effort.of(10_000), shop.effort.of(100_000)):
        with shop.scope() as part:
            sides = {_DURABLE[saved]: _page_of(part, series, saved) for saved in (True, False)}

            def one(subject: Subject) -> tuple[float, float]:
                time.sleep(0 if shop.effort.tiny else _EXPOSE_SECONDS)
                taken, used = subject.do("expose")
                return taken, used

            turns = [{name: one(subject) for name, subject in sides.items()} for _ in range(shop.effort.repeats(9))]
        for number, what in enumerate(("on the clock", "processor time")):
            saved, plain = (Figure.median([turn[name][number] for turn in turns]) for name in sides)
            work = f"a page of {series:,} series, saved first: {what}"
            rows.append(Measured("durable", work, saved, {_DURABLE[False]: plain}).only())
    return rows


def _page_of(shop: Workshop, series: int, saved: bool) -> Subject:
    subject = shop.other("ours_pages")
    section = {"persist": True, "durable_exposition": saved, "snapshot_interval_ms": 3_600_000}
    subject.do("configure", directory=shop.fresh(), capacity=CAPACITY, **section)
    subject.do("plain", series=series)
    subject.do("expose")
    return subject


def restore(shop: Workshop) -> list[Row]:
    """Make a block from a saved snapshot."""
    series = shop.effort.of(100_000)
    directory = shop.fresh()
    with shop.scope() as part:
        writer = part.block(capacity=CAPACITY)
        writer.do("register", number=series)
        writer.do("save", directory=directory)

    def one() -> tuple[float, float]:
        with shop.scope() as part:
            subject = part.block()
            taken, used, found = subject.do("restore", directory=directory, capacity=CAPACITY)
            assert found == series, f"{found} restored of {series}"
            return taken, used

    taken, used = zip(*(one() for _ in range(shop.effort.repeats(5))), strict=True)
    note = f"median {Figure(statistics.median(taken))}; processor time {Figure(min(used))}"
    return [Measured("restore", f"{series:,} series, init()", Figure.best(taken), note=note).at_most(60e6)]


CASES = {"save": save, "durable": durable, "restore": restore}
