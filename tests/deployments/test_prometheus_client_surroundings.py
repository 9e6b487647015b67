"""prometheus_client's metrics on the block with hooks, registries and versions that applications use."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from helpers import BOUND, PythonRunner
from servers import Gunicorn, wait_until
from shared_metrics import PRELUDE, Program, program_on_block

pytestmark = pytest.mark.far_from_core

only_the_c_core = pytest.mark.parametrize("core", ["C"], indirect=True)


@pytest.fixture
def program(python: PythonRunner, configure: Callable[..., Any]) -> Program:
    return program_on_block(python, configure)


# Snapshots of an earlier version -----------------------------------------------------------------------------


def test_creation_times_saved_by_version_0_1_are_restored(program: Program, data: Path) -> None:
    (data / "stats").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "snapshot" / "created-0.1.json", data / "stats" / "simple.json")
    program(
        """
        shared_metrics.install()
        visits = Counter("visits", "Visits.", ["page"])
        wait, size = Histogram("wait_seconds", "Waits.", buckets=(1, 2)), Summary("size", "Sizes.")
        visits.labels("a").inc(2), wait.observe(1.5)
        shown = scrape()
        assert (shown["visits_total,page=a"], shown["visits_total,page=b"]) == (5, 4)
        assert (shown["wait_seconds_count"], shown["wait_seconds_sum"], shown["size_sum"]) == (2, 3, 7)
        assert {key: value for key, value in shown.items() if "_created" in key} == {
            "visits_created,page=a": 1700000000.25, "visits_created,page=b": 1700000100.5,
            "wait_seconds_created": 1700000000.25, "size_created": 1700000100.5}
        from shmstats import stats
        kept = {name.metric for name in stats.read().names if name.category == "prometheus_client"}
        assert kept == {"visits_total", "wait_seconds", "size"}, kept
        """,
        prelude=PRELUDE,
    )


# Remains of the multiprocess mode in an application ----------------------------------------------------------


@only_the_c_core
def test_a_replaced_value_class_and_a_multiprocess_directory_have_no_effect(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(files))
    program(
        """
        from prometheus_client import multiprocess, values
        own = values.MultiProcessValue(process_identifier=lambda: 1)
        values.ValueClass = own
        shared_metrics.install()
        assert values.ValueClass is values.MutexValue
        values.ValueClass = own
        counter, gauge = Counter("c", "C.", ["a"]), Gauge("g", "G.", multiprocess_mode="livesum")
        latency, size = Histogram("h", "H.", ["a"], buckets=(1,)), Summary("s", "S.")
        def work():
            counter.labels("x").inc(), gauge.set(2), latency.labels("y").observe(3), size.observe(1)
        worker = Worker(work)
        worker.call(), work()
        multiprocess.mark_process_dead(worker.pid)
        assert {key: value for key, value in scrape().items() if "created" not in key} == {
            "c_total,a=x": 2, "g": 4, "h_bucket,a=y,le=1.0": 0, "h_bucket,a=y,le=+Inf": 2, "h_count,a=y": 2,
            "h_sum,a=y": 6, "s_count": 2, "s_sum": 2}
        worker.end()
        """,
        prelude=PRELUDE,
    )
    assert list(files.iterdir()) == []


HOOK = """
from prometheus_client import multiprocess

def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
"""

SITE = """
from prometheus_client import Counter, Gauge, make_wsgi_app
from shmstats.integrations import prometheus_client as shared_metrics

shared_metrics.install()
HITS, OPEN = Counter("hits", "Hits."), Gauge("open", "Open.", multiprocess_mode="livesum")
page = make_wsgi_app()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return page(environ, start_response)
    found = environ["PATH_INFO"] == "/hit"
    if found:
        HITS.inc(), OPEN.set(1)
    start_response("200 OK" if found else "404 Not Found", [])
    return [b"x"]
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="the variable stays"),
        pytest.param(("--preload",), id="preloaded, without the variable", marks=pytest.mark.thorough),
    ],
)
def test_a_gunicorn_hook_of_the_multiprocess_mode_has_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    files, config = tmp_path / "files", tmp_path / "gunicorn_hook.py"
    files.mkdir()
    config.write_text(HOOK)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    if not options:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(files))
    with Gunicorn(tmp_path, "--config", str(config), "--workers", "1", *options, site=SITE) as server:
        assert server.get("/hit")[0] == 200
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.workers() and worker not in server.workers(), "a worker in its place")
        shown = server.get("/metrics")[1]
        assert "\nhits_total 1.0\n" in shown, shown
        assert "\nopen 1.0\n" not in shown, shown
    assert "Traceback" not in server.log.read_text()
    assert list(files.iterdir()) == []


@only_the_c_core
def test_metrics_made_before_install_are_shared_and_objects_stay_frozen(program: Program) -> None:
    program(
        """
        import gc
        mine = CollectorRegistry()
        plain, labelled = Counter("c", "C."), Histogram("h", "H.", ["a"], buckets=(1,), registry=mine)
        plain.inc(2), labelled.labels("x").observe(0.5)
        gc.collect(), gc.freeze()
        frozen = gc.get_freeze_count()
        shared_metrics.install()
        assert gc.get_freeze_count() >= frozen
        run(lambda: [plain.inc(), labelled.labels("x").observe(2)] and None)
        assert scrape()["c_total"] == 3 and scrape(mine)["h_count,a=x"] == 2
        """,
        prelude=PRELUDE,
    )


@only_the_c_core
def test_process_metrics_of_one_worker_are_shown_only_for_a_chosen_process(program: Program) -> None:
    program(
        """
        from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
        master, pid = CollectorRegistry(), os.getpid()
        ProcessCollector(namespace="master", pid=lambda: pid, registry=master)
        mine = CollectorRegistry()
        ProcessCollector(registry=mine), GCCollector(registry=mine), PlatformCollector(registry=mine)
        assert list(mine.collect()) == []
        text = pc.generate_latest().decode()
        assert "process_" not in text and "python_" not in text, text
        def elsewhere():
            return scrape(master, prefix="master_")
        worker = Worker(elsewhere)
        assert worker.call()["master_process_cpu_seconds_total"] > 0
        worker.end()
        """
    )


# Functions of gauges -----------------------------------------------------------------------------------------


@only_the_c_core
def test_the_function_of_a_gauge_is_called_only_for_a_page_of_its_registry(program: Program) -> None:
    program("""
        calls = []
        def given(name, value):
            def function():
                calls.append(name)
                return value
            return function
        mine = CollectorRegistry()
        here = Gauge("here", "H.", ["a"], multiprocess_mode="livesum")
        here.labels("x").set_function(given("here", 1))
        there = Gauge("there", "T.", multiprocess_mode="livesum", registry=mine)
        there.set_function(given("there", 2))
        Counter("other", "O.").inc()
        def called(registry):
            calls.clear()
            shown = scrape(registry)
            return sorted(calls), shown
        assert called(REGISTRY) == (["here"], {"here,a=x": 1, "other_total": 1})
        assert called(mine) == (["there"], {"there": 2})
        assert called(REGISTRY.restricted_registry(["other_total"])) == ([], {"other_total": 1})
        assert called(REGISTRY.restricted_registry(["here"])) == (["here"], {"here,a=x": 1})
        assert called(CollectorRegistry()) == ([], {})
        everything = CollectorRegistry()
        shared_metrics.collector(everything)
        assert called(everything)[0] == ["here", "there"]
        calls.clear()
        stats.read(), list(there.collect())
        assert calls == ["there"]
    """)


@only_the_c_core
def test_a_function_that_raises_is_nan_until_it_returns_a_number_again(program: Program) -> None:
    out = program(
        """
        import math
        state = {"fails": False}
        def depth():
            if state["fails"]:
                raise ConnectionError("the database is down")
            return 5
        def fail():
            state["fails"] = not state["fails"]
        gauges = [Gauge(f"depth_{mode}", "D.", multiprocess_mode=mode) for mode in ("livesum", "max", "all", "livemin")]
        def work():
            for gauge in gauges:
                gauge.set_function(depth)
        worker = Worker(work, fail, fail)
        work(), worker.call()
        def values():
            return sorted({str(value) for key, value in scrape(prefix="depth").items() if str(worker.pid) in key
                           or "pid" not in key})
        assert values() == ["10.0", "5.0"]
        worker.call()
        assert values() == ["nan"], scrape()
        worker.call()
        assert values() == ["10.0", "5.0"]
        worker.end()
        """,
        quiet=False,
    )
    assert out == ""


# Registries --------------------------------------------------------------------------------------------------


@only_the_c_core
def test_the_same_name_in_two_registries_is_two_metrics(program: Program) -> None:
    program("""
        mine = CollectorRegistry()
        def both(first, second):
            def work():
                made = {}
                for registry, amount in (first, second):
                    made[amount] = Counter("c", "C.", ["a"], registry=registry)
                for amount, counter in made.items():
                    counter.labels("x").inc(amount)
            return work
        run(both((REGISTRY, 1), (mine, 10)))
        run(both((mine, 10), (REGISTRY, 1)))
        both((mine, 10), (REGISTRY, 1))()
        assert scrape() == {"c_total,a=x": 3} and scrape(mine) == {"c_total,a=x": 30}
        everything = CollectorRegistry()
        shared_metrics.collector(everything)
        assert scrape(everything) == {"c_total,a=x": 3}, "one of them"
        mine.unregister(mine._names_to_collectors["c_total"])
        Counter("c", "C.", ["a"], registry=mine).labels("x").inc(5)
        assert scrape(mine) == {"c_total,a=x": 35}, "it is the same metric"
    """, quiet=False)  # fmt: skip


@only_the_c_core
def test_a_new_registry_for_each_test_begins_at_0_and_takes_no_more_memory(program: Program) -> None:
    program("""
        for _ in range(50):
            registry = CollectorRegistry()
            counter, latency = Counter("c", "C.", registry=registry), Histogram("h", "H.", ["a"], registry=registry)
            counter.inc(), latency.labels("x").observe(1)
            assert registry.get_sample_value("c_total") == registry.get_sample_value("h_count", {"a": "x"}) == 1
        assert len(stats.snapshot()["prometheus_client"]) <= 8, stats.snapshot()
    """)


# Removed series and dead workers -----------------------------------------------------------------------------


@only_the_c_core
def test_children_removed_by_another_process_are_removed_in_this_one(program: Program) -> None:
    program("""
        counter = Counter("c", "C.", ["a"])
        def refill():
            counter.clear()
            for number in range(100):
                counter.labels(f"new {number}").inc()
        for number in range(100):
            counter.labels(f"old {number}").inc()
        kept = counter.labels("old 0")
        worker = Worker(refill, lambda: counter.remove("new 0"), lambda: len(counter._metrics))
        worker.call()
        assert len(counter._metrics) == 0
        counter.labels("new 0").inc(), kept.inc()
        assert scrape()["c_total,a=new 0"] == 2 and scrape()["c_total,a=old 0"] == 1
        worker.call()
        assert list(counter._metrics) == [] and worker.call() == 99
        for number in range(1000):
            counter.labels("x").inc()
        worker.end()
    """)


@only_the_c_core
def test_gauges_of_modes_min_and_max_keep_the_values_of_dead_workers(program: Program) -> None:
    program("""
        gauges = {mode: Gauge(mode, "G.", multiprocess_mode=mode) for mode in ("min", "max", "livemin", "livemax")}
        def set_all(value):
            def work():
                for gauge in gauges.values():
                    gauge.set(value)
            return work
        for value in (5, 9, 2, 7, 3):
            worker = Worker(set_all(value))
            worker.call()
            shown = scrape()
            worker.kill() if value % 2 else worker.end()
        assert shown == {"min": 2, "max": 9, "livemin": 3, "livemax": 3}
        assert scrape() == {"min": 2, "max": 9}
        set_all(4)()
        assert scrape() == {"min": 2, "max": 9, "livemin": 4, "livemax": 4}
    """)


@only_the_c_core
def test_a_family_that_cannot_be_rendered_is_left_out_and_counted(program: Program) -> None:
    program(
        """
        from shmstats.integrations.prometheus_client import samples
        Gauge("broken", "B.", multiprocess_mode="livesum").set(1)
        Counter("fine", "F.").inc()
        def fail(*arguments):
            raise ArithmeticError("not today")
        samples.SAMPLES["gauge"] = fail
        assert scrape() == scrape() == {"fine_total": 1}
        assert stats.get("shmstats", "families_left_out") == 2
        """,
        quiet=False,
    )


# Versions ----------------------------------------------------------------------------------------------------

#: A change in a copy of prometheus_client, and the name in the message.
CHANGES = {
    "a renamed method": ("metrics.py", "_metric_init", "_init_metric", "metrics.Counter._metric_init"),
    "another parameter": ("metrics.py", "exemplar: Optional[Dict[str, str]] = None", "**more", "without exemplar"),
    "a renamed attribute": (
        "registry.py",
        "_names_to_collectors",
        "_by_name",
        "CollectorRegistry._names_to_collectors",
    ),
    "a module that is gone": ("values.py", "MutexValue", "LockedValue", "values.MutexValue"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_version_of_prometheus_client_with_other_internals_is_refused(tmp_path: Path, change: str) -> None:
    file, before, after, named = CHANGES[change]
    copy = tmp_path / "prometheus_client"
    shutil.copytree(Path(prometheus_client.__file__).parent, copy)
    for changed in copy.glob("*.py") if file == "values.py" else [copy / file]:
        changed.write_text(changed.read_text().replace(before, after))
    code = """
try:
    from shmstats.integrations import prometheus_client as shared_metrics
except ImportError as error:
    print(error)
import prometheus_client
assert prometheus_client.__file__.startswith(__import__("sys").argv[1])
"""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "has other internals than those that shmstats uses" in done.stdout
    assert named in done.stdout, done.stdout
    assert "install another one from 0.20 on, or a later shmstats" in done.stdout
