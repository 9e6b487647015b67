"""prometheus_client's own metrics on the block: exact over all workers, with features that multiprocess mode lacks."""

from __future__ import annotations

import json
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import BOUND, Child, PythonRunner
from shared_metrics import INSTALLED, PRELUDE, Program, program_on_block

pytestmark = pytest.mark.far_from_core

only_the_c_core = pytest.mark.parametrize("core", ["C"], indirect=True)


@pytest.fixture
def program(python: PythonRunner, configure: Callable[..., Any]) -> Program:
    """Run a program with all metrics on the block, which must end with status 0: ``program(code)``."""
    return program_on_block(python, configure)


def start(python: PythonRunner, code: str, *arguments: object, prelude: str = INSTALLED) -> Child:
    return python.start(prelude + textwrap.dedent(code), *arguments)


# Counting --------------------------------------------------------------------------------------------


def test_any_worker_shows_the_counts_of_all(program: Program) -> None:
    program("""
        requests = Counter("requests", "Requests.", ["method"])
        seconds = Counter("busy_seconds", "Time.")
        open_ = Gauge("open", "Open.", multiprocess_mode="sum")
        latency = Histogram("latency", "Latency.", ["path"], buckets=(0.1, 1))
        size = Summary("size", "Size.")

        def work():
            for _ in range(100):
                requests.labels("GET").inc()
            requests.labels(method="PUT").inc(5)
            seconds.inc(0.25), seconds.inc(2)
            open_.inc(3), open_.dec(), open_.inc(0.5)
            for value in (0.05, 0.1, 0.5, 5):
                latency.labels("/").observe(value)
            size.observe(10), size.observe(2.5)

        reader = Worker(scrape)
        run(work, work, work)
        work()
        assert reader.call() == scrape()
        reader.end()
        shown = scrape()
        expected = {
            "requests_total,method=GET": 400, "requests_total,method=PUT": 20, "busy_seconds_total": 9, "open": 10,
            "latency_bucket,le=0.1,path=/": 8, "latency_bucket,le=1.0,path=/": 12, "latency_bucket,le=+Inf,path=/": 16,
            "latency_count,path=/": 16, "latency_sum,path=/": 22.6, "size_count": 8, "size_sum": 50,
        }
        for key, value in expected.items():
            assert abs(shown[key] - value) < 1e-9, (key, shown[key])
        assert requests.labels("GET")._value.get() == 400
        assert seconds._value.get() == 9
        assert abs(latency.labels("/")._sum.get() - 22.6) < 1e-9
        assert [bucket.get() for bucket in latency.labels("/")._buckets] == [8, 4, 4]
        assert size._count.get() == 8
        [child] = latency.labels("/").collect()
        assert [(s.name, s.labels) for s in child.samples][0] == ("latency_bucket", {"le": "0.1"})
    """)


@only_the_c_core
def test_the_counts_of_a_killed_worker_stay(program: Program) -> None:
    program("""
        requests, latency = Counter("requests", "R."), Histogram("latency", "L.", buckets=(1,))
        def work():
            requests.inc(7), requests.inc(0.5), latency.observe(0.5)
        for _ in range(3):
            worker = Worker(work)
            worker.call()
            worker.kill()
        shown = scrape()
        assert shown["requests_total"] == 22.5
        assert shown["latency_count"] == 3 and shown["latency_sum"] == 1.5
    """)


@only_the_c_core
def test_a_fork_doubles_nothing_and_both_processes_count_on(program: Program) -> None:
    program("""
        requests = Counter("requests", "R.", ["a"])
        latency = Histogram("latency", "L.")
        mine = Gauge("mine", "M.", multiprocess_mode="sum")
        requests.labels("x").inc(3), latency.observe(1), mine.set(2)
        def work():
            requests.labels("x").inc(), latency.observe(1), mine.inc()
        run(work, work)
        requests.labels("x").inc()
        shown = scrape()
        assert (shown["requests_total,a=x"], shown["latency_count"], shown["mine"]) == (6, 3, 4)
    """)


@only_the_c_core
def test_threads_count_exactly(program: Program) -> None:
    program("""
        import threading
        requests, latency = Counter("requests", "R.", ["n"]), Histogram("latency", "L.")
        def work():
            for i in range(2000):
                requests.labels(str(i % 3)).inc(), latency.observe(i)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
        shown = scrape()
        assert sum(value for key, value in shown.items() if key.startswith("requests_total")) == 16000
        assert shown["latency_count"] == 16000 and shown["latency_sum"] == 8 * sum(range(2000))
    """)


def test_signal_handlers_count_exactly(program: Program) -> None:
    program("""
        requests, latency = Counter("requests", "R."), Histogram("latency", "L.", buckets=(1,))
        gauge = Gauge("g", "G.", multiprocess_mode="sum")
        handled = 0
        def handle(number, frame):
            global handled
            handled += 1
            requests.inc(0.5 if handled % 2 else 1), latency.observe(2), gauge.inc(0.5)
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        made = 0
        while handled < 300:
            requests.inc(1), latency.observe(0.5), gauge.inc()
            made += 1
            if made % 50 == 0:
                scrape()
        signal.setitimer(signal.ITIMER_REAL, 0)
        shown = scrape()
        assert shown["requests_total"] == made + handled // 2 + (handled + 1) // 2 * 0.5
        assert shown["latency_count"] == made + handled and shown["latency_bucket,le=1.0"] == made
        assert shown["g"] == made + handled * 0.5
    """)


@only_the_c_core
def test_buffered_workers_are_shown_after_their_flush(program: Program, configure: Callable[..., Any]) -> None:
    configure(no_buffer=False, flush_interval_ms=3600000)
    program("""
        requests, latency = Counter("requests", "R.", ["a"]), Histogram("latency", "L.")
        def work():
            requests.labels("x").inc(5), requests.labels("x").inc(0.5), latency.observe(1)
        worker = Worker(work, stats.flush)
        worker.call()
        work()
        shown = scrape()
        assert 5.5 <= shown["requests_total,a=x"] < 11 and 1 <= shown["latency_count"] <= 2
        worker.call()
        shown = scrape()
        assert shown["requests_total,a=x"] == 11 and shown["latency_count"] == 2
        requests.remove("x")
        requests.labels("x").inc()
        assert scrape()["requests_total,a=x"] == 1
        worker.end()
    """)


@only_the_c_core
def test_counters_continue_after_a_restart_and_states_do_not(program: Program) -> None:
    code = """
        requests = Counter("requests", "R.", ["a"])
        latency = Histogram("latency", "L.", buckets=(0.5, 2))
        size = Summary("size", "S.")
        gauge = Gauge("mine", "M.", multiprocess_mode="max")
        info, state = Info("build", "B."), Enum("state", "S.", states=["u", "v"])
        job = Enum("job", "J.", ["a"], states=["x"])
        shown = scrape()
        assert shown["build_info"] == 1 and shown["state,state=u"] == 1
        assert "mine" not in shown and "job,a=1,job=x" not in shown
        requests.labels("x").inc(2), requests.labels("x").inc(0.25), latency.observe(1), size.observe(3)
        gauge.set(1), info.info({"version": "1"}), state.state("v"), job.labels("1").state("x")
        run(lambda: [Info("build2", "B."), Enum("state2", "S.", states=["u"])] and None)
        shown = scrape()
        assert shown["build_info,version=1"] == shown["state,state=v"] == shown["job,a=1,job=x"] == shown["mine"] == 1
        print(shown["requests_total,a=x"], shown["latency_bucket,le=2.0"], shown["size_sum"])
    """
    assert program(code).split() == ["2.25", "1.0", "3.0"]
    assert program(code).split() == ["4.5", "2.0", "6.0"]
    assert program(code).split() == ["6.75", "3.0", "9.0"]


@only_the_c_core
def test_a_metric_that_the_application_removed_is_not_shown_after_a_restart(program: Program) -> None:
    program("""
        Counter("kept", "K.").inc(), Counter("gone", "G.").inc(), Histogram("late", "L.", ["a"]).labels("x").observe(1)
    """)
    program("""
        fresh = CollectorRegistry()
        shared_metrics.collector(fresh)
        Counter("kept", "K.").inc()
        assert scrape() == {"kept_total": 2} == scrape(fresh)
        run(lambda: Histogram("late", "L.", ["a"]).labels("x").observe(1))
        assert scrape()["late_count,a=x"] == scrape(fresh)["late_count,a=x"] == 2
        assert "gone_total" not in scrape()
    """)


def test_a_gauge_of_each_process_is_on_the_page_of_prometheus_client_only(program: Program) -> None:
    program("""
        from shmstats.export.renderer import render
        Gauge("depth", "D.").set(3)
        assert "depth{" in pc.generate_latest().decode()
        assert b"depth" not in render(stats.shared.exposable())
    """)


@only_the_c_core
def test_a_counter_is_reset_for_all_workers(program: Program) -> None:
    program("""
        requests = Counter("requests", "R.")
        worker = Worker(lambda: requests.inc(5.5), requests.reset, requests.inc)
        worker.call()
        requests.inc(2)
        assert scrape()["requests_total"] == 7.5
        worker.call()
        assert scrape()["requests_total"] == 0
        worker.call()
        requests.inc()
        assert scrape()["requests_total"] == 2
        worker.end()
    """)


def test_setting_the_value_of_a_counter_keeps_its_creation_time(program: Program) -> None:
    code = """
        shared_metrics.install()
        requests = Counter("requests", "R.")
        created = scrape()["requests_created"]
        requests._value.set(5)
        assert (scrape()["requests_total"], scrape()["requests_created"]) == (5, created)
    """
    program(code, prelude=PRELUDE)


# Gauges ----------------------------------------------------------------------------------------------


def test_gauges_are_combined_by_their_mode_and_live_ones_end_with_their_worker(program: Program) -> None:
    program("""
        modes = ("all", "sum", "min", "max", "mostrecent")
        gauges = {mode: Gauge(f"g_{mode}", "G.", multiprocess_mode=mode)
                  for each in modes for mode in (each, "live" + each)}
        def setting(value):
            return lambda: [gauge.set(value) for gauge in gauges.values()] and None
        low, high = Worker(setting(-2)), Worker(setting(10))
        low.call(), high.call()
        middle = Worker(setting(5))
        middle.call()
        combined = {"sum": 13, "min": -2, "max": 10, "mostrecent": 5}
        shown = scrape(prefix="g_")
        for live in ("", "live"):
            assert {mode: shown[f"g_{live}{mode}"] for mode in combined} == combined
            for worker, value in ((low, -2), (high, 10), (middle, 5)):
                assert shown[f"g_{live}all,pid={worker.pid}"] == value
        low.kill(), middle.kill()
        shown = scrape(prefix="g_")
        assert {mode: shown[f"g_{mode}"] for mode in combined} == combined
        assert {mode: shown[f"g_live{mode}"] for mode in combined} == dict.fromkeys(combined, 10)
        pids = {key.partition("pid=")[2] for key in shown if key.startswith("g_liveall")}
        assert pids == {str(os.getpid()), str(high.pid)}
        high.kill()
        shown = scrape(prefix="g_live")
        assert set(shown) == {"g_livesum", f"g_liveall,pid={os.getpid()}"}, shown
        assert shown["g_livesum"] == 0
    """)


@only_the_c_core
def test_a_worker_that_has_not_set_a_gauge_does_not_affect_its_minimum(program: Program) -> None:
    program("""
        lowest = Gauge("lowest", "L.", ["a"], multiprocess_mode="livemin")
        plain = Gauge("plain", "P.", multiprocess_mode="max")
        lowest.labels("x")
        run(lambda: lowest.labels("x"), lambda: None)
        assert scrape(prefix="lowest") == {} == scrape(prefix="plain")
        worker = Worker(lambda: lowest.labels("x").set(7), lambda: plain.set(-3))
        worker.call(), worker.call()
        assert scrape(prefix="lowest") == {"lowest,a=x": 7}
        assert scrape(prefix="plain") == {"plain": -3}
        worker.end()
    """)


def test_gauges_accept_any_number(program: Program) -> None:
    program("""
        import decimal, fractions, json, numpy
        from shmstats.export import to_document
        gauge = Gauge("g", "G.", multiprocess_mode="max")
        inf = float("inf")
        for number in (3, -0.5, 10**30, inf, -inf, 2**63, True, numpy.int32(4), numpy.float32(0.5),
                       decimal.Decimal("1.5"), fractions.Fraction(1, 4)):
            gauge.set(number)
            assert scrape()["g"] == float(number) == gauge._value.get(), number
        gauge.set(1), gauge.inc(numpy.int64(2)), gauge.dec(0.5), gauge.inc(inf)
        assert scrape()["g"] == inf
        gauge.set(float("nan"))
        assert repr(scrape()["g"]) == "nan"
        latency = Histogram("h", "H.")
        run(lambda: latency.observe(inf), lambda: latency.observe(inf))
        shown = scrape()
        assert shown["h_sum"] == inf and shown["h_bucket,le=+Inf"] == 2
        assert shown["h_bucket,le=10.0"] == 0, shown
        json.dumps(to_document(stats.read()), allow_nan=False)
        counter = Counter("c", "C.")
        for number in (True, 2.0, numpy.int32(4), numpy.float64(0.5), decimal.Decimal("1.5"), 10**30):
            counter.inc(number)
        assert scrape()["c_total"] == 2.0**63 + 2
    """)


@only_the_c_core
def test_gauges_track_operations_in_progress_and_durations(program: Program) -> None:
    program("""
        running = Gauge("running", "R.", multiprocess_mode="livesum")
        took = Gauge("took", "T.", multiprocess_mode="mostrecent")
        with running.track_inprogress(), took.time():
            assert scrape()["running"] == 1
        assert scrape()["running"] == 0 and 0 <= scrape()["took"] < 60
        latest = Gauge("latest", "L.", multiprocess_mode="livemostrecent")
        try:
            latest.inc()
        except RuntimeError as error:
            assert "mostrecent" in str(error)
        else:
            raise AssertionError
        assert abs(took.set_to_current_time() or scrape()["took"] - time.time()) < 60
    """)


def test_a_function_gives_the_value_of_a_gauge_in_its_worker(program: Program) -> None:
    program("""
        queue = [1, 2, 3]
        length = Gauge("length", "L.", ["queue"], multiprocess_mode="livesum")
        here = Gauge("here", "H.")
        def more():
            queue.append(0)
        first = Worker(lambda: length.labels("a").set_function(lambda: len(queue)), more)
        second = Worker(lambda: length.labels("a").set_function(lambda: 10), lambda: here.set_function(lambda: 2.5))
        reader = Worker(scrape)
        first.call(), second.call(), second.call()
        assert scrape()["length,queue=a"] == 13
        first.call()
        shown = reader.call()
        assert shown["length,queue=a"] == 14
        assert shown[f"here,pid={second.pid}"] == 2.5
        second.kill()
        assert scrape()["length,queue=a"] == 4
        queue.append(0)
        length.labels("a").set_function(lambda: len(queue))
        assert scrape()["length,queue=a"] == 8
        length.remove("a")
        assert scrape(prefix="length") == {}
        assert scrape(prefix="length") == {}, "the worker that has the function has brought it back"
        first.end(), reader.end()
    """)


@only_the_c_core
def test_functions_of_gauges_are_kept_over_close_and_attach(program: Program) -> None:
    program("""
        import shmstats
        length = Gauge("length", "L.", ["a"], multiprocess_mode="livesum")
        length.labels("x").set_function(lambda: 3)
        for _ in range(2):
            assert scrape()["length,a=x"] == 3
            shmstats.close()
            assert scrape()["length,a=x"] == 3
            reader = Worker(scrape)
            assert reader.call()["length,a=x"] == 3 + 3, "the fork has the function as well"
            reader.end()
            assert scrape()["length,a=x"] == 3
        length.remove("x")
        assert scrape() == {}
    """)


@only_the_c_core
def test_metrics_continue_after_close_and_attach(program: Program) -> None:
    program("""
        import shmstats
        counter, latency = Counter("c", "C.", ["a"]), Histogram("h", "H.", buckets=(1, 2))
        gauge, size = Gauge("g", "G.", multiprocess_mode="livemax"), Summary("s", "S.")
        def work():
            counter.labels("x").inc(1.5), latency.observe(1.5), gauge.set(4), size.observe(2)
        for n in (1, 2, 3):
            work()
            shown = scrape()
            assert shown["c_total,a=x"] == 1.5 * n and shown["s_sum"] == 2 * n and shown["g"] == 4
            assert shown["h_bucket,le=2.0"] == n and "h_bucket,le=5.0" not in shown
            shmstats.close()
    """)


@only_the_c_core
def test_a_function_that_raises_is_logged_and_does_not_affect_other_metrics(program: Program) -> None:
    program("""
        import logging
        heard = []
        class Hear(logging.Handler):
            def emit(self, record):
                heard.append(record.getMessage())
        logging.getLogger("shmstats").addHandler(Hear())
        Gauge("broken", "B.").set_function(lambda: 1 / 0)
        Counter("fine", "F.").inc()
        assert scrape()["fine_total"] == scrape()["fine_total"] == 1
        assert len([each for each in heard if "'broken'" in each and "ZeroDivisionError" in each]) == 1, heard
    """)


@only_the_c_core
def test_a_stopped_worker_with_a_function_delays_a_scrape_for_a_bounded_time(program: Program) -> None:
    program("""
        worker = Worker(lambda: Gauge("stuck", "S.", multiprocess_mode="livesum").set_function(lambda: 3))
        worker.call()
        assert scrape()["stuck"] == 3
        os.kill(worker.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)  # it goes on for a moment
        shown = scrape()["stuck"]
        os.kill(worker.pid, signal.SIGCONT)
        assert shown != shown, "what it gave last is not what it would give now"
        assert scrape()["stuck"] == 3
        worker.end()
    """)


# Removal ---------------------------------------------------------------------------------------------


def test_a_label_set_is_removed_for_all_workers(program: Program) -> None:
    program("""
        counter = Counter("c", "C.", ["a", "b"])
        histogram = Histogram("h", "H.", ["a"], buckets=(1, 2))
        gauge = Gauge("g", "G.", ["a"], multiprocess_mode="max")
        summary, info = Summary("s", "S.", ["a"]), Info("i", "I.", ["a"])
        enum = Enum("e", "E.", ["a"], states=["u", "v"])
        held = {}
        def work():
            for a in "xy":
                counter.labels(a, "1").inc(), counter.labels(a, "2").inc(0.5), histogram.labels(a).observe(1.5)
                gauge.labels(a).set(3), summary.labels(a).observe(1), info.labels(a).info({"k": a})
                enum.labels(a).state("v")
            held["c"], held["h"] = counter.labels("x", "1"), histogram.labels("x")
        def again():
            held["c"].inc(), histogram.labels("x").observe(1.5)
        worker = Worker(work, scrape, again)
        worker.call()
        assert scrape()["c_total,a=x,b=1"] == 1
        counter.remove("x", "1")
        for metric in (histogram, gauge, summary, info, enum):
            metric.remove("x")
        for shown in (scrape(), worker.call()):
            of_x = [key for key in shown if ",a=x" in key]
            assert of_x == ["c_total,a=x,b=2"], of_x
        assert scrape()["h_count,a=y"] == 1
        worker.call()
        shown = scrape()
        assert shown["c_total,a=x,b=1"] == 1
        assert [shown[f"h_bucket,a=x,le={le}"] for le in ("1.0", "2.0", "+Inf")] == [0, 1, 1]
        if hasattr(counter, "remove_by_labels"):  # since prometheus_client 0.24
            counter.remove_by_labels({"a": "x"})
        else:
            counter.remove("x", "1"), counter.remove("x", "2")
        assert [key for key in scrape(prefix="c_total")] == ["c_total,a=y,b=1", "c_total,a=y,b=2"]
        counter.clear(), histogram.clear()
        assert scrape(prefix="c_total") == {} == scrape(prefix="h_")
        counter.remove("never", "there")
        for wrong in (lambda: counter.remove("x"), lambda: Counter("plain", "P.").remove("x"),
                      lambda: counter.remove_by_labels({"nope": "x"})):
            try:
                wrong()
            except (ValueError, AttributeError):
                continue
            raise AssertionError
        worker.end()
    """)


@only_the_c_core
def test_removing_and_making_label_sets_repeatedly_takes_no_more_memory(program: Program) -> None:
    program("""
        counter, latency = Counter("c", "C.", ["a"]), Histogram("h", "H.", ["a"])
        def used():
            usage = stats.shared.attach().reader.usage()
            return usage["names"].bytes, usage["cells"].used, usage["heap"].used
        for i in range(300):
            counter.labels(f"number {i:3}").inc(), latency.labels(f"number {i:3}").observe(1)
            counter.remove(f"number {i:3}"), latency.remove(f"number {i:3}")
            if i == 10:
                before = used()
        assert used() == before
        assert len(counter._metrics) == 0
    """)


# Info, Enum, exemplars ---------------------------------------------------------------------------------


@only_the_c_core
def test_info_and_enum_have_the_last_value_of_any_worker(program: Program) -> None:
    program("""
        info = Info("build", "B.")
        state = Enum("task_state", "T.", states=["starting", "running", "stopped"])
        labelled = Enum("job", "J.", ["name"], states=["on", "off"])
        assert scrape(prefix="task") == {
            "task_state,task_state=starting": 1, "task_state,task_state=running": 0, "task_state,task_state=stopped": 0}
        def work():
            info.info({"version": "1.2.3", "host": 'a"b\\\\n'})
            state.state("running"), labelled.labels("x").state("off")
        worker = Worker(work, lambda: state.state("stopped"))
        worker.call()
        Info("build2", "B."), Enum("later", "L.", states=["a", "b"])
        shown = scrape()
        assert shown['build_info,host=a"b\\\\n,version=1.2.3'] == 1
        assert shown["task_state,task_state=running"] == 1 and shown["task_state,task_state=starting"] == 0
        assert shown["job,job=off,name=x"] == 1 and shown["job,job=on,name=x"] == 0
        info.info({"version": "2"})
        worker.call()
        shown = scrape()
        assert shown["build_info,version=2"] == 1 and not any("1.2.3" in key for key in shown)
        assert shown["task_state,task_state=stopped"] == 1
        worker.kill()
        assert scrape()["task_state,task_state=stopped"] == 1
        try:
            state.state("nowhere")
        except ValueError:
            assert scrape()["task_state,task_state=stopped"] == 1
        else:
            raise AssertionError
    """)


def test_exemplars_of_any_worker_are_shown(program: Program) -> None:
    program("""
        counter = Counter("c", "C.", ["a"])
        latency = Histogram("h", "H.", buckets=(1, 10))
        def work():
            counter.labels("x").inc(2, {"trace_id": "first"}), latency.observe(0.5, {"trace_id": "small"})
        def later():
            counter.labels("x").inc(exemplar={"trace_id": "secönd"}), latency.observe(100, {"trace_id": "large"})
        run(work)
        run(later)
        counter.labels("x").inc(), latency.observe(0.25)
        found = {}
        for family in parse_openmetrics(openmetrics(REGISTRY).decode()):
            for sample in family.samples:
                if sample.exemplar:
                    found[sample.name, sample.labels.get("le")] = sample.exemplar
        assert {key: (each.labels["trace_id"], each.value) for key, each in found.items()} == {
            ("c_total", None): ("secönd", 1), ("h_bucket", "1.0"): ("small", 0.5), ("h_bucket", "+Inf"): ("large", 100)}
        assert all(abs(float(each.timestamp) - time.time()) < 60 for each in found.values())
        counter.remove("x")
        counter.labels("x").inc()
        assert "secönd" not in openmetrics(REGISTRY).decode()
    """)


# Registries --------------------------------------------------------------------------------------------


@only_the_c_core
def test_a_registry_can_be_restricted_and_have_custom_collectors(program: Program) -> None:
    program("""
        from prometheus_client.core import GaugeMetricFamily
        class Custom:
            def collect(self):
                yield GaugeMetricFamily("custom", "Of this process.", value=4)
        REGISTRY.register(Custom())
        latency = Histogram("h", "H.", buckets=(1,))
        counter = Counter("c", "C.")
        def work():
            latency.observe(2), counter.inc(), Counter("elsewhere", "E.").inc(3)
        run(work)
        everything = scrape()
        assert everything["custom"] == 4 and everything["c_total"] == 1
        assert scrape(prefix="process_") == scrape(prefix="python_") == {}, "of the one worker that is asked"
        assert scrape(REGISTRY.restricted_registry(["h_count", "custom", "elsewhere_total"])) == {
            "h_count": 1, "custom": 4, "elsewhere_total": 3}
        fresh = CollectorRegistry()
        shared_metrics.collector(fresh)
        fresh.register(Custom())
        assert scrape(fresh) == {key: everything[key] for key in everything
                                 if key.startswith(("h_", "c_", "custom", "elsewhere"))}
        assert scrape(fresh.restricted_registry(["h_sum", "custom", "elsewhere_total"])) == {
            "h_sum": 2, "elsewhere_total": 3}  # the custom one does not tell its names
        app = pc.make_wsgi_app(fresh)
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": "name[]=c_total&name[]=h_count"}
        page = b"".join(app(environ, lambda status, headers: None)).decode()
        assert [line for line in page.splitlines() if line[0] != "#"] == ["h_count 1.0", "c_total 1.0"], page
    """)


@only_the_c_core
def test_a_collector_of_the_application_may_read_metrics_without_taking_them_from_the_page(program: Program) -> None:
    program("""
        from prometheus_client.core import GaugeMetricFamily
        class Derived:
            def collect(self):
                (metric,) = counter.collect()
                yield GaugeMetricFamily("doubled", "Of a metric.", value=2 * metric.samples[0].value)
                alike = GaugeMetricFamily("alike", "Named as a metric.", labels=["by"])
                alike.add_metric(["collector"], 1)
                yield alike
        counter = Counter("used", "U.", registry=None)
        gauge = Gauge("alike", "A.", registry=None, multiprocess_mode="max")
        counter.inc(2), gauge.set(3)
        parts = [Derived(), counter, gauge]
        for order in (parts, parts[::-1]):
            registry = pc.CollectorRegistry()
            for part in order:
                registry.register(part)
            assert scrape(registry) == {"doubled": 4, "alike,by=collector": 1, "used_total": 2, "alike": 3}
    """)


@only_the_c_core
def test_a_metric_is_shown_by_the_registries_that_it_is_registered_in(program: Program) -> None:
    program("""
        mine = CollectorRegistry()
        inside, outside = Counter("inside", "I.", registry=mine), Counter("outside", "O.")
        nowhere = Counter("nowhere", "N.", registry=None)
        run(inside.inc, outside.inc, nowhere.inc)
        assert scrape(mine) == {"inside_total": 1}
        shown = scrape()
        assert shown["outside_total"] == 1 and "inside_total" not in shown and "nowhere_total" not in shown
        fresh = CollectorRegistry()
        shared_metrics.collector(fresh)
        assert scrape(fresh) == {"inside_total": 1, "outside_total": 1, "nowhere_total": 1}
        assert REGISTRY.get_sample_value("outside_total") == 1
        REGISTRY.unregister(outside)
        assert "outside_total" not in scrape()
        REGISTRY.register(outside)
        assert scrape()["outside_total"] == 1
        try:
            Counter("outside", "Again.")
        except ValueError as error:
            assert "Duplicated" in str(error)
        else:
            raise AssertionError
    """)


@only_the_c_core
def test_a_metric_made_only_by_another_worker_is_shown(program: Program) -> None:
    program("""
        def work():
            gauge = Gauge("lazy", "Made late.", ["a"], multiprocess_mode="sum", unit="bytes")
            gauge.labels("sub").set(2)
            Enum("lazy_state", "S.", states=["a", "b"]).state("b")
            Histogram("lazy_h", "H.", buckets=(1,)).observe(0.5)
            Counter("lazy_mine", "M.", registry=CollectorRegistry()).inc()
        worker = Worker(work)
        worker.call()
        assert scrape(prefix="lazy") == {
            "lazy_bytes,a=sub": 2, "lazy_state,lazy_state=a": 0, "lazy_state,lazy_state=b": 1,
            "lazy_h_bucket,le=1.0": 1, "lazy_h_bucket,le=+Inf": 1, "lazy_h_count": 1, "lazy_h_sum": 0.5}
        text = openmetrics(REGISTRY).decode()
        assert "# HELP lazy_bytes Made late.\\n# TYPE lazy_bytes gauge\\n# UNIT lazy_bytes bytes\\n" in text
        assert "# TYPE lazy_state stateset" in text
        worker.end()
    """)


@only_the_c_core
def test_the_multiprocess_collector_shows_the_same_without_duplicates(program: Program, tmp_path: Path) -> None:
    program("""
        import glob, warnings
        from prometheus_client import multiprocess
        counter = Counter("c", "C.", ["a"])
        counter.labels("x").inc(), counter.labels("y").inc()
        run(lambda: counter.labels("x").inc())
        for registry in (CollectorRegistry(), CollectorRegistry(auto_describe=True)):
            multiprocess.MultiProcessCollector(registry)
            assert scrape(registry) == {"c_total,a=x": 2, "c_total,a=y": 1}
            assert scrape(registry.restricted_registry(["c_total"])) == {"c_total,a=x": 2, "c_total,a=y": 1}
        mine = CollectorRegistry()
        multiprocess.MultiProcessCollector(mine)
        shared_metrics.collector(REGISTRY)
        own = Counter("own", "O.", registry=mine)
        run(own.inc)
        assert scrape(mine)["own_total"] == 1 and scrape()["c_total,a=x"] == 2  # scrape() finds duplicates
        counter.remove("x")
        multiprocess.mark_process_dead(12345)
        assert scrape(mine) == {"c_total,a=y": 1, "own_total": 1}
        assert glob.glob(os.path.join(sys.argv[1], "*.db")) == []
    """, tmp_path)  # fmt: skip


# Bounds --------------------------------------------------------------------------------------------------


def test_label_sets_beyond_the_bound_of_a_metric_are_counted_together(
    program: Program, configure: Callable[..., Any]
) -> None:
    configure(max_series_per_metric=5, capacity=1024)
    out = program(
        """
        metrics = [Counter("c", "C.", ["user", "b"]), Histogram("h", "H.", ["user", "b"], buckets=range(1, 16)),
                   Gauge("g", "G.", ["user", "b"], multiprocess_mode="sum"), Summary("s", "S.", ["user", "b"])]
        counter, histogram, gauge, summary = metrics
        def work():
            for i in range(50):
                counter.labels(f"user {i}", "x").inc(), histogram.labels(f"user {i}", "x").observe(3)
                gauge.labels(f"user {i}", "x").inc(), summary.labels(f"user {i}", "x").observe(3)
            assert all(len(metric._metrics) == 6 for metric in metrics), [len(metric._metrics) for metric in metrics]
        run(work, work)
        for i in range(48, 51):
            counter.labels(f"user {i}", "x").inc()
        counter.labels("user 2", "x").inc()
        shown = scrape()
        for name in ("c_total", "h_count", "g", "s_sum"):
            sets = {key: value for key, value in shown.items() if key.startswith(name + ",")}
            each = {"s_sum": 6}.get(name, 2)
            expected = {f"{name},b=x,user=user {i}": each for i in range(5)}
            expected[f"{name},b=__overflow__,user=__overflow__"] = 45 * each
            if name == "c_total":
                expected["c_total,b=__overflow__,user=__overflow__"] += 3
                expected["c_total,b=x,user=user 2"] += 1
            assert sets == expected, sets
        assert shown["h_bucket,b=__overflow__,le=3.0,user=__overflow__"] == 90
        counter.remove("user 1", "x")
        counter.labels("somebody new", "x").inc()
        assert scrape()["c_total,b=x,user=somebody new"] == 1
        """,
        quiet=False,
    )
    assert out == ""


@only_the_c_core
@pytest.mark.thorough
def test_very_many_workers_do_not_enlarge_the_page_or_the_block(program: Program) -> None:
    program("""
        counter, latency = Counter("c", "C.", ["a"]), Histogram("h", "H.", ["a"])
        gauges = [Gauge(f"g_{mode}", "G.", ["a"], multiprocess_mode=mode)
                  for mode in ("liveall", "livesum", "livemax", "livemostrecent", "all", "max")]
        def work():
            counter.labels("x").inc(), latency.labels("x").observe(1)
            for gauge in gauges:
                gauge.labels("x").set(1)
        def size():
            usage = stats.shared.attach().reader.usage()
            return len(pc.generate_latest().splitlines()), usage["cells"], usage["names"], usage["heap"]
        for number in range(100):
            worker = Worker(work)
            worker.call()
            worker.kill() if number % 3 else worker.end()
            if number == 9:
                before = size()
        assert size() == before, (size(), before)
        assert scrape()["c_total,a=x"] == scrape()["h_count,a=x"] == 100
    """)


# Metrics made before `install` --------------------------------------------------------------------------


@only_the_c_core
def test_metrics_made_before_install_are_moved_to_the_block(program: Program) -> None:
    program(
        """
        other = CollectorRegistry()
        plain, counter = Counter("plain", "P."), Counter("c", "C.", ["a"], registry=other)
        gauge, length = Gauge("g", "G.", multiprocess_mode="sum"), Gauge("len", "L.", multiprocess_mode="sum")
        latency, size = Histogram("h", "H.", ["a"], buckets=(1, 2)), Summary("s", "S.")
        info, state = Info("i", "I."), Enum("e", "E.", states=["u", "v"])
        held = counter.labels("x")
        plain.inc(1.5), held.inc(2, {"trace_id": "t"}), gauge.set(7), length.set_function(lambda: 3)
        latency.labels("x").observe(1.5, {"trace_id": "b"}), latency.labels("x").observe(5), size.observe(4)
        info.info({"k": "v"}), state.state("v")
        created = scrape()["plain_created"]
        shared_metrics.install()
        shared_metrics.install()
        def work():
            plain.inc(), held.inc(), gauge.inc(), latency.labels("x").observe(0.5), size.observe(1)
        run(work)
        shown = scrape() | scrape(other)
        assert shown["plain_created"] == created
        assert {key: shown[key] for key in shown if "created" not in key} == {
            "plain_total": 2.5, "c_total,a=x": 3, "g": 8, "len": 3, "h_bucket,a=x,le=1.0": 1, "h_bucket,a=x,le=2.0": 2,
            "h_bucket,a=x,le=+Inf": 3, "h_count,a=x": 3, "h_sum,a=x": 7, "s_count": 2, "s_sum": 5, "i_info,k=v": 1,
            "e,e=u": 0, "e,e=v": 1}
        text = openmetrics(REGISTRY).decode() + openmetrics(other).decode()
        assert 'c_total{a="x"} 3.0 # {trace_id="t"} 2.0 ' in text and '# {trace_id="b"} 1.5 ' in text
        """,
        prelude=PRELUDE,
    )


@only_the_c_core
def test_moved_histograms_have_percentiles(program: Program) -> None:
    program(
        """
        from shmstats.export import to_document
        among, above = Histogram("among", "A.", buckets=(1, 2, 4)), Histogram("above", "A.", buckets=(1, 2))
        without, size, odd = Histogram("none", "N."), Summary("size", "S."), Summary("odd", "O.")
        for value in (0.5, 1.5, 1.7):
            among.observe(value), size.observe(value * 10)
        above.observe(1), above.observe(9), odd.observe(float("nan"))
        shared_metrics.install()
        found = to_document(stats.read())["prometheus_client"]
        assert found["among"]["max"] == 2 and 1 < found["among"]["p50"] < found["among"]["p99"] < 2, found["among"]
        assert found["above"]["max"] == 5, found["above"]  # not the last bound: the mean is above it
        assert found["none"]["max"] is None and found["odd"]["max"] == 0, found
        assert abs(found["size"]["max"] - 37 / 3) < 1e-9 and found["size"]["p50"] > 0, found["size"]
        """,
        prelude=PRELUDE,
    )


@only_the_c_core
def test_metrics_made_in_multiprocess_mode_are_moved_to_the_block(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    program(
        """
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)  # of the files, which older versions leave open
        counter, latency = Counter("c", "C.", ["a"]), Histogram("h", "H.", buckets=(1,))
        counter.labels("x").inc(2), latency.observe(3)
        shared_metrics.install()
        run(lambda: counter.labels("x").inc())
        from prometheus_client import multiprocess
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        shown = scrape(registry)
        assert (shown["c_total,a=x"], shown["h_count"], shown["h_sum"]) == (3, 1, 3)
        counter.remove("x"), counter.clear()
        """,
        prelude=PRELUDE,
    )
    # Those that the parent made before, and none of the child.
    assert len({file.stem.rpartition("_")[2] for file in tmp_path.glob("*.db")}) == 1


@only_the_c_core
def test_a_class_with_its_own_samples_stays_in_its_process(program: Program) -> None:
    program("""
        class Special(Counter):
            def _child_samples(self):
                return [pc.metrics.Sample("_total", {}, 42.0, None, None)]
        special = Special("special", "S.")
        special.inc()
        assert scrape()["special_total"] == 42
        labelled = Special("labelled", "L.", ["a"])
        labelled.labels("x").inc(), labelled.labels("y").inc(), labelled.remove("x")
        assert scrape(prefix="labelled_total") == {"labelled_total,a=y": 42}
        labelled.clear()
        assert scrape(prefix="labelled_total") == {}
    """)


@only_the_c_core
def test_clearing_and_refilling_a_metric_takes_no_slow_path_and_few_calls_a_child(program: Program) -> None:
    program("""
        import gc, weakref
        import shmstats
        from shmstats.attachment.slow_path import SharedProvider

        package = shmstats.__file__.removesuffix("__init__.py")
        counter, latency = Counter("c", "C.", ["a"]), Histogram("h", "H.", ["a"], buckets=(1, 2))
        slow, find_or_add = [], SharedProvider._find_or_add
        SharedProvider._find_or_add = lambda *arguments: slow.append(arguments) or find_or_add(*arguments)
        calls = 0

        def note(frame, event, argument):
            global calls
            calls += event == "call" and frame.f_code.co_filename.startswith(package)

        def fill():
            for number in range(100):
                counter.labels(f"v{number}").inc()
                latency.labels(f"v{number}").observe(1)

        fill()
        del slow[:]
        sys.setprofile(note)
        counter.clear(), latency.clear()
        fill()
        sys.setprofile(None)
        assert slow == [], f"{len(slow)} of 200 series took the slow path"
        assert calls < 200 * 12, f"{calls} calls for 200 series"
        assert scrape(prefix="c_total")["c_total,a=v7"] == 1
        assert len(scrape(prefix="c_total")) == 100

        gc.disable()
        children = [weakref.ref(counter.labels("v1")), weakref.ref(latency.labels("v1"))]
        counter.clear(), latency.clear()
        assert [child() for child in children] == [None, None], "only the garbage collector frees them"
    """)


# Declarations -------------------------------------------------------------------------------------------


@only_the_c_core
def test_creation_times_are_those_of_the_first_worker(program: Program) -> None:
    code = """
        shared_metrics.install()
        counter = Counter("c", "C.", ["a"])
        before = time.time()
        counter.labels("x").inc()
        after = time.time()
        latency, size = Histogram("h", "H."), Summary("s", "S.")
        run(lambda: [counter.labels("x").inc(), counter.labels("y"), latency.observe(1)] and None)
        shown = scrape(prefix="c_")
        if len(sys.argv) > 1:
            assert not any("created" in key for key in scrape())
        else:
            assert before <= shown["c_created,a=x"] <= after <= shown["c_created,a=y"]
            assert scrape()["h_created"] >= after and scrape()["s_created"] >= after
            counter.labels("x").reset()
            assert scrape()["c_created,a=x"] > shown["c_created,a=y"]
            counter.remove("x")
            assert not any("a=x" in key for key in scrape())
    """
    program(code, prelude=PRELUDE)
    program("pc.disable_created_metrics()\n" + textwrap.dedent(code), "disabled", prelude=PRELUDE)


# Hostile text and errors ---------------------------------------------------------------------------------


EVERYTHING = """
    counter = Counter("everything", 'A "counter" with \\\\ and \\n in its help.', ["path", "status"], unit="things")
    histogram = Histogram("request_latency", "H.", ["pid", "category"], unit="seconds")
    negative = Histogram("temperature", "T.", buckets=(-10, 0, 10))
    gauge, everyone = Gauge("open_files", "G.", ["quantile"], multiprocess_mode="max"), Gauge("everyone", "E.", ["le"])
    summary = Summary("response_size_bytes", "S.", ["metric"])
    info, state = Info("build", "I.", ["part"]), Enum("job_state", "E.", ["raw_labels"], states=["a b", 'c"d'])
    def work():
        for path in ("/", "/" + "long/" * 200, 'quo"te\\\\n', "b\\\\x00d", "\\\\ud800", "", "ünï" * 100):
            counter.labels(path, 200).inc(exemplar={"trace_id": "x"})
        histogram.labels("1", "a").observe(0.2, {"trace_id": "é"}), histogram.labels("2", "b").observe(float("inf"))
        histogram.labels("3", "c").observe(float("nan"))
        negative.observe(-20), negative.observe(5)
        gauge.labels("0.5").set(-1e300), everyone.labels("x").set(1e-300), everyone.labels("y").inc(10**30)
        for number in (float("nan"), float("inf"), float("-inf")):
            gauge.labels("0.9").set(number)
        summary.labels("x").observe(3)
        info.labels("core").info({"version": "1", "odd": "a\\\\nb"}), state.labels("x").state('c"d')
        counter.labels("/", 200).inc(10**40)
    run(work, work)
"""


@only_the_c_core
def test_promtool_and_the_strict_parser_accept_everything(program: Program) -> None:
    pages = json.loads(
        program(
            EVERYTHING
            + """
    import json
    fresh = CollectorRegistry()
    shared_metrics.collector(fresh)
    assert len(list(parse_openmetrics(openmetrics(fresh).decode()))) == 8
    list(parse_text(pc.generate_latest(fresh).decode()))
    print(json.dumps([pc.generate_latest(fresh).decode(), openmetrics(fresh).decode()]))
    """,
            quiet=False,
        )
    )
    text, openmetrics = pages
    assert openmetrics.endswith("# EOF\n")
    assert openmetrics.count("trace_id") == 8
    assert "temperature_sum" not in text
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=BOUND)
    # Advice on names is given with status 3; an error in the text is status 1.
    assert done.returncode in (0, 3), done.stderr
    assert "error" not in done.stderr


@only_the_c_core
def test_an_error_while_counting_is_logged_once_and_not_raised(program: Program) -> None:
    out = program(
        """
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        counter, latency = Counter("c", "C."), Histogram("h", "H.")
        for _ in range(2):
            latency.observe(float("nan")), counter.inc(float("inf"))
        assert scrape()["c_total"] == 0 and scrape()["h_count"] == 0
        for wrong in (lambda: counter.inc(-1), lambda: counter.labels("x"), lambda: Gauge("g2", "G.", ["a"]).set(1)):
            try:
                wrong()
            except ValueError:
                continue
            raise AssertionError
        """
    )
    assert len(out.splitlines()) == len(set(out.splitlines()))
    assert "'h' was given NaN" in out
    assert "counter 'c' cannot be increased by inf" in out


@only_the_c_core
def test_a_metric_that_the_block_cannot_hold_is_an_error_that_names_it(program: Program) -> None:
    program("""
        if hasattr(pc, "validation"):
            pc.validation.disable_legacy_validation()
        for wrong, word in (
            (lambda: Counter("a" * 300, "A."), "the name of a metric"),
            (lambda: Counter("a", "A.", ["b" * 300]), "a label name of counter:a"),
            (lambda: Histogram("h", "H.", buckets=range(300)), "has 300 buckets"),
            (lambda: Histogram("h", "H.", buckets=(2, 1)), "sorted"),
            (lambda: Counter("c", "C.", ["__reserved"]), "__reserved"),
            (lambda: Counter("c", "C.", ["a"]).labels("x", "y"), "label count"),
        ):
            try:
                wrong()
            except ValueError as error:
                assert word in str(error), error
            else:
                raise AssertionError(word)
        assert not {"a", "h"} & set(REGISTRY._names_to_collectors)
        Counter("help", "long " * 1000).inc()
        run(lambda: None)
        assert scrape()["help_total"] == 1
    """)


@only_the_c_core
def test_a_gauge_may_have_a_label_pid(program: Program) -> None:
    program("""
        gauge = Gauge("g", "G.", ["pid"])
        gauge.labels("a").set(1), gauge.labels("b").set(2)
        assert scrape() == {f"g,pid={x},worker_pid={os.getpid()}": i for x, i in (("a", 1), ("b", 2))}
        [child] = gauge.labels("b").collect()
        assert [(each.labels, each.value) for each in child.samples] == [({"worker_pid": str(os.getpid())}, 2)]
    """)


@only_the_c_core
def test_a_new_configuration_takes_effect_for_existing_metrics(program: Program, tmp_path: Path) -> None:
    program("""
        import shmstats
        counter, latency = Counter("c", "C.", ["a"]), Histogram("h", "H.", buckets=(1, 2))
        counter.labels("x").inc(3), latency.observe(1)
        shmstats.init({"path": {"data": sys.argv[1]}})
        assert scrape() == {}
        counter.labels("x").inc(), latency.observe(1.5)
        run(lambda: counter.labels("x").inc())
        shown = scrape()
        assert (shown["c_total,a=x"], shown["h_bucket,le=2.0"], shown["h_bucket,le=1.0"]) == (2, 1, 0)
        assert "h_bucket,le=5.0" not in shown
    """, tmp_path / "other")  # fmt: skip


@only_the_c_core
def test_disabled_statistics_do_not_change_prometheus_client(program: Program, configure: Callable[..., Any]) -> None:
    configure(enabled=False)
    program("""
        counter = Counter("c", "C.")
        counter.inc()
        assert type(counter._value).__name__ == "MutexValue"
        assert scrape()["c_total"] == 1
        assert scrape(CollectorRegistry()) == {}
        registry = CollectorRegistry()
        shared_metrics.collector(registry)
        assert scrape(registry) == {}
    """)


@only_the_c_core
def test_a_full_block_never_fails_a_counting_call(program: Program, configure: Callable[..., Any]) -> None:
    configure(capacity=256)
    program(
        """
        histograms = [Histogram(f"h{i}", "H.", ["a"]) for i in range(40)]
        for histogram in histograms:
            for a in "xyz":
                histogram.labels(a).observe(1)
        shown = scrape()
        assert shown["h0_count,a=x"] == 1
        Counter("late", "L.").inc(), Info("i", "I.").info({"a": "b"}), Enum("e", "E.", states=["a"]).state("a")
        """,
        quiet=False,
    )


def test_a_false_part_of_a_metric_does_not_break_a_page(program: Program) -> None:
    """Any program may declare in this category, and a snapshot may contain anything: both ways, with each kind."""
    program("""
        import itertools, json
        Counter("right", "Right.").inc(2)
        types = ("histogram", "stateset", "unknown", {})
        said = ({}, {"states": 7}, {"states": [{}]}, {"instance": 1e999}, {"instance": -1})
        count = {"counter": stats.incr, "gauge": stats.gauge, "histogram": stats.timing}
        ways = itertools.product(types, said, ("family", "fraction of", "created of"), count)
        for number, (type_, more, role, kind) in enumerate(ways):
            help_ = "Help.\\x1f" + json.dumps({role: f"f{number}", "type": type_, **more})
            buckets = {"buckets": [1]} if kind == "histogram" else {}
            stats.declare("prometheus_client", f"m{number}", kind=kind, help=help_, **buckets)
            count[kind]("prometheus_client", f"m{number}", 1)
        assert scrape()["right_total"] == 2
    """)
