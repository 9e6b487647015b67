"""The cost of counting the requests of a web application."""

from __future__ import annotations

import functools
import http.client
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..measure import Loop, available, in_turns, time_loops
from ..peers.serving import versions_of
from ..rows import NS, PER_SECOND, Figure, Measured, Row, not_measured, spread_of
from ..servers import Load, Server, Wrk
from ..subjects import NotAvailableError, SubjectError, Workshop, find_program

EXPORTER = "prometheus_flask_exporter"
BARE = "bare"
OURS = ""

_WORKERS = 2
_CONNECTIONS = 4

#: The sites of `benchmarks.sites`.
_SITES = {BARE: "bare", OURS: "counted", EXPORTER: "exported"}

_MET_HTTP = (
    "≤ 3 % of bare throughput",
    f"≤ 1/4 of the cost of {EXPORTER}",
    "no answered request uncounted",
)


@contextmanager
def _servers(shop: Workshop, *names: str) -> Iterator[dict[str, Server]]:
    servers: dict[str, Server] = {}
    try:
        for name in names:
            environment = {}
            if name == OURS:
                environment["BENCH_DATA"] = shop.fresh()
            if name == EXPORTER:
                environment["PROMETHEUS_MULTIPROC_DIR"] = shop.fresh(shop.memory)
            shop.versions |= versions_of("flask", "gunicorn", "prometheus-flask-exporter")
            servers[name] = Server(_SITES[name], shop.fresh(), _WORKERS, **environment)
        yield servers
    finally:
        for server in servers.values():
            server.close()


def middleware(shop: Workshop) -> list[Row]:
    """The cost of the extension in a request through the application's WSGI callable."""
    subjects, missing = available({OURS: lambda: shop.other("ours_flask"), EXPORTER: lambda: shop.exporter()})
    work = "a request to a Flask application through WSGI: beyond the bare one"
    target = f"≥ 4 × faster than {EXPORTER}"
    if OURS not in subjects:
        return [not_measured("middleware", work, target, missing[OURS])]
    loops = {name: Loop(subject, "request", 10) for name, subject in subjects.items()}
    try:
        figures = time_loops(loops, shop.effort)
        others = {name: Loop(subjects[OURS], name, 10) for name in (BARE, "wsgi")}
        others = time_loops(others, shop.effort)
    except SubjectError as error:
        return [not_measured("middleware", work, target, str(error))]
    note = f"the bare application: {others[BARE]}"
    flask = Measured("middleware", work, figures.pop(OURS), figures, missing, note)
    plain = Measured("middleware", "a request to a WSGI application of two lines: beyond the bare one", others["wsgi"])
    return [flask.faster(EXPORTER, 4), flask.at_most(2000), plain.at_most(2000)]


def requests(shop: Workshop) -> list[Row]:
    """A Flask application under gunicorn: bare, with our extension, with prometheus_flask_exporter."""
    work = f"Flask under gunicorn, {_WORKERS} workers, {_CONNECTIONS} connections"
    try:
        find_program("wrk")
        with _servers(shop, *_SITES) as servers:
            return _compared(shop, work, servers)
    except NotAvailableError as error:
        return [not_measured("http", work, target, str(error)) for target in _MET_HTTP]


class _Rounds:
    """The results of rounds in which the sites took turns."""

    def __init__(self, servers: dict[str, Server], seconds: float) -> None:
        self._servers = servers
        self._seconds = seconds
        self.loads: dict[str, list[Load]] = {name: [] for name in servers}
        self.cpu: dict[str, list[float]] = {name: [] for name in servers}

    def run(self, name: str) -> float:
        """Put one server under load for a while; returns requests a second."""
        server = self._servers[name]
        before = server.cpu_ns()
        load = Wrk(f"http://127.0.0.1:{server.port}/hello", self._seconds, _CONNECTIONS).result()
        self.cpu[name].append((server.cpu_ns() - before) / max(1, load.requests))
        self.loads[name].append(load)
        return load.rate

    def forget(self) -> None:
        """Drop the results so far, which were of the warm-up."""
        for name in self._servers:
            self.loads[name].clear()
            self.cpu[name].clear()

    def costs(self, name: str) -> list[float]:
        """Return the additional ns of a request over a bare one, for each round."""
        pairs = zip(self.loads[name], self.loads[BARE], strict=True)
        return [1e9 / load.rate - 1e9 / bare.rate for load, bare in pairs]

    def losses(self, name: str) -> list[float]:
        """Return the part of the bare throughput that is lost, for each round."""
        return [1 - load.rate / bare.rate for load, bare in zip(self.loads[name], self.loads[BARE], strict=True)]


def _compared(shop: Workshop, work: str, servers: dict[str, Server]) -> list[Row]:
    rounds = _Rounds(servers, 1)
    sides = {name: functools.partial(rounds.run, name) for name in servers}
    in_turns(sides, 1)
    warm = sum(load.requests for load in rounds.loads[OURS])
    rounds.forget()
    in_turns(sides, 2 if shop.effort.tiny else 20)
    answered = warm + sum(load.requests for load in rounds.loads[OURS])
    failed = sum(load.failed for loads in rounds.loads.values() for load in loads)
    counted = _counted(servers[OURS])
    note = f"medians of {len(rounds.loads[BARE])} paired rounds of wrk; {failed} requests failed"
    rates = {name: [load.rate for load in loads] for name, loads in rounds.loads.items()}
    figures = {name: Figure.median(rate, PER_SECOND) for name, rate in rates.items()}
    losses = {name: rounds.losses(name) for name in (OURS, EXPORTER)}
    costs = {name: statistics.median(rounds.costs(name)) for name in losses}
    loss = {name: statistics.median(each) for name, each in losses.items()}
    low, _, high = statistics.quantiles(losses[OURS], n=4)
    note += f"; ours costs {loss[OURS]:.1%} (quartiles {low:.1%} and {high:.1%}), {EXPORTER} {loss[EXPORTER]:.1%}"
    speed = Measured("http", work, figures.pop(OURS), figures, note=note)
    spread = spread_of(rounds.costs(OURS))
    cost = Measured(
        "http",
        "time that a request costs more than a bare one",
        Figure(costs[OURS], NS, spread, len(losses[OURS])),
        {EXPORTER: Figure(costs[EXPORTER], NS, spread_of(rounds.costs(EXPORTER)), len(losses[EXPORTER]))},
    )
    uncounted = answered - counted
    exact = Measured(
        "http",
        f"{answered:,} requests answered, {counted:,} counted",
        speed.ours,
        note="in flight at wrk's ends",
    )
    return [
        speed.that(_MET_HTTP[0], loss[OURS] <= 0.03 and not failed, loss[OURS]),
        cost.that(
            _MET_HTTP[1], costs[OURS] <= costs[EXPORTER] / 4 and costs[EXPORTER] > 0,
            costs[OURS] / costs[EXPORTER],
        ),
        _more_processor_time(rounds).only(),
        *(_latency(rounds, which).only() for which in ("p50", "p99")),
        _processor_time(rounds).only(),
        exact.that(_MET_HTTP[2], uncounted <= 0),
    ]  # fmt: skip


def _latency(rounds: _Rounds, which: str) -> Measured:
    figures = {name: Figure.median([getattr(load, which) for load in loads]) for name, loads in rounds.loads.items()}
    return Measured("http", f"{which} of the latency", figures.pop(OURS), figures)


def _processor_time(rounds: _Rounds) -> Measured:
    figures = {name: Figure.median(each) for name, each in rounds.cpu.items()}
    return Measured("http", "processor time of the workers, a request", figures.pop(OURS), figures)


def _more_processor_time(rounds: _Rounds) -> Measured:
    """Return the additional processor time of a request over a bare one; other processes hardly affect it."""
    figures = {
        name: Figure.median([n - bare for n, bare in zip(rounds.cpu[name], rounds.cpu[BARE], strict=True)])
        for name in (OURS, EXPORTER)
    }
    return Measured("http", "the same in processor time of the workers", figures.pop(OURS), figures)


def _counted(server: Server) -> int:
    """Return the number of requests for /hello in the site's statistics."""
    status, body = server.get("/stats/prometheus")
    if status != 200:
        raise NotAvailableError(f"/stats/prometheus answers {status}: {body[:500]!r}")
    return sum(
        int(line.rpartition(b" ")[2])
        for line in body.splitlines()
        if line.startswith(b"http_requests_total{") and b'"/hello"' in line
    )


#: Seconds between two scrapes that no scrape before them can delay: a page waits for a save, of which there is one a
#: second (docs/persistence.md).
_INTERVAL = 1.1


def scrape_under_load(shop: Workshop) -> list[Row]:
    """``/stats/prometheus`` under gunicorn, while requests come in."""
    series = shop.effort.of(10_000)
    work = f"/stats/prometheus of {series:,} series under load, every {_INTERVAL} s"
    targets = ("p99 ≤ 30.0 ms", "no answered request uncounted")
    try:
        find_program("wrk")
        with _servers(shop, OURS) as servers:
            return _scraped(work, targets, servers[OURS], series, 2 if shop.effort.tiny else 45)
    except NotAvailableError as error:
        return [not_measured("http-scrape", work, target, str(error)) for target in targets]


def _scraped(work: str, targets: tuple[str, str], server: Server, series: int, seconds: float) -> list[Row]:
    status, said = server.get(f"/fill/{series}")
    if status != 200:
        raise NotAvailableError(f"/fill answers {status}: {said[:500]!r}")
    before = _counted(server)
    wrk = Wrk(f"http://127.0.0.1:{server.port}/hello", seconds, _CONNECTIONS)
    taken = _scrapes(server, series, seconds * 0.8, _INTERVAL)
    at_once = _scrapes(server, series, seconds * 0.1, 0.02)
    load = wrk.result()
    counted = _counted(server) - before
    p99 = statistics.quantiles(taken, n=100, method="inclusive")[98]
    note = f"{len(taken)} scrapes, median {Figure(statistics.median(taken))}, longest {Figure(max(taken))}"
    note += f"; the load: {load.rate:,.0f} requests a second, p99 {Figure(load.p99)}, {load.failed} failed"
    measured = Measured("http-scrape", work, Figure(p99, NS, spread_of(taken), len(taken)), note=note)
    waiting = Measured(
        "http-scrape", "the same without a pause: each waits for the save of its second", Figure.median(at_once)
    )
    exact = Measured(
        "http-scrape",
        f"{load.requests:,} requests answered, {counted:,} counted",
        measured.ours,
        note="in flight at wrk's end",
    )
    return [
        measured.that(targets[0], p99 <= 30e6),
        waiting.only(),
        exact.that(targets[1], counted >= load.requests and not load.failed),
    ]


def _scrapes(server: Server, series: int, seconds: float, interval: float) -> list[float]:
    """Scrape for this many seconds, at least twice; return the ns of each scrape."""
    taken: list[float] = []
    end = time.monotonic() + seconds
    while len(taken) < 2 or time.monotonic() < end:
        started = time.monotonic()
        taken.append(_timed_scrape(server.port, series))
        time.sleep(max(0.0, started + interval - time.monotonic()))
    return taken


def _timed_scrape(port: int, series: int) -> float:
    """Scrape once, on a separate connection; return ns."""
    start = time.perf_counter_ns()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/stats/prometheus")
        response = connection.getresponse()
        page = response.read()
    finally:
        connection.close()
    taken = time.perf_counter_ns() - start
    samples = sum(line.startswith(b"metric") for line in page.splitlines())
    if response.status != 200 or samples != series:
        raise SubjectError(f"a scrape answered {response.status}, with {samples} samples of {series}")
    return taken


CASES = {"middleware": middleware, "http": requests, "http-scrape": scrape_under_load}
