"""The C core and its pure Python twin: the same calls give the same values, errors and expositions.

Each core runs in a separate process, which gets the same random sequences of calls and prints the result of each.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Child, PythonRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]

PLAYER = """
import os
import re
import sys
import tempfile
import shmstats
from shmstats.export import render

print(shmstats.core.CORE, flush=True)


def outcome(call):
    try:
        result = call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "ok", repr(result) if isinstance(result, (int, float, shmstats.series.Distribution)) else "."


def play(stats, handles, step):
    name, *rest = step
    if name in ("incr", "decr", "gauge", "absolute", "timing"):
        metric, value, labels = rest
        more = {} if labels is None else {"labels": labels}
        return outcome(lambda: getattr(stats, name)("c", metric, value, **more))
    if name in ("get", "remove", "reset"):
        metric, labels = rest
        return outcome(lambda: getattr(stats, name)("c", metric, labels=labels))
    if name == "declare":
        metric, declared = rest
        return outcome(lambda: stats.declare("c", metric, **declared))
    kind, metric, labels, method, values = rest
    key = kind, metric, repr(labels)
    if key not in handles:
        try:
            handles[key] = getattr(stats, kind)("c", metric, labels=labels)
        except Exception as error:
            return type(error).__name__, str(error)
    return outcome(lambda: getattr(handles[key], method)(*values))


def shown(stats):
    read = stats.read()
    shown = zip(read.names, read.values)
    kept = [(name._replace(created=0), value) for name, value in shown if name.category == "c"]
    lines = [line for line in render(read).decode().splitlines() if 'category="c"' in line]
    return re.sub(rf"\\b{os.getpid()}\\b", "PID", repr((kept, lines)))


for line in sys.stdin:
    stats_settings, steps = eval(line, {"nan": float("nan"), "inf": float("inf")})
    with tempfile.TemporaryDirectory() as directory:
        stats = shmstats.Registry()
        given = {"capacity": 256, "max_workers": 2, "persist": False, "max_series_per_metric": 2, **stats_settings}
        given["flush_interval_ms"] = 3_600_000  # no thread flushes between two calls, of one core and not of the other
        stats.init({"path": {"data": directory}, "stats": given})
        handles = {}
        print(repr([*(play(stats, handles, step) for step in steps), shown(stats)]), flush=True)
        stats.close()
"""

METRICS = st.sampled_from(["m", "n"])
VALUES = st.one_of(
    st.sampled_from([0, 1, -1, 5, 2**63 - 1, -(2**63), 2**62, 2**63, 2**70, 0.0, -0.0, 1.5, -2.5, 0.1, 7.0, 1e308]),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), True, False, None, "1", b"1"]),
)
LABELS = st.sampled_from([None, {}, {"a": "x"}, {"a": "y"}, {"a": "z"}, {"a": "__overflow__"}, {"b": "x"}, {"a": 1}, 5])
DECLARED = st.sampled_from(
    [
        {"kind": "counter", "help": "It."},
        {"kind": "counter", "labelnames": ("a",)},
        {"kind": "gauge"},
        {"kind": "gauge", "mode": "sum"},
        {"kind": "gauge", "mode": "livesum"},
        {"kind": "gauge", "mode": "max"},
        {"kind": "gauge", "mode": "liveall"},
        {"kind": "gauge", "mode": "mostrecent"},
        {"kind": "histogram", "unit": "bytes", "buckets": (0, 1, 5)},
    ]
)
METHODS = [
    ("counter", "incr"),
    ("counter", "decr"),
    ("gauge", "set"),
    ("gauge", "incr"),
    ("gauge", "decr"),
    ("histogram", "observe"),
]
STEPS = st.one_of(
    st.tuples(st.sampled_from(["incr", "decr", "gauge", "absolute", "timing"]), METRICS, VALUES, LABELS),
    st.tuples(st.sampled_from(["incr", "decr", "gauge", "timing"]), METRICS, VALUES, st.none()),
    st.builds(
        lambda method, metric, labels, value, nothing: (
            ("handle", method[0], metric, labels, method[1], () if nothing and method[1].endswith("cr") else (value,))
        ),
        *(st.sampled_from(METHODS), METRICS, LABELS, VALUES, st.booleans()),
    ),
    st.tuples(st.sampled_from(["get", "remove", "reset"]), METRICS, LABELS),
    st.tuples(st.just("declare"), METRICS, DECLARED),
)


@pytest.fixture
def players(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Child]]:
    """A process with each core."""
    runner = PythonRunner(tmp_path, ROOT)
    monkeypatch.delenv("SHMSTATS_CONFIG", raising=False)
    try:
        monkeypatch.delenv("SHMSTATS_PURE", raising=False)
        one = runner.start(PLAYER)
        if one.hear() != "C":
            pytest.skip("the C extension is not built")
        monkeypatch.setenv("SHMSTATS_PURE", "1")
        other = runner.start(PLAYER)
        assert other.hear() == "Python"
        yield [one, other]
        for player in (one, other):
            player.finish(quiet=False)  # at the end of its input, so that it leaves no block behind
    finally:
        runner.kill_all()


def test_the_c_core_has_the_public_calls_and_parameters_of_its_twin() -> None:
    """The stub file gives both cores the types of the twin."""
    core = pytest.importorskip("shmstats.core._cells", reason="the C extension is not built")
    twin = importlib.import_module("shmstats.core._cells_py")
    only_in_c = importlib.import_module("shmstats.core._bulk").Bulk
    names = [name for name in dir(core) if not name.startswith("_") and not hasattr(only_in_c, name)]
    assert set(names) <= set(dir(twin))
    kinds = [getattr(core, name) for name in names if isinstance(getattr(core, name), type)]
    calls = [(kind, name) for kind in kinds for name, call in vars(kind).items() if inspect.ismethoddescriptor(call)]
    pairs = [
        (getattr(kind, name), getattr(getattr(twin, kind.__name__), name)) for kind, name in calls if name[0] != "_"
    ]
    stats = importlib.import_module("shmstats").stats
    recorder = core.Recorder()  # the calls are attributes with the parameters of the Python methods
    behind = {name: getattr(stats, f"_{name}", None) for name in dir(recorder) if name[0] != "_"}
    pairs += [(getattr(recorder, name), call or getattr(stats, name)) for name, call in behind.items()]
    compared = 0
    for call, expected in pairs:
        if call.__text_signature__ not in (None, "($self, object, /)"):  # Python 3.13 adds these if a class has none
            assert shape(call) == shape(expected), expected.__qualname__
            compared += 1
    assert compared >= 15


def shape(call: Any) -> list[tuple[str, bool, bool]]:
    """Return the parameters of a call: of each the name, whether it is given by name alone, and has a default."""
    parameters = inspect.signature(call).parameters.values()
    return [(each.name, each.kind is each.KEYWORD_ONLY, each.default is not each.empty) for each in parameters]


@pytest.mark.parametrize("no_buffer", [True, False])
def test_both_cores_give_the_same_results_for_random_calls(players: list[Child], no_buffer: bool) -> None:
    @settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=150,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(STEPS, min_size=5, max_size=40))
    def check(steps: list[tuple[Any, ...]]) -> None:
        for player in players:
            player.tell(repr(({"no_buffer": no_buffer}, steps)))
        (*ours, shown), (*theirs, shown_there) = (eval(player.hear()) for player in players)
        for step, one, other in zip(steps, ours, theirs, strict=True):
            assert one == other, step
        assert shown == shown_there

    check()


def test_both_cores_refuse_numbers_beyond_64_bits(players: list[Child]) -> None:
    steps = [("incr", "m", 1, None), ("decr", "m", 1, None), ("gauge", "n", 1, None)]
    steps += [(name, "m", value, None) for name in ("incr", "decr") for value in (2**63, -(2**63) - 1)]
    steps += [
        ("handle", kind, metric, None, method, (value,))
        for kind, metric in (("counter", "m"), ("gauge", "n"))
        for method in ("incr", "decr")
        for value in (1, 2**63, -(2**63) - 1)
    ]
    for player in players:
        player.tell(repr(({}, steps)))
    for player in players:
        *outcomes, _ = eval(player.hear())
        for step, (what, text) in zip(steps, outcomes, strict=True):
            fits = step[-1] == (1,) or step[2] == 1
            assert what == ("ok" if fits else "OverflowError"), (step, text)
