"""Clients that ask a server all the time: one for the page, which it checks; one for a page without statistics."""

from __future__ import annotations

import http.client
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "real"))

from servers import Gunicorn

_PAGE_INTERVAL = 0.25

_TOTAL = re.compile(r'^requests_total{category="requests"} (\S+)$', re.M)


class Scraper:
    """Asks for the page all the time; records problems, and the highest total shown.

    Attributes:
        pages: number of right pages.
        shown: the highest total.
        problems: a line each.
    """

    def __init__(self, server: Gunicorn) -> None:
        self.pages = self.shown = 0
        self.problems: list[str] = []
        self._server = server
        self._excused = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Excuse pages that are cut off meanwhile, and those begun before."""
        self._excused += 1
        try:
            yield
        finally:
            self._excused += 1

    def _run(self) -> None:
        while not self._stopping.wait(_PAGE_INTERVAL):
            excuse, floor = self._excused, self.shown
            try:
                status, page = self._server.get("/stats/prometheus")
            except (OSError, http.client.HTTPException) as error:
                if excuse == self._excused and excuse % 2 == 0:
                    self.problems.append(f"a page failed: {error!r}")
                continue
            self._check(status, page, floor)

    def _check(self, status: int, page: str, floor: int) -> None:
        """Check a page: it must show no less than was shown before it was requested."""
        if status != 200:
            self.problems.append(f"a page answered {status}: {page[:300]!r}")
            return
        types = re.findall(r"^# TYPE (\S+)", page, re.M)
        if len(types) != len(set(types)):
            self.problems.append(f"a page has a family twice: {sorted(types)}")
        found = _TOTAL.search(page)
        total = int(float(found[1])) if found else 0
        if total < floor:
            self.problems.append(f"a page showed {total} after {floor}")
        self.shown = max(self.shown, total)
        self.pages += 1

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()


class Bystander:
    """Asks all the time for a page without statistics, to measure how long the server itself takes.

    At a reload gunicorn ends old workers before the new ones have loaded the application: no worker answers then.
    """

    def __init__(self, server: Gunicorn) -> None:
        self._server = server
        self._waits: list[tuple[float, float]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopping.wait(_PAGE_INTERVAL):
            begun = time.time()
            with suppress(OSError, http.client.HTTPException):
                self._server.get("/plain")
            self._waits.append((begun, time.time()))

    def longest_wait(self, begun: float, ended: float) -> float:
        """Return the longest time between two moments during which one request was not answered."""
        return max((min(end, ended) - max(begin, begun) for begin, end in self._waits), default=0.0)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()
