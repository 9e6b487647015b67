"""Every form in which a statistic can be named counts the same, whether or not the core finds the handle by itself."""

from __future__ import annotations

import ast
import functools
import pickle
import random
import re
import sys
import textwrap
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LABELS = {"method": "GET", "code": "200"}
RENAMED = {
    "".join(list(name)): "".join(list(value)) for name, value in LABELS.items()
}  # equal strings that are not the same objects

COUNTING = {
    "by position": lambda stats: stats.incr("c", "m", 1),
    "without a number": lambda stats: stats.incr("c", "m"),
    "the number by name": lambda stats: stats.incr("c", "m", n=1),
    "all by name": lambda stats: stats.incr(metric="m", n=1, category="c"),
    "a bool": lambda stats: stats.incr("c", "m", True),
    "less of a negative number": lambda stats: stats.decr("c", "m", n=-1),
    "no labels": lambda stats: stats.incr("c", "m", labels=None),
    "empty labels": lambda stats: stats.incr("c", "m", 1, labels={}),
    "a handle": lambda stats: stats.counter("c", "m").incr(),
    "a handle by name": lambda stats: stats.counter(metric="m", category="c").incr(n=1),
    "keywords made at run time": lambda stats: stats.incr(**{"".join("category"): "c", "".join(["met", "ric"]): "m"}),
}

LABELLED = {
    "a dict": lambda stats: stats.incr("c", "m", 1, labels=LABELS),
    "a dict of equal strings": lambda stats: stats.incr("c", "m", n=1, labels=RENAMED),
    "another order": lambda stats: stats.incr("c", "m", labels=dict(reversed(LABELS.items()))),
    "a value that is no str": lambda stats: stats.incr("c", "m", labels=LABELS | {"code": 200}),
    "a handle of labels": lambda stats: stats.counter("c", "m", labels=LABELS).incr(),
    "values by position": lambda stats: (
        stats.counter("c", "m", labelnames=("code", "method")).labels("200", "GET").incr()
    ),
    "values by name": lambda stats: stats.counter("c", "m", labelnames=("code", "method")).labels(**LABELS).incr(),
    "values that are no str": lambda stats: (
        stats.counter("c", "m", labelnames=("code", "method")).labels(200, "GET").incr()
    ),
}

GAUGES = {
    "by position": lambda stats: stats.gauge("c", "m", 5),
    "by name": lambda stats: stats.gauge("c", metric="m", value=5),
    "absolute": lambda stats: stats.absolute("c", "m", value=5),
    "a handle": lambda stats: stats.gauge("c", "m").set(5),
    "moved": lambda stats: (stats.gauge("c", "m", 7.0), stats.incr("c", "m", 1), stats.decr("c", "m", n=3)),
}

TIMINGS = {
    "by position": lambda stats: stats.timing("c", "m", 2),
    "by name": lambda stats: stats.timing("c", "m", milliseconds=2.0),
    "a handle": lambda stats: stats.histogram("c", "m").observe(2),
    "a handle of timings": lambda stats: stats.timing("c", "m").observe(2),
}


@pytest.mark.parametrize("form", COUNTING)
def test_every_form_of_counting_counts_each_time(stats: Any, form: str) -> None:
    for _ in range(4):
        COUNTING[form](stats)
    stats.incr("c", "m", 2**62)
    assert stats.get("c", "m") == stats.get(category="c", metric="m") == stats.counter("c", "m").value == 2**62 + 4


def test_the_calls_of_the_module_are_those_of_the_default_registry(shmstats: ModuleType, stats: Any) -> None:
    shmstats.incr("c", "m", 5, labels=LABELS)
    shmstats.decr("c", "m", labels=LABELS)
    shmstats.gauge("c", "g", 1.5)
    shmstats.absolute("c", "a", 3)
    shmstats.timing("c", "t", 2)
    shmstats.timestamp("c", "w")
    found = stats.get("c", "m", labels=LABELS), stats.get("c", "g"), stats.get("c", "a"), stats.get("c", "t").count
    assert found == (4, 1.5, 3, 1)
    assert stats.get_timestamp("c", "w") is not None


@pytest.mark.parametrize("form", LABELLED)
def test_every_form_of_labels_counts_into_the_same_series(stats: Any, form: str) -> None:
    for _ in range(4):
        LABELLED[form](stats)
    assert stats.get("c", "m", labels=LABELS) == stats.get("c", "m", labels=RENAMED) == 4
    assert len(stats.snapshot()["c"]) == 1


@pytest.mark.parametrize("method", ["timer", "timing", "counter", "histogram"])
def test_a_handle_is_cached_for_the_next_call_by_name(stats: Any, method: str) -> None:
    stats.incr("c", "attached")  # from now on C registers and binds
    stats.timing("c", "attached too", 1)
    handle = getattr(stats, method)
    if method == "timer":
        with handle("c", "m"):
            pass
    else:
        (handle("c", "m").incr if method == "counter" else handle("c", "m").observe)(1)
    kept = stats._handle("c", "m")
    assert kept is not None
    assert stats._made("c", "m", type(kept)) is kept


@pytest.mark.parametrize("form", GAUGES)
def test_every_form_of_a_gauge_sets_it(stats: Any, form: str) -> None:
    for _ in range(3):
        GAUGES[form](stats)
        assert stats.get("c", "m") == 5
        stats.gauge("c", "m", 0.5)


@pytest.mark.parametrize("form", TIMINGS)
def test_every_form_of_a_timing_records_it(stats: Any, form: str) -> None:
    for _ in range(3):
        TIMINGS[form](stats)
        with stats.timer("c", metric="other"), stats.timer("c", "other", labels=LABELS):
            pass
    assert (stats.get("c", "m").count, stats.get("c", "m").sum) == (3, 6.0)
    assert stats.get("c", "other").count == stats.get("c", "other", labels=LABELS).count == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda stats: stats.incr("c", "m", 1, n=1),
        lambda stats: stats.incr("c", "m", 1, "x"),
        lambda stats: stats.incr("c", n=1),
        lambda stats: stats.incr("c", "m", value=1),
        lambda stats: stats.get("c", "m", 1),
        lambda stats: stats.timer("c", "m", milliseconds=1),
    ],
)
def test_wrong_arguments_are_a_type_error_also_if_the_handle_is_cached(stats: Any, call: Any) -> None:
    stats.incr("c", "m")
    with pytest.raises(TypeError, match=r"(incr|get|timer)\(\)"):
        call(stats)
    assert stats.get("c", "m") == 1


def test_a_removed_label_set_begins_again_for_every_form(stats: Any) -> None:
    parent = stats.counter("c", "m", labelnames=("code", "method"))
    for _ in range(2):
        stats.incr("c", "m", labels=LABELS)
        parent.labels(**LABELS).incr()
        assert stats.get("c", "m", labels=LABELS) == 2
        assert parent.remove(**LABELS) == 1
        assert stats.get("c", "m", labels=LABELS) == 0


def test_the_table_of_label_sets_finds_exactly_its_entries(shmstats: ModuleType) -> None:
    core, chance = shmstats.core, random.Random(5)
    children, there = core.Children(), {}
    for turn in range(6000):
        values = tuple(str(chance.randrange(40)) for _ in range(2))
        if chance.random() < 0.4:
            children._drop_child(values)
            there.pop(values, None)
        else:
            there[values] = core.Counter(None, "c", str(turn))
            children._keep_child(values, there[values])
    everything = [(str(one), str(other)) for one in range(40) for other in range(40)]
    assert [children._find_child(values) for values in everything] == [there.get(values) for values in everything]
    children._drop_child()
    assert not any(children._find_child(values) for values in everything)


def test_a_label_value_of_any_type_is_found_as_it_was_given(stats: Any) -> None:
    parent = stats.counter("c", "m", labelnames=("l",))
    for value in ("1", 1, True, None, "None", 2**63, 1.0, "x" * 300):
        for _ in range(2):
            parent.labels(value).incr()
            stats.incr("c", "m", labels={"l": value})
    counted = {text: stats.get("c", "m", labels={"l": text}) for text in ("1", "True", "None", str(2**63), "1.0")}
    assert counted == {"1": 8, "True": 4, "None": 8, str(2**63): 4, "1.0": 4}
    assert stats.get("c", "m", labels={"l": "x" * 300}) == 4
    assert parent.labels(1) is parent.labels("1") is parent.labels(l=1)
    assert parent.labels(1) is not parent.labels(True)


def test_a_label_set_removed_by_a_text_begins_again_for_the_equal_number(stats: Any) -> None:
    parent = stats.counter("c", "m", labelnames=("code",))
    for remove in (lambda: parent.remove("200"), lambda: parent.remove(code=200), lambda: stats.remove("c", "m")):
        for _ in range(2):
            parent.labels(200).incr()
            stats.incr("c", "m", labels={"code": 200})
        assert stats.get("c", "m", labels={"code": 200}) == 4
        assert remove() == 1
        assert stats.get("c", "m", labels={"code": "200"}) == 0


@pytest.mark.parametrize("labels", [None, {"host": "a"}, {"host": 1}])
def test_every_form_of_a_timestamp_records_the_moment(stats: Any, labels: Any) -> None:
    noted = functools.partial(stats.get_timestamp, "c", "m", labels=labels)
    forms = [
        lambda: stats.timestamp("c", "m", labels=labels),
        lambda: stats.timestamp("c", metric="m", moment=None, labels=labels),
        lambda: stats.timestamp("c", "m", None, labels=labels),
    ]
    for form in forms * 2:
        before = datetime.now(UTC)
        form()
        assert before <= noted() <= datetime.now(UTC)
    moment = datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=3)))
    stats.timestamp("c", "m", moment, labels=labels)
    assert noted() == moment
    assert stats.remove("c", "m") == 1
    assert noted() is None
    forms[0]()
    assert noted() >= before


def test_a_timestamp_and_a_counter_refuse_each_others_calls(shmstats: ModuleType, stats: Any) -> None:
    stats.incr("c", "counter")
    stats.timestamp("c", "moment")
    for _ in range(2):
        with pytest.raises(shmstats.KindError):
            stats.timestamp("c", "counter")
        for call in (stats.incr, stats.timing, stats.absolute):
            with pytest.raises(shmstats.KindError):
                call("c", "moment", 1)
    with pytest.raises(TypeError, match="moment must be a datetime"):
        stats.timestamp("c", "moment", 1)


#: The calls of a typical request, by handles that are kept, and by name.
WARM = {
    "counts": lambda stats, held: (stats.incr("c", "m"), stats.incr("c", "m", n=-1), stats.decr("c", "m", 2)),
    "counts of labels": lambda stats, held: (
        stats.incr("c", "l", labels={"a": "x", "b": 200}),
        stats.decr("c", "l", n=3, labels={"a": "x", "b": True}),
        stats.counter("c", "l", labels={"a": "x", "b": None}).incr(n=2),
    ),
    "gauges": lambda stats, held: (
        stats.gauge("c", "g", 1.5),
        stats.incr("c", "g", 2),
        stats.gauge("c", "g").incr(n=1),
    ),
    "gauges of labels": lambda stats, held: stats.gauge("c", "gl", value=2, labels={"a": "x"}),
    "absolute": lambda stats, held: (stats.absolute("c", "g", 3), stats.absolute("c", "gl", 4, labels={"a": "x"})),
    "timings": lambda stats, held: (stats.timing("c", "t", 2), stats.timing("c", "tl", 2.5, labels={"a": 1})),
    "timestamps": lambda stats, held: (stats.timestamp("c", "w"), stats.timestamp("c", "wl", labels={"a": "x"})),
    "reads": lambda stats, held: (
        (stats.incr("c", "m"), held[0].incr(), held[1].set(1)),
        (stats.get("c", "m"), held[0].value, held[1].value),
    ),
    "a counter": lambda stats, held: (held[0].incr(), held[0].incr(3), held[0].incr(n=1), held[0].decr()),
    "a gauge": lambda stats, held: (held[1].set(2), held[1].incr(0.5), held[1].decr(n=1)),
    "a histogram": lambda stats, held: held[2].observe(3),
    "label sets": lambda stats, held: (
        held[3].labels("x", 200).incr(),
        held[3].labels(b=False, a="y").incr(n=2),
    ),
}


def block_of(stats: Any, timer: Any) -> None:
    with stats.timer("c", "k"), stats.timer("c", "kl", labels={"a": 5}), timer:
        pass


@pytest.mark.parametrize("form", [*WARM, "timers"])
def test_a_call_with_a_cached_handle_runs_no_python_in_any_form(shmstats: ModuleType, stats: Any, form: str) -> None:
    if shmstats.core.CORE != "C":
        pytest.skip("only the C core runs without Python")
    names = stats.counter("c", "h"), stats.gauge("c", "i"), stats.histogram("c", "j")
    held = (*names, stats.counter("c", "p", labelnames=("a", "b")))
    timer = stats.timer("c", "n")
    frames: list[str] = []
    for _ in range(4):
        frames.clear()
        sys.setprofile(lambda frame, event, argument: frames.append(frame.f_code.co_name) if event == "call" else None)
        try:
            block_of(stats, timer) if form == "timers" else WARM[form](stats, held)
        finally:
            sys.setprofile(None)
    assert frames == ["block_of" if form == "timers" else "<lambda>"]


def test_the_table_of_label_sets_is_emptied_at_its_bound(shmstats: ModuleType) -> None:
    core = shmstats.core
    recorder, handle = core.Recorder(), core.Counter(None, "c", "m")
    for number in range(10_001):
        recorder._keep_set(("c", "m", "n", str(number)), handle)
    assert recorder._find_set(core.Counter, ("c", "m", "n", "0")) is None
    assert recorder._find_set(core.Counter, ("c", "m", "n", "10000")) is handle
    assert recorder._find_set(core.Gauge, ("c", "m", "n", "10000")) is None


#: A module of objects that user code may keep and send to another process, each for its own metric, and how each
#: counts once. Pools import it where they run.
HELD = """
from shmstats import stats

LABELS, NAMES = {"method": "GET", "code": "200"}, ("method", "code")

def make():
    made = {"registry": stats}
    for kind in ("counter", "gauge", "histogram", "timing", "timer"):
        handle = getattr(stats, kind)
        made[kind] = handle("c", kind)
        made[kind + " of labels"] = handle("c", kind + " of labels", labels=LABELS)
        if kind in ("counter", "gauge", "histogram"):
            made[kind + " parent"] = handle("c", kind + " parent", labelnames=NAMES)
    return made

def count(held):
    for name, thing in held.items():
        if name == "registry":
            thing.incr("c", name)
        elif "timer" in name:
            with thing:
                pass
        else:
            thing = thing.labels("GET", "200") if "parent" in name else thing
            (thing.incr if hasattr(thing, "incr") else thing.observe)(1)

def counted():
    found = {}
    for name in make():
        labels = LABELS if " " in name else None
        value = stats.get("c", name, labels=labels)
        found[name] = getattr(value, "count", value)
    return found
"""

CARRIERS = {
    "pickle": "import pickle; count(pickle.loads(pickle.dumps(make())))",
    "pickle, spawned": """
        import multiprocessing
        process = multiprocessing.get_context("spawn").Process(target=count, args=(make(),))
        process.start(), process.join()
    """,
    "cloudpickle": "import cloudpickle; cloudpickle.loads(cloudpickle.dumps(lambda made=make(): count(made)))()",
    "joblib": "import joblib; joblib.Parallel(n_jobs=2, backend='loky')([joblib.delayed(count)(make())])",
    "dask": """
        import dask
        dask.compute(dask.delayed(lambda made=make(): count(made), pure=False)(), scheduler="processes", num_workers=1)
    """,
}


@pytest.mark.far_from_core
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_pickled_handle_counts_once_in_the_receiving_process(python: Any, tmp_path: Path, carrier: str) -> None:
    module = re.search(r"import (cloudpickle|joblib|dask)", CARRIERS[carrier])
    if module:
        pytest.importorskip(module[1])
    (tmp_path / "held.py").write_text(HELD)
    (tmp_path / "shmstats.yml").write_text("path: {data: data}\n")
    code = textwrap.dedent(CARRIERS[carrier])
    said = python.run(
        "import shmstats\nfrom held import *\nif __name__ == '__main__':\n"
        + textwrap.indent(code + "\nfound = counted()\nprint(found)\nshmstats.close()", "    ")
    )
    found = ast.literal_eval(said)
    assert len(found) == 14
    assert set(found.values()) == {1}, found


def test_the_error_of_pickling_a_registry_gives_the_reason(shmstats: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"found by its name, shmstats\.stats"):
        pickle.dumps(shmstats.Registry())


@pytest.mark.parametrize(("kind", "method"), [("Counter", "incr"), ("Gauge", "incr"), ("Histogram", "observe")])
def test_a_subclass_of_a_handle_counts_like_the_handle(
    shmstats: ModuleType, stats: Any, kind: str, method: str
) -> None:
    base = getattr(shmstats.core, kind)
    own = type("Own", (base,), {"__slots__": ("more",), "count": getattr(base, method), "register": lambda self: 7})
    handle = own(stats, "c", "m", (("l", "x"),))
    handle.more = 1
    for _ in range(3):
        handle.count(2)
    assert (handle.recorder, handle.more, handle.register(), handle._bound) == (stats, 1, 7, True)
    found = stats.get("c", "m", labels={"l": "x"})
    assert (found.count, found.sum) == (3, 6) if kind == "Histogram" else found == 6
    stats.remove("c", "m")
    handle.count(1)
    assert handle._bound
    assert stats.get("c", "m", labels={"l": "x"})
