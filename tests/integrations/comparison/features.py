"""An experiment for each feature, the same for each library, with several processes; its verdict: yes, partly or no.

A worker that shows a page is never the worker that has counted, if that makes a difference.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .libraries import samples, total
from .sites import BOUND, Site

YES, PARTLY, NO = "yes", "partly", "no"

FEATURES: dict[str, Callable[[Site], str]] = {}

#: Numbers of workers before and during a test of growth.
RECYCLED, BEFORE = 20, 4


def feature(title: str) -> Callable[[Callable[[Site], str]], Callable[[Site], str]]:
    def register(experiment: Callable[[Site], str]) -> Callable[[Site], str]:
        FEATURES[title] = experiment
        return experiment

    return register


def verdict(whole: bool, part: bool = False) -> str:
    if whole:
        return YES
    return PARTLY if part else NO


# Counting --------------------------------------------------------------------------------------------


@feature("Any worker shows the exact sums of all")
def exact_sums(site: Site) -> str:
    library = site.library
    library.install()
    counter = library.Counter("hits", "Counted.", ["path"])
    histogram = library.Histogram("took", "Observed.", buckets=(0.1, 1))

    def work() -> None:
        for _ in range(2000):
            counter.labels("/").inc()
            histogram.observe(0.5)

    workers = site.workers(4, work, library.page)
    for worker in workers:
        worker.begin()
    for worker in workers:
        worker.result()
    expected = {'hits_total{path="/"}': 8000, 'took_bucket{le="0.1"}': 0, 'took_bucket{le="1.0"}': 8000,
                "took_count": 8000, "took_sum": 4000}  # fmt: skip
    return verdict(all(expected.items() <= samples(worker.step()).items() for worker in workers))


@feature("Counters of fractions")
def fractions(site: Site) -> str:
    library = site.library
    library.install()
    counter = library.Counter("spent", "Counted.")

    def spend() -> bool:
        try:
            counter.inc(0.25)
        except TypeError:
            return False
        return True

    spent = [site.run(spend) for _ in range(3)]
    shown = samples(site.run(library.page)).get("spent_total")
    return verdict(all(spent) and shown == 0.75 and _own_counters_of_fractions(library), shown == 0.75)


def _own_counters_of_fractions(library: Any) -> bool:
    """Whether shmstats' own API, beside prometheus_client's, has them; the other libraries have no own API."""
    if "shmstats" not in library.distributions:
        return True
    from shmstats import stats

    try:
        stats.incr("money", "spent", 0.25)
    except TypeError:
        return False
    return True


@feature("Workers that each make their metrics by themselves (no `--preload`)")
def without_preload(site: Site) -> str:
    library = site.library

    def start() -> None:
        library.install()
        library.Counter("hits", "Counted.").inc(3)

    workers = site.workers(2, start, library.page)
    for worker in workers:
        worker.step()
    return verdict(all(total(worker.step(), "hits_total") == 6 for worker in workers))


@feature("A process beside the workers shows the values")
def beside_workers(site: Site) -> str:
    library = site.library

    def start() -> None:
        library.install()
        library.Counter("hits", "Counted.").inc(3)

    for worker in site.workers(2, start):
        worker.step()
    return verdict(total(site.run(library.page_beside), "hits_total") == 6)


@feature("A worker killed by SIGKILL loses nothing that it counted")
def killed_workers(site: Site) -> str:
    library = site.library
    library.install()
    counter = library.Counter("hits", "Counted.")
    for worker in site.workers(3, lambda: counter.inc(5)):
        worker.step()
        worker.kill()
    return verdict(total(site.run(library.page), "hits_total") == 15)


@feature("Counts go on after a full restart")
def restarts(site: Site) -> str:
    library = site.library

    def life() -> str:
        library.install()
        library.Counter("hits", "Counted.").inc(3)
        return str(library.page())

    def after_restart(start: Callable[[], object]) -> float:
        start()
        return total(site.run(life), "hits_total")

    assert after_restart(lambda: None) == 3
    simply = after_restart(lambda: None)
    as_told = after_restart(lambda: library.before_start(site.directory))
    return verdict((simply, as_told) == (6, 9), simply == 6)


# Label sets ------------------------------------------------------------------------------------------


def _removal(site: Site, remove: Callable[[Any], object], stays: set[str]) -> str:
    """Two workers count, one removes: returns the label sets that both and a third worker show."""
    library = site.library
    library.install()
    counter = library.Counter("hits", "Counted.", ["path"])
    histogram = library.Histogram("took", "Observed.", ["path"])

    def work() -> None:
        for path in ("/a", "/b"):
            counter.labels(path).inc()
            histogram.labels(path).observe(1)

    def clean() -> bool:
        try:
            remove(counter)
            remove(histogram)
        except AttributeError:
            return False
        return True

    one, other = site.worker(work, clean, library.page), site.worker(work, library.page)
    one.step(), other.step()
    shown = set(re.findall(r'path="([^"]*)"', site.run(library.page)))
    assert shown == {"/a", "/b"}, shown
    if not one.step():
        return NO
    pages = [one.step(), other.step(), site.run(library.page)]
    return verdict(all(set(re.findall(r'path="([^"]*)"', page)) == stays for page in pages))


@feature("`remove` of one label set, for all workers")
def remove(site: Site) -> str:
    return _removal(site, lambda metric: metric.remove("/a"), {"/b"})


@feature("`clear` of all label sets, for all workers")
def clear(site: Site) -> str:
    return _removal(site, lambda metric: metric.clear(), set())


@feature("A bound on the label sets of a metric")
def bounded_labels(site: Site) -> str:
    library, sets = site.library, 100
    library.configure(stats={"max_series_per_metric": 50})
    library.install()
    counter = library.Counter("hits", "Counted.", ["user"])

    def work() -> None:
        for number in range(sets):
            counter.labels(f"user {number}").inc()

    site.run(work)
    shown = samples(site.run(library.page))
    assert total(site.run(library.page), "hits_total") == sets
    return verdict(sum(key.startswith("hits_total{") for key in shown) <= 51)


@feature("Label values of any length")
def long_labels(site: Site) -> str:
    library, value = site.library, "long" * 200
    library.install()
    counter = library.Counter("hits", "Counted.", ["user"])
    for _ in range(2):
        site.run(lambda: counter.labels(value).inc())
    page = site.run(library.page)
    assert total(page, "hits_total") == 2
    return verdict(f'user="{value}"' in page, 'user="longlong' in page)


# Gauges, Info, Enum, exemplars -----------------------------------------------------------------------


@feature("Gauges of each worker: all, sum, min, max, mostrecent")
def gauge_modes(site: Site) -> str:
    library = site.library
    library.install()
    modes = {"sum": 21, "min": 5, "max": 9, "mostrecent": 7}
    # With a label: prometheus_client begins a gauge without one at 0 in the parent, which would be the minimum.
    gauges = [library.Gauge(f"open_{mode}", "Set.", ["pool"], multiprocess_mode=mode) for mode in (*modes, "all")]

    def set_all(value: int) -> None:
        for gauge in gauges:
            gauge.labels("a").set(value)

    workers = [site.worker(partial(set_all, value)) for value in (5, 9, 7)]
    for worker in workers:
        worker.step()
    shown = samples(site.run(library.page))
    right = {mode: shown.get(f'open_{mode}{{pool="a"}}') == value for mode, value in modes.items()}
    each = [shown.get(f'open_all{{pid="{worker.pid}",pool="a"}}') for worker in workers]
    right["all"] = each == [5, 9, 7]
    return verdict(all(right.values()), any(right.values()))


@feature("A live gauge ends with its worker, also after SIGKILL")
def live_gauges(site: Site) -> str:
    library = site.library
    library.install()
    gauge = library.Gauge("open", "Set.", multiprocess_mode="livesum")
    one, other = site.workers(2, lambda: gauge.inc(4))
    one.step(), other.step()
    assert total(site.run(library.page), "open") == 8
    pid = one.pid
    one.kill()
    at_once = total(site.run(library.page), "open") == 4
    library.died(pid)
    return verdict(at_once, total(site.run(library.page), "open") == 4)


@feature("A gauge for each worker, however many there are")
def many_workers(site: Site) -> str:
    library, number = site.library, 12
    library.install()
    gauge = library.Gauge("open", "Set.", multiprocess_mode="liveall")
    workers = site.workers(number, lambda: gauge.set(1))
    for worker in workers:
        worker.step()
    pids = set(re.findall(r'^open\{pid="(\d+)"\}', site.run(library.page), re.MULTILINE))
    return verdict({str(worker.pid) for worker in workers} <= pids, len(pids) > 1)


@feature("`Gauge.set_function`, shown by other workers")
def functions(site: Site) -> str:
    library = site.library
    library.install()
    gauge = library.Gauge("queued", "Asked for.", multiprocess_mode="livemax")
    if not hasattr(gauge, "set_function"):
        return NO
    queue: list[int] = []
    worker = site.worker(lambda: gauge.set_function(lambda: len(queue)), lambda: queue.extend((1, 2, 3)))
    worker.step(), worker.step()
    return verdict(total(site.run(library.page), "queued") == 3)


@feature("Info, set by any worker")
def info(site: Site) -> str:
    library = site.library
    library.install()
    if library.Info is not None:
        build = library.Info("build", "Set.")
        site.worker(lambda: build.info({"version": "1.2"})).step()
    library.set_info_at_start("app", version="2.3")
    shown = samples(site.run(library.page))
    return verdict(shown.get('build_info{version="1.2"}') == 1, shown.get('app_info{version="2.3"}') == 1)


@feature("Enum, set by any worker")
def enum(site: Site) -> str:
    library = site.library
    library.install()
    state = library.Enum("task", "Set.", states=["waiting", "running"])
    worker = site.worker(lambda: state.state("running"))
    worker.step()
    shown = samples(site.run(library.page))
    return verdict((shown.get('task{task="running"}'), shown.get('task{task="waiting"}')) == (1, 0))


@feature("Exemplars of any worker")
def exemplars(site: Site) -> str:
    library = site.library
    library.install()
    counter = library.Counter("hits", "Counted.")
    histogram = library.Histogram("took", "Observed.")

    def work() -> None:
        counter.inc(1, exemplar={"trace_id": "of hits"})
        histogram.observe(0.5, exemplar={"trace_id": "of took"})

    site.worker(work).step()
    found = re.findall(r'# \{trace_id="of (\w+)"\}', site.run(lambda: library.page(in_openmetrics=True)))
    return verdict(set(found) == {"hits", "took"}, bool(found))


# Registries ------------------------------------------------------------------------------------------


@feature("A registry shows the metrics registered in it, and no others")
def registries(site: Site) -> str:
    from prometheus_client import CollectorRegistry

    library = site.library
    library.install()
    one, other = CollectorRegistry(), CollectorRegistry()
    mine = library.Counter("mine", "Counted.", registry=one)
    theirs = library.Counter("theirs", "Counted.", registry=other)
    site.run(mine.inc, theirs.inc)
    page = site.run(lambda: library.page_of(one))
    assert re.search("^mine_total 1.0$", page, re.MULTILINE), page
    return verdict("theirs_total" not in page)


@feature("A page of some names only (`name[]`)")
def restricted(site: Site) -> str:
    library = site.library
    library.install()
    one, other = library.Counter("one", "Counted."), library.Counter("other", "Counted.")
    site.run(one.inc, other.inc)
    page = site.run(lambda: library.page(names=["one_total"]))
    return verdict(samples(page) == {"one_total": 1})


class Custom:
    """A collector of an application."""

    def collect(self) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        yield GaugeMetricFamily("custom", "Collected.", 2.5)


@feature("Custom collectors beside")
def custom_collectors(site: Site) -> str:
    from prometheus_client import REGISTRY

    library = site.library
    library.install()
    counter = library.Counter("hits", "Counted.")
    REGISTRY.register(Custom())
    site.run(counter.inc)

    def both(page: str) -> bool:
        return (total(page, "hits_total"), total(page, "custom")) == (1, 2.5)

    return verdict(both(site.run(library.page)), both(site.run(lambda: library.page_with(Custom()))))


# Recycled workers ------------------------------------------------------------------------------------


def _recycle(site: Site, size: Callable[[], Any]) -> tuple[Any, Any]:
    """A size before and after many workers have been recycled, half of them by a kill."""
    library = site.library
    library.install()
    counter = library.Counter("hits", "Counted.", ["path"])
    histogram = library.Histogram("took", "Observed.", ["path"])
    modes = ("all", "liveall", "livesum")
    gauges = [library.Gauge(f"open_{mode}", "Set.", ["path"], multiprocess_mode=mode) for mode in modes]

    def work() -> None:
        counter.labels("/").inc()
        histogram.labels("/").observe(1)
        for gauge in gauges:
            gauge.labels("/").set(1)

    def live(number: int) -> None:
        worker = site.worker(work)
        pid = worker.pid
        worker.step()
        if number % 2:
            worker.kill()
        else:
            worker.end()
        library.died(pid)

    for number in range(BEFORE):
        live(number)
    before = size()
    for number in range(RECYCLED):
        live(number)
    assert total(site.run(library.page), "hits_total") == BEFORE + RECYCLED
    return before, size()


@feature("Storage stays as it was when workers are recycled")
def storage(site: Site) -> str:
    before, after = _recycle(site, lambda: site.library.storage(site.directory))
    return verdict(before == after)


@feature("The page stays as long as it was when workers are recycled")
def page_size(site: Site) -> str:
    def sizes() -> tuple[int, int]:
        shown = samples(site.run(site.library.page))
        return len(shown), len([key for key in shown if not key.startswith("open_all")])

    before, after = _recycle(site, sizes)
    return verdict(before == after, before[1] == after[1])


# Around ----------------------------------------------------------------------------------------------


@feature("Requests of a Flask application, by one line in it")
def flask_requests(site: Site) -> str:
    from flask import Flask

    library = site.library
    app = Flask("site")
    app.add_url_rule("/hit", view_func=lambda: "hit")
    if not library.flask(app):
        return NO

    def request() -> None:
        for _ in range(3):
            assert app.test_client().get("/hit").text == "hit"

    for worker in site.workers(2, request):
        worker.step()
    return verdict(site.run(lambda: library.requests_of(app)) == 6)


@feature("The values as JSON")
def as_json(site: Site) -> str:
    library = site.library
    library.install()
    counter = library.Counter("hits", "Counted.")
    for _ in range(2):
        site.run(lambda: counter.inc(7))
    leaves = _leaves(site.run(library.as_json))
    return verdict(("hits", 14) in leaves or ("hits_total", 14) in leaves)


def _leaves(document: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(document, Mapping):
        return [leaf for key, value in document.items() for leaf in _leaves(value, key)]
    return [(name, document)]


@feature("A command that shows the values, without a web server")
def command(site: Site) -> str:
    library = site.library
    library.install()
    counter = library.Counter("hits", "Counted.")
    site.run(lambda: counter.inc(7))
    arguments = library.command()
    if arguments is None:
        return NO
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=BOUND, check=True)
    return verdict(bool(re.search(r"\bhits(_total)?\b.*\b7\b", done.stdout)))


@feature("Counts are sent to a StatsD server too")
def statsd(site: Site) -> str:
    library = site.library
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(BOUND)
        if not library.sends_to_statsd(server.getsockname()[1]):
            return NO
        library.install()
        counter = library.Counter("hits", "Counted.")

        def work() -> None:
            from shmstats import stats

            counter.inc(3)
            stats.incr("users", "login", 5)
            stats.flush()

        site.run(work)
        heard = server.recv(65536).decode()
        server.setblocking(False)
        try:
            while True:
                heard += "\n" + server.recv(65536).decode()
        except BlockingIOError:
            pass
    own = "users.login:5|c" in heard
    return verdict(own and "hits:3|c" in heard, own)


NEWEST = """
import sys
sys.path[:0] = sys.argv[3:]
from comparison.libraries import LIBRARIES, total
library = LIBRARIES[sys.argv[1]]()
library.install()
library.Counter(sys.argv[2], "Counted.").inc(3)
assert total(library.page(), f"{sys.argv[2]}_total") == 3
"""


@feature("Works with the newest prometheus_client")
def newest(site: Site) -> str:
    def works(name: str, *path: str) -> bool:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        arguments = [sys.executable, "-c", NEWEST, site.library.name, name, *path]
        done = subprocess.run(arguments, env=environment, capture_output=True, timeout=BOUND, check=False)
        return done.returncode == 0

    assert works("before")
    return verdict(works("after", site.library.newest))
