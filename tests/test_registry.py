"""What user code calls: counting, reading, handles, kinds, removal, providers, configuration, persistence."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import inspect
import json
import logging
import re
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import SHARED_MEMORY, segment_file, segment_of, wait_until

MAX = 2**63 - 1
MIN = -(2**63)


def saved(data: Path) -> dict[tuple[str, str], Any]:
    """Return the saved values: {(category, metric): (kind, monotonic, value)}."""
    document = json.loads((data / "stats" / "simple.json").read_text())["data"]
    series = zip(document["names"], document["kinds"], document["values"], strict=True)
    return {
        tuple(name.split("\0")): (abs(kind), kind == 1, value)
        for name, kind, value in series
        if not name.startswith("shmstats\0")
    }


# Counting and reading ------------------------------------------------------------------------------


def test_a_counter_counts_up_and_down(stats: Any) -> None:
    stats.incr("user_actions", "login")
    stats.incr("user_actions", "login", 5)
    stats.decr("user_actions", "login")
    stats.decr("user_actions", "login", 2)
    assert stats.get("user_actions", "login") == 3


def test_arguments_can_be_given_by_name_in_any_order(stats: Any) -> None:
    stats.incr(metric="m", category="c")
    stats.incr("c", metric="m", n=2)
    stats.incr("c", n=3, metric="m")
    stats.decr("c", "m", n=1)
    stats.gauge(value=7, metric="g", category="c")
    stats.absolute(value=8, metric="a", category="c")
    assert stats.snapshot() == {"c": {"m": 5, "g": 7, "a": 8}}


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {}),
        (("c",), {}),
        (("c", "m", 1, 2), {}),
        (("c", "m"), {"amount": 1}),
        (("c", "m"), {"category": "c"}),
        (("c", "m", 1), {"n": 1}),
        ((), {"category": "c", "n": 1}),
    ],
)
@pytest.mark.parametrize("call", ["incr", "decr", "gauge", "absolute"])
def test_missing_and_superfluous_arguments_are_type_errors(
    stats: Any, call: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=call):
        getattr(stats, call)(*arguments, **keywords)
    assert stats.snapshot() == {}


def test_a_value_never_written_is_0(stats: Any) -> None:
    assert stats.get("nobody", "wrote") == 0
    assert stats.counter("nobody", "wrote").value == 0


def test_counting_0_registers_the_name(stats: Any) -> None:
    stats.incr("c", "zero", 0)
    assert stats.snapshot() == {"c": {"zero": 0}}


def test_a_snapshot_has_every_category_and_metric(stats: Any) -> None:
    stats.incr("requests", "total", 3)
    stats.incr("requests", "failed")
    stats.gauge("pool", "open", 12)
    stats.gauge("pool", "load", 0.5)
    assert stats.snapshot() == {"requests": {"total": 3, "failed": 1}, "pool": {"open": 12, "load": 0.5}}


def test_a_bound_handle_counts_and_reads(stats: Any) -> None:
    logins = stats.counter("user_actions", "login")
    logins.incr()
    logins.incr(4)
    logins.incr(n=5)
    logins.decr()
    logins.decr(3)
    logins.decr(n=2)
    assert logins.value == stats.get("user_actions", "login") == 4
    assert (logins.category, logins.metric) == ("user_actions", "login")
    assert "'login'" in repr(logins)


@pytest.mark.parametrize(("arguments", "keywords"), [((1, 2), {}), ((1,), {"n": 1}), ((), {"m": 1})])
@pytest.mark.parametrize("call", ["incr", "decr"])
def test_a_handle_refuses_superfluous_arguments(
    stats: Any, call: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=call):
        getattr(stats.counter("c", "m"), call)(*arguments, **keywords)


def test_handles_of_one_name_count_together(stats: Any) -> None:
    one, other = stats.counter("c", "m"), stats.counter("c", "m")
    one.incr()
    other.incr()
    stats.incr("c", "m")
    assert one.value == other.value == 3


def test_a_handle_that_was_never_used_registers_nothing(stats: Any) -> None:
    stats.counter("c", "m")
    assert stats.snapshot() == {}


def test_sums_saturate_at_both_limits(stats: Any) -> None:
    stats.incr("c", "up", MAX)
    stats.incr("c", "up", 1)
    stats.incr("c", "up", MAX)
    stats.decr("c", "down", MAX)
    stats.decr("c", "down", MAX)
    stats.incr("c", "lowest", MIN)
    stats.decr("c", "lowest", 1)
    assert stats.snapshot() == {"c": {"up": MAX, "down": MIN, "lowest": MIN}}


@pytest.mark.parametrize("before", [-5, -1, 0, 5])
def test_subtracting_the_lowest_integer_is_exact(stats: Any, before: int) -> None:
    stats.incr("c", "m", before)
    stats.decr("c", "m", MIN)
    assert stats.get("c", "m") == min(before - MIN, MAX)
    stats.counter("c", "handle").incr(before)
    stats.counter("c", "handle").decr(MIN)
    assert stats.get("c", "handle") == min(before - MIN, MAX)


@pytest.mark.parametrize(
    "value", [0, 12, -12, MAX, MIN, 0.5, -0.0, 5e-324, sys.float_info.max, -sys.float_info.max, 1.0]
)
def test_a_gauge_holds_the_exact_integer_or_float_that_was_set(stats: Any, value: float) -> None:
    stats.gauge("g", "v", 3)
    stats.gauge("g", "v", value)
    read = stats.get("g", "v")
    assert (type(read), repr(read)) == (type(value), repr(value))
    assert stats.snapshot() == {"g": {"v": value}}


def test_the_last_write_of_a_gauge_wins(stats: Any) -> None:
    for value in (1, 2.5, -3, 4.5, 5):
        stats.gauge("g", "v", value)
    assert stats.get("g", "v") == 5


def test_absolute_on_a_new_name_makes_an_integer_gauge(stats: Any) -> None:
    stats.absolute("pool", "open", 12)
    stats.absolute("pool", "open", 3)
    assert stats.get("pool", "open") == 3


@pytest.mark.parametrize("call", ["gauge", "absolute"])
@pytest.mark.parametrize(("before", "value"), [(5, 12), (5, 2), (5, 5), (-5, MAX), (5, MIN), (MAX, MIN), (MIN, MAX)])
def test_an_integer_set_on_a_counter_is_its_new_total(stats: Any, call: str, before: int, value: int) -> None:
    stats.incr("c", "m", before)
    getattr(stats, call)("c", "m", value)
    assert stats.get("c", "m") == value
    stats.incr("c", "m", 0)
    assert stats.get("c", "m") == value


def test_a_counter_that_was_set_is_still_a_counter(stats: Any, shmstats: ModuleType) -> None:
    stats.incr("c", "m", 5)
    stats.absolute("c", "m", 9)
    (name,) = [name for name in stats.read().names if name.category == "c"]
    assert (name.kind.name, name.monotonic) == ("COUNTER", True)


def test_a_float_set_on_a_counter_makes_it_a_gauge(stats: Any) -> None:
    stats.incr("c", "m", 5)
    stats.gauge("c", "m", 1.5)
    assert stats.snapshot() == {"c": {"m": 1.5}}
    (name,) = [name for name in stats.read().names if name.category == "c"]
    assert name.kind.name == "GAUGE"


def test_counting_on_a_gauge_moves_it(stats: Any) -> None:
    stats.gauge("g", "open", 5)
    stats.incr("g", "open", 3)
    stats.decr("g", "open")
    stats.counter("g", "open").incr()
    assert stats.get("g", "open") == 8
    stats.gauge("g", "load", 0.5)
    stats.incr("g", "load", 2)
    stats.decr("g", "load")
    assert stats.get("g", "load") == 1.5


def test_counting_on_a_gauge_saturates(stats: Any) -> None:
    stats.gauge("g", "v", MAX)
    stats.incr("g", "v")
    assert stats.get("g", "v") == MAX
    stats.gauge("g", "v", MIN)
    stats.decr("g", "v")
    assert stats.get("g", "v") == MIN


def test_a_counter_is_monotonic_until_it_is_first_decremented(stats: Any) -> None:
    def monotonic(metric: str) -> bool:
        return next(name.monotonic for name in stats.read().names if name.metric == metric)

    for metric in ("only_up", "decr", "negative", "handle", "set_lower"):
        stats.incr("c", metric, 5)
        assert monotonic(metric)
    stats.incr("c", "only_up", 0)
    stats.decr("c", "only_up", -2)
    stats.decr("c", "decr")
    stats.incr("c", "negative", -1)
    stats.counter("c", "handle").decr()
    stats.absolute("c", "set_lower", 2)
    assert {metric: monotonic(metric) for metric in ("only_up", "decr", "negative", "handle", "set_lower")} == {
        "only_up": True,
        "decr": False,
        "negative": False,
        "handle": False,
        "set_lower": False,
    }


def test_after_a_decrement_by_one_worker_the_counter_is_a_gauge_for_all(stats: Any, python: Any) -> None:
    stats.incr("c", "m", 5)
    python.run("from shmstats import stats; stats.decr('c', 'm')")
    stats.incr("c", "m")
    (name,) = [name for name in stats.read().names if name.category == "c"]
    assert (name.monotonic, stats.get("c", "m")) == (False, 5)


# Rules for names and values --------------------------------------------------------------------------

CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "incr": lambda stats, category, metric: stats.incr(category, metric),
    "decr": lambda stats, category, metric: stats.decr(category, metric, 1),
    "gauge": lambda stats, category, metric: stats.gauge(category, metric, 1),
    "absolute": lambda stats, category, metric: stats.absolute(category, metric, 1),
    "get": lambda stats, category, metric: stats.get(category, metric),
    "counter": lambda stats, category, metric: stats.counter(category, metric),
    "reset": lambda stats, category, metric: stats.reset(category, metric),
    "remove": lambda stats, category, metric: stats.remove(category, metric),
}


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (None, TypeError, "must be a str, not NoneType (None)"),
        (1, TypeError, "must be a str, not int (1)"),
        (b"bytes", TypeError, "must be a str, not bytes (b'bytes')"),
        (["a"], TypeError, "must be a str, not list (['a'])"),
        ("", ValueError, "must not be empty"),
        ("a\0b", ValueError, "must not contain a NUL character: 'a\\x00b'"),
        ("\ud800", ValueError, "must not contain a lone surrogate: '\\ud800'"),
        ("a" * 256, ValueError, "must be at most 255 bytes of UTF-8, not 256: 'aaa"),
        ("ä" * 128, ValueError, "must be at most 255 bytes of UTF-8, not 256: 'äää"),
    ],
    ids=["none", "int", "bytes", "list", "empty", "nul", "surrogate", "long", "long in bytes"],
)
def test_a_bad_name_is_refused_by_name_in_every_call(
    stats: Any, bad: Any, error: type[Exception], message: str
) -> None:
    stats.incr("c", "m")
    for call, function in CALLS.items():
        with pytest.raises(error, match=re.escape(f"category {message}")):
            function(stats, bad, "m")
        if bad is None and call in ("reset", "remove"):
            continue  # None stands for all metrics there
        with pytest.raises(error, match=re.escape(f"metric {message}")):
            function(stats, "c", bad)
    assert stats.snapshot() == {"c": {"m": 1}}


@pytest.mark.parametrize("call", [call for call in CALLS if call != "get"])
@pytest.mark.parametrize("category", ["system", "shmstats"])
def test_reserved_categories_are_refused(stats: Any, call: str, category: str) -> None:
    with pytest.raises(ValueError, match=f"category must not be '{category}': system and shmstats are reserved"):
        CALLS[call](stats, category, "m")


def test_the_metrics_of_the_package_itself_can_be_read(stats: Any) -> None:
    assert stats.get("shmstats", "operations_dropped") == 0
    assert stats.get("system", "uptime") == 0


@pytest.mark.parametrize(
    "name", ["a", "a" * 255, "ä" * 127, "日本語", "🙂", "a b.c-d", '"', "\\", "\n", " ", "\x7f", "é", "e\u0301", "{}"]
)
def test_any_other_text_is_a_valid_name(stats: Any, name: str) -> None:
    stats.incr(name, name, 2)
    stats.gauge(name, name + "g" if len(name) < 200 else "g", 1)
    assert stats.get(name, name) == 2
    assert stats.snapshot()[name][name] == 2


def test_equal_strings_at_other_addresses_are_the_same_name(stats: Any) -> None:
    for _ in range(3):
        stats.incr("".join(["cat", "egory"]), "".join(["met", "ric"]))
    stats.incr("category", "metric")
    assert stats.get("category", "metric") == 4


class Text(str):
    """A str with its own `__str__`, hash and equality."""

    def __str__(self) -> str:
        return "another"

    def __hash__(self) -> int:
        return 42

    def __eq__(self, other: object) -> bool:
        return False


class Color(str, enum.Enum):  # noqa: UP042 - the old kind is the point
    RED = "red"


@pytest.mark.parametrize("text", [Text("red"), Color.RED], ids=["subclass", "enum"])
def test_a_subclass_of_str_is_used_by_its_characters(stats: Any, text: str) -> None:
    for _ in range(3):
        stats.incr(text, text)
        stats.counter(text, text).incr()
    assert stats.snapshot() == {"red": {"red": 6}}
    assert stats.get(text, text) == 6
    assert stats.remove(text, text) == 1


VALUE_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "incr": lambda stats, n: stats.incr("c", "m", n),
    "decr": lambda stats, n: stats.decr("c", "m", n),
    "handle incr": lambda stats, n: stats.counter("c", "m").incr(n),
    "handle decr": lambda stats, n: stats.counter("c", "m").decr(n),
    "absolute": lambda stats, n: stats.absolute("c", "m", n),
}


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (None, TypeError, "must be an integer, not NoneType (None)"),
        ("1", TypeError, "must be an integer, not str ('1')"),
        (1.0, TypeError, "must be an integer, not float (1.0)"),
        (Decimal(1), TypeError, "must be an integer, not Decimal"),
        (MAX + 1, OverflowError, f"must fit 64 bits ({MIN} to {MAX})"),
        (MIN - 1, OverflowError, f"must fit 64 bits ({MIN} to {MAX})"),
        (10**5000, OverflowError, f"must fit 64 bits ({MIN} to {MAX})"),
    ],
    ids=["none", "str", "float", "decimal", "too high", "too low", "far too high"],
)
def test_a_bad_amount_is_refused_by_name_in_every_call(
    stats: Any, bound: bool, bad: Any, error: type[Exception], message: str
) -> None:
    if bound:
        stats.incr("c", "m", 7)
    for call, function in VALUE_CALLS.items():
        argument = "value" if call == "absolute" else "n"
        with pytest.raises(error, match=re.escape(f"{argument} {message}")):
            function(stats, bad)
    assert stats.get("c", "m") == (7 if bound else 0)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (None, TypeError, "value must be a number, not NoneType (None)"),
        ("1", TypeError, "value must be a number, not str ('1')"),
        (1j, TypeError, "value must be a number, not complex (1j)"),
        (float("nan"), ValueError, "value must be finite, not nan"),
        (float("inf"), ValueError, "value must be finite, not inf"),
        (float("-inf"), ValueError, "value must be finite, not -inf"),
        (Decimal("1e400"), ValueError, "value must be finite"),
        (Decimal("sNaN"), ValueError, "value"),
        (Fraction(10**400), (ValueError, OverflowError), "value"),
        (MAX + 1, OverflowError, f"value must fit 64 bits ({MIN} to {MAX})"),
        (10**5000, OverflowError, f"value must fit 64 bits ({MIN} to {MAX})"),
    ],
    ids=["none", "str", "complex", "nan", "inf", "-inf", "decimal", "snan", "fraction", "high", "far too high"],
)
def test_a_bad_gauge_value_is_refused_by_name(stats: Any, bad: Any, error: Any, message: str) -> None:
    for _ in range(2):
        with pytest.raises(error, match=re.escape(message)):
            stats.gauge("g", "v", bad)
        stats.gauge("g", "v", 7)
    assert stats.get("g", "v") == 7


class Index:
    def __index__(self) -> int:
        return 3


class Number(enum.IntEnum):
    THREE = 3


@pytest.mark.parametrize("n", [Index(), np.int64(3), np.uint8(3), Number.THREE], ids=["index", "i64", "u8", "enum"])
def test_any_integral_type_is_an_amount(stats: Any, n: Any) -> None:
    for _ in range(2):
        stats.incr("c", "m", n)
        stats.counter("c", "m").incr(n)
        stats.gauge("g", "v", n)
    stats.decr("c", "m", n)
    stats.absolute("g", "a", n)
    assert stats.snapshot() == {"c": {"m": 9}, "g": {"v": 3, "a": 3}}
    assert type(stats.get("g", "v")) is int


def test_true_counts_as_1(stats: Any) -> None:
    stats.incr("c", "m", True)
    stats.gauge("g", "v", True)
    assert repr(stats.snapshot()) == "{'c': {'m': 1}, 'g': {'v': 1}}"


@pytest.mark.parametrize("value", [np.float64(0.5), np.float32(0.5), Fraction(1, 2), Decimal("0.5")])
def test_any_real_number_can_be_the_value_of_a_gauge(stats: Any, value: Any) -> None:
    for _ in range(2):
        stats.gauge("g", "v", value)
    read = stats.get("g", "v")
    assert (read, type(read)) == (0.5, float)


def test_an_argument_that_raises_raises_its_own_error_and_counts_nothing(stats: Any) -> None:
    class Bad:
        def __index__(self) -> int:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        stats.incr("c", "m", Bad())
    with pytest.raises(ZeroDivisionError, match="mine"):
        stats.counter("c", "m").incr(Bad())
    assert stats.snapshot() == {}


@pytest.mark.parametrize(("category", "metric"), [("a\0b", "m"), ("a", "m\0n\0o\0p"), ("", "m"), ("system", "m")])
def test_a_handle_made_by_hand_cannot_damage_the_block(
    stats: Any, shmstats: ModuleType, category: str, metric: str
) -> None:
    stats.incr("c", "m")
    for handle in (shmstats.Counter(stats, category, metric), shmstats.Counter(stats, category, metric, (("a", "b"),))):
        with contextlib.suppress(ValueError):
            handle.incr()
    assert stats.snapshot()["c"] == {"m": 1}
    stats.close()
    assert stats.snapshot() == {"c": {"m": 1}}


# Removal and reset -------------------------------------------------------------------------------------


def test_a_removed_metric_is_gone_and_begins_again_at_0(stats: Any) -> None:
    login = stats.counter("user_actions", "login")
    login.incr(5)
    stats.incr("user_actions", "logout", 2)
    stats.incr("other", "login", 3)
    assert stats.remove("user_actions", "login") == 1
    assert stats.snapshot() == {"user_actions": {"logout": 2}, "other": {"login": 3}}
    assert login.value == 0
    login.incr()
    stats.incr("user_actions", "login")
    assert stats.get("user_actions", "login") == 2


def test_a_category_can_be_removed_whole(stats: Any) -> None:
    stats.incr("user_actions", "login")
    stats.gauge("user_actions", "active", 1.5)
    stats.incr("user_actions_2", "login")
    assert stats.remove("user_actions") == 2
    assert stats.snapshot() == {"user_actions_2": {"login": 1}}
    assert stats.remove("user_actions") == 0
    assert stats.remove("user_actions_2", "no such metric") == 0


def test_reset_sets_names_to_0_and_keeps_them_registered(stats: Any) -> None:
    stats.incr("c", "m", 5)
    stats.gauge("c", "g", 1.5)
    stats.incr("d", "m", 5)
    assert stats.reset("c") == 2
    assert stats.snapshot() == {"c": {"m": 0, "g": 0}, "d": {"m": 5}}
    assert stats.reset("d", "m") == 1
    assert stats.reset("d", "n") == 0
    stats.incr("d", "m")
    assert stats.get("d", "m") == 1


def test_a_removed_name_can_be_registered_again_as_another_kind(stats: Any) -> None:
    stats.incr("c", "m", 5)
    stats.remove("c", "m")
    stats.gauge("c", "m", 2.5)
    assert stats.get("c", "m") == 2.5
    stats.remove("c", "m")
    stats.incr("c", "m")
    assert stats.get("c", "m") == 1


def test_handles_of_other_processes_never_count_into_a_name_that_reuses_cells(stats: Any, python: Any) -> None:
    code = """
        import sys
        from shmstats import stats
        handle = stats.counter("old", "name")
        for line in sys.stdin:
            for _ in range(int(line)):
                handle.incr()
                stats.incr("old", "other")
            print("done", flush=True)
    """
    children = [python.start(code) for _ in range(2)]
    for child in children:
        child.tell("3")
        child.hear()
    assert stats.get("old", "name") == 6
    assert stats.remove("old") == 2
    stats.incr("new", "name", 100)
    stats.incr("new", "other", 200)
    for child in children:
        child.tell("5")
        child.hear()
    assert stats.snapshot() == {"new": {"name": 100, "other": 200}, "old": {"name": 10, "other": 10}}
    for child in children:
        child.finish()


def test_reset_reaches_the_rows_of_all_workers(stats: Any, python: Any) -> None:
    child = python.start("from shmstats import stats; stats.incr('c', 'm', 5); print(); input(); stats.incr('c', 'm')")
    child.hear()
    stats.incr("c", "m", 2)
    stats.reset("c", "m")
    assert stats.get("c", "m") == 0
    child.tell()
    child.finish()
    assert stats.get("c", "m") == 1


# Providers ----------------------------------------------------------------------------------------------


class Recording:
    """A provider that records the operations that it gets."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, ...]] = []

    def incr(self, category: str, metric: str, n: int) -> None:
        self.operations.append(("incr", category, metric, n))

    def decr(self, category: str, metric: str, n: int) -> None:
        self.operations.append(("decr", category, metric, n))

    def gauge(self, category: str, metric: str, value: float) -> None:
        self.operations.append(("gauge", category, metric, value))

    def absolute(self, category: str, metric: str, value: int) -> None:
        self.operations.append(("absolute", category, metric, value))

    def timing(self, category: str, metric: str, milliseconds: float) -> None:
        self.operations.append(("timing", category, metric, milliseconds))

    def timestamp(self, category: str, metric: str, moment: datetime) -> None:
        self.operations.append(("timestamp", category, metric, moment))


def test_every_provider_gets_every_operation_once(stats: Any) -> None:
    early = stats.counter("c", "handle")
    early.incr()
    stats.incr("c", "m")
    first, second = Recording(), Recording()
    stats.register(first)
    stats.register(second)
    stats.incr("c", "m", 2)
    stats.decr("c", "m")
    stats.gauge("g", "v", 0.5)
    stats.absolute("g", "a", 3)
    early.incr(4)
    early.decr()
    stats.counter("c", "late").incr()
    assert (
        first.operations
        == second.operations
        == [
            ("incr", "c", "m", 2),
            ("decr", "c", "m", 1),
            ("gauge", "g", "v", 0.5),
            ("absolute", "g", "a", 3),
            ("incr", "c", "handle", 4),
            ("decr", "c", "handle", 1),
            ("incr", "c", "late", 1),
        ]
    )
    assert stats.snapshot() == {"c": {"m": 2, "handle": 4, "late": 1}, "g": {"v": 0.5, "a": 3}}


def test_a_provider_gets_no_refused_operation(stats: Any) -> None:
    provider = Recording()
    stats.register(provider)
    for call in (
        lambda: stats.incr("", "m"),
        lambda: stats.incr("c", "m", 1.5),
        lambda: stats.gauge("c", "m", float("nan")),
        lambda: stats.incr("system", "m"),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert provider.operations == []


def test_a_provider_that_raises_does_not_affect_the_others(stats: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Recording):
        def incr(self, category: str, metric: str, n: int) -> None:
            raise ConnectionError("nobody listens")

    after = Recording()
    stats.register(Failing())
    stats.register(after)
    for _ in range(3):
        stats.incr("c", "m")
    assert stats.get("c", "m") == 3
    assert len(after.operations) == 3
    # The first failure is logged, and that the provider was given up.
    assert len([record for record in caplog.records if "nobody listens" in record.getMessage()]) == 2


def test_an_object_without_the_methods_of_a_provider_is_refused(stats: Any) -> None:
    class Half:
        def incr(self) -> None: ...

    missing = r"provider must have the methods .*; Half lacks decr, gauge, absolute, timing, timestamp"
    with pytest.raises(TypeError, match=missing):
        stats.register(Half())


def test_a_provider_registered_before_the_first_use_is_used(stats: Any) -> None:
    provider = Recording()
    stats.register(provider)
    stats.incr("c", "m")
    assert (len(provider.operations), stats.get("c", "m")) == (1, 1)


# Configuration, init and close ---------------------------------------------------------------------------


def test_a_process_that_only_reads_attaches(stats: Any, data: Path) -> None:
    assert not segment_file(data).exists()
    assert stats.get("c", "m") == 0
    assert stats.snapshot() == {}
    assert segment_file(data).exists()


@pytest.mark.parametrize("way", ["mapping", "file", "environment", "current directory"])
def test_the_configuration_is_found(
    shmstats: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.delenv("SHMSTATS_CONFIG")
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "elsewhere"
    config = {"path": {"data": str(data)}, "stats": {"capacity": 256}}
    file = tmp_path / "shmstats.yml"
    if way != "mapping":
        file = tmp_path / ("shmstats.yml" if way == "current directory" else "my.yml")
        file.write_text(json.dumps(config))
    if way == "mapping":
        shmstats.init(config)
    elif way == "file":
        shmstats.init(str(file))
    elif way == "environment":
        monkeypatch.setenv("SHMSTATS_CONFIG", str(file))
    shmstats.stats.incr("c", "m")
    assert segment_file(data).exists()
    shmstats.close()
    assert saved(data)["c", "m"] == (1, True, 1)


def test_init_raises_the_errors_that_counting_only_logs(
    shmstats: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "wrong.yml"
    file.write_text("stats: {capacity: none}")
    with pytest.raises(shmstats.ConfigError, match=r"stats\.capacity"):
        shmstats.init(str(file))
    monkeypatch.setenv("SHMSTATS_CONFIG", str(file))
    for _ in range(3):
        shmstats.stats.incr("c", "m")
    assert shmstats.stats.get("c", "m") == 0
    (record,) = [record for record in caplog.records if record.name == "shmstats"]
    assert "stats.capacity" in record.getMessage()


def test_counting_in_a_current_directory_that_is_gone_is_only_logged(
    shmstats: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SHMSTATS_CONFIG")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    shmstats.stats.incr("c", "m")
    assert shmstats.stats.get("c", "m") == 0
    (record,) = [record for record in caplog.records if record.name == "shmstats"]
    assert "the current directory no longer exists" in record.getMessage()


def test_init_again_moves_to_another_data_directory(shmstats: ModuleType, tmp_path: Path) -> None:
    stats = shmstats.stats
    handle = stats.counter("c", "m")
    for directory in ("one", "two", "one"):
        shmstats.init({"path": {"data": str(tmp_path / directory)}, "stats": {"capacity": 256}})
        handle.incr()
        stats.incr("c", "m")
    assert stats.get("c", "m") == 4
    shmstats.close()
    assert saved(tmp_path / "one")["c", "m"][2] == 4
    assert saved(tmp_path / "two")["c", "m"][2] == 2


def test_a_refused_init_leaves_the_registry_as_it_was(shmstats: ModuleType, data: Path) -> None:
    shmstats.stats.incr("c", "m")
    with pytest.raises(shmstats.ConfigError):
        shmstats.init({"stats": {"nonsense": 1}})
    shmstats.stats.incr("c", "m")
    assert shmstats.stats.get("c", "m") == 2


def test_close_leaves_the_block_and_the_next_use_attaches_again(shmstats: ModuleType, data: Path) -> None:
    stats = shmstats.stats
    handle = stats.counter("c", "m")
    for round_ in range(1, 4):
        handle.incr()
        stats.incr("c", "m")
        assert segment_file(data).exists()
        shmstats.close()
        shmstats.close()
        assert not segment_file(data).exists()
        assert stats.get("c", "m") == 2 * round_
        shmstats.close()


def test_a_second_registry_counts_beside_the_default_one(shmstats: ModuleType, tmp_path: Path) -> None:
    mine = shmstats.Registry()
    same = shmstats.Registry()
    mine.init({"path": {"data": str(tmp_path / "mine")}, "stats": {"capacity": 256}})
    same.init()
    shmstats.stats.incr("c", "m")
    mine.incr("c", "m", 5)
    same.incr("c", "m", 10)
    assert (mine.get("c", "m"), shmstats.stats.get("c", "m"), same.get("c", "m")) == (5, 11, 11)
    same.close()
    assert shmstats.stats.get("c", "m") == 11
    mine.close()


def test_a_registry_that_is_collected_leaves_its_block(shmstats: ModuleType, data: Path) -> None:
    mine = shmstats.Registry()
    mine.incr("c", "m", 5)
    dropped = weakref.ref(mine)
    del mine
    gc.collect()
    assert dropped() is None
    assert not segment_file(data).exists()
    assert saved(data)["c", "m"] == (1, True, 5)


def test_the_public_calls_have_signatures(stats: Any, core: str) -> None:
    assert list(inspect.signature(stats.incr).parameters) == ["category", "metric", "n", "labels", "exemplar"]
    assert list(inspect.signature(stats.gauge).parameters) == ["category", "metric", "value", "labels", "labelnames"]
    assert list(inspect.signature(stats.counter("c", "m").incr).parameters) == ["n", "exemplar"]
    assert stats.incr.__doc__


def test_the_two_cores_have_the_same_methods() -> None:
    cells = pytest.importorskip("shmstats.core._cells")
    from shmstats.core import _cells_py
    from shmstats.registry import Registry

    behind = {method.removeprefix("_") for method in dir(Registry)}  # methods that only the C core implements
    for name in ("Cells", "Series", "Counter", "Gauge", "Histogram", "Recorder"):
        of_c, of_twin = getattr(cells, name), getattr(_cells_py, name)
        in_twin = {*dir(of_twin), *inspect.getsource(of_twin.__init__).replace(".", " ").split()}
        in_twin |= behind if name == "Recorder" else set()
        assert {method for method in vars(of_c) if not method.startswith("__")} <= in_twin, name


# Persistence ------------------------------------------------------------------------------------------------


def test_the_last_process_saves_and_the_next_start_restores(shmstats: ModuleType, data: Path) -> None:
    stats = shmstats.stats
    stats.incr("c", "up", 5)
    stats.incr("c", "down", 5)
    stats.decr("c", "down")
    stats.incr("c", "most", MAX)
    stats.decr("c", "least", MAX)
    stats.gauge("g", "int", -3)
    stats.gauge("g", "float", 0.1)
    stats.gauge("g", "whole", 2.0)
    stats.incr("日本語", 'é\n"\\', 7)
    before = stats.snapshot()
    names = {(name.category, name.metric): (name.kind, name.monotonic) for name in stats.read().names}
    shmstats.close()
    assert saved(data)["c", "down"] == (1, False, 4)
    assert repr(stats.snapshot()) == repr(before)
    assert {(name.category, name.metric): (name.kind, name.monotonic) for name in stats.read().names} == names
    stats.incr("c", "up")
    assert stats.get("c", "up") == 6


def test_values_survive_many_restarts(shmstats: ModuleType, python: Any) -> None:
    for _ in range(3):
        shmstats.stats.incr("c", "m")
        shmstats.stats.gauge("g", "v", shmstats.stats.get("g", "v") + 0.5)
        shmstats.close()
        python.run("from shmstats import stats; stats.incr('c', 'm', 10)")
    assert shmstats.stats.snapshot() == {"c": {"m": 33}, "g": {"v": 1.5}}


def test_a_snapshot_larger_than_the_block_is_restored_as_far_as_it_fits(
    shmstats: ModuleType, configure: Callable[..., Any], data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    series = shmstats.series
    names = [series.Name("c", f"m{i}", series.Kind.COUNTER) for i in range(299)]
    own = series.Name("shmstats", "operations_dropped", series.Kind.COUNTER)  # the first that each process registers
    shmstats.snapshot.store.save(data / "stats", series.Snapshot([own, *names], [0, *range(299)]))
    configure(capacity=256)
    shmstats.stats.incr("c", "m7")
    assert shmstats.stats.get("c", "m7") == 8
    assert shmstats.stats.get("shmstats", "operations_dropped") > 0
    assert "of 300 saved statistics were not restored" in caplog.text


def test_label_sets_that_do_not_fit_are_left_out_and_the_snapshot_is_kept(
    shmstats: ModuleType, configure: Callable[..., Any], data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A metric with labels takes a further record, so not even all metrics fit."""
    series = shmstats.series
    names = [series.Name("c", f"m{i}", series.Kind.COUNTER, (("a", "b"),)) for i in range(299)]
    own = series.Name("shmstats", "operations_dropped", series.Kind.COUNTER)
    shmstats.snapshot.store.save(data / "stats", series.Snapshot([own, *names], [0, *range(299)]))
    whole = (data / "stats" / "simple.json").read_bytes()
    configure(capacity=256)
    stats = shmstats.stats
    stats.incr("c", "m7", labels={"a": "b"})
    assert stats.get("c", "m7", labels={"a": "b"}) == 8
    assert stats.get("shmstats", "operations_dropped") > 0
    assert "of 300 saved statistics were not restored" in caplog.text
    (kept,) = (data / "stats").glob("simple.json.unrestored-*")
    shmstats.close()
    stats.init()
    assert kept.read_bytes() == whole
    assert [kept] == list((data / "stats").glob("simple.json.unrestored-*"))


def test_a_snapshot_that_this_version_cannot_restore_does_not_stop_a_boot(
    shmstats: ModuleType, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    series = shmstats.series
    for kind, value in ((series.Kind.HISTOGRAM, 3), (series.Kind.COUNTER, "many"), (series.Kind.COUNTER, None)):
        names = [series.Name("c", "strange", kind), series.Name("c", "good", series.Kind.COUNTER)]
        shmstats.snapshot.store.save(data / "stats", series.Snapshot(names, [value, 5]))
        shmstats.stats.incr("c", "m")
        assert shmstats.stats.get("c", "m") == 1
        shmstats.stats.remove("c")
        shmstats.close()


def test_if_the_directory_cannot_be_written_the_block_is_kept(
    shmstats: ModuleType, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data.write_text("a file is in the way of the directory")
    shmstats.stats.incr("c", "m")
    shmstats.close()
    assert "stay in shared memory" in caplog.text
    assert Path(SHARED_MEMORY, segment_of(data)).exists()
    data.unlink()
    shmstats.stats.incr("c", "m")
    assert shmstats.stats.get("c", "m") == 2


def test_a_count_during_the_last_save_is_not_lost(shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = shmstats.stats
    handle = stats.counter("c", "m")
    handle.incr()
    stats.incr("c", "n")
    save = shmstats.snapshot.store.save

    def save_and_be_interrupted(*arguments: Any) -> None:
        save(*arguments)
        # As a signal handler might, between the reading of the values and the end of the block.
        handle.incr()
        stats.incr("c", "n")

    monkeypatch.setattr(shmstats.snapshot.store, "save", save_and_be_interrupted)
    shmstats.close()
    monkeypatch.undo()
    assert stats.snapshot() == {"c": {"m": 2, "n": 2}}


# Signals, threads, tasks --------------------------------------------------------------------------------------


class Alarms:
    """Calls a function by a signal again and again."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self._before = signal.getsignal(signal.SIGALRM)

    def start(self, function: Callable[[], None], seconds: float) -> None:
        def handle(*_: object) -> None:
            try:
                function()
            except BaseException as error:
                # An exception must not be raised inside the code of the test framework.
                self.errors.append(error)
                self.stop()

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    """Signals that stop with the test."""
    alarms = Alarms()
    yield alarms
    alarms.stop()


def test_counts_of_signal_handlers_during_registrations_are_exact(stats: Any, alarms: Alarms) -> None:
    handled = 0

    def handle() -> None:
        nonlocal handled
        handled += 1
        stats.incr("signals", "same")
        stats.incr("signals", f"name {handled % 50}")
        stats.gauge("signals", "gauge", handled)

    alarms.start(handle, 0.0005)
    for number in range(400):
        stats.incr("main", f"name {number}")
        stats.incr("main", "same")
        stats.counter("main", "handle").incr()
        if number % 50 == 0:
            stats.remove("main", "gone")
            stats.incr("main", "gone")
    wait_until(lambda: handled > 20 or alarms.errors)
    alarms.stop()
    assert alarms.errors == []
    values = stats.snapshot()
    assert values["signals"].pop("gauge") == handled
    assert values["signals"].pop("same") == handled
    assert sum(values["signals"].values()) == handled
    assert values["main"] == {f"name {n}": 1 for n in range(400)} | {"same": 400, "handle": 400, "gone": 1}
    assert stats.get("shmstats", "operations_dropped") == 0


def test_a_signal_handler_may_count_while_the_block_is_created_or_left(shmstats: ModuleType, alarms: Alarms) -> None:
    stats, handled = shmstats.stats, 0
    bound = stats.counter("signals", "bound")

    def handle() -> None:
        nonlocal handled
        handled += 1
        stats.incr("signals", "m")
        bound.incr()

    alarms.start(handle, 0.0007)
    for _ in range(60):
        stats.incr("main", "m")
        shmstats.close()
    wait_until(lambda: handled > 20 or alarms.errors)
    alarms.stop()
    assert alarms.errors == []
    assert stats.snapshot() == {"main": {"m": 60}, "signals": {"m": handled, "bound": handled}}


def test_a_signal_handler_with_its_own_registry_does_not_deadlock(python: Any, tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from multiprocessing import resource_tracker
        from pathlib import Path
        import shmstats
        from shmstats.block import segment

        other = shmstats.Registry()
        stats = shmstats.stats

        def handle(*_):
            other.init({"path": {"data": sys.argv[1]}, "stats": {"capacity": 256}})
            other.incr("c", "m")

        signal.signal(signal.SIGUSR1, handle)
        init = segment.Segment.__init__

        def interrupted(*arguments, **keywords):
            segment.Segment.__init__ = init
            signal.raise_signal(signal.SIGUSR1)
            return init(*arguments, **keywords)

        segment.Segment.__init__ = interrupted
        stats.incr("c", "m")
        print(stats.get("c", "m"), other.get("c", "m"))
    """
    child = python.start(code, tmp_path / "other")
    assert child.finish(bound=20) == "1 1\n"


def test_threads_count_exactly(stats: Any, core: str) -> None:
    number, rounds = 8, 3000 if core == "C" else 400
    handle = stats.counter("threads", "handle")

    def count(thread: int) -> None:
        for i in range(rounds):
            stats.incr("threads", "shared")
            handle.incr()
            stats.incr(f"thread {thread}", f"name {i % 20}")

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(count, range(number)))
    values = stats.snapshot()
    assert values.pop("threads") == {"shared": number * rounds, "handle": number * rounds}
    assert {category: sum(metrics.values()) for category, metrics in values.items()} == {
        f"thread {i}": rounds for i in range(number)
    }


def test_threads_that_attach_at_once_share_one_worker(stats: Any) -> None:
    ready = threading.Barrier(8)

    def count(_: int) -> None:
        ready.wait()
        stats.incr("c", "m")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert stats.get("c", "m") == 8
    assert len(list(stats.shared.attach().reader.workers)) == 1


def test_threads_count_exactly_while_another_closes(shmstats: ModuleType, core: str) -> None:
    stats, errors = shmstats.stats, []
    handle = stats.counter("c", "handle")
    rounds = 800 if core == "C" else 200

    def count() -> None:
        try:
            for i in range(rounds):
                handle.incr()
                stats.incr("c", "m")
                stats.incr("c", f"name {i % 40}")
                stats.gauge("g", "v", i)
                if i % 100 == 0:
                    stats.get("c", "m")
                    stats.snapshot()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        shmstats.close()
        threads[0].join(0.001)
    for thread in threads:
        thread.join()
    assert errors == []
    values = stats.snapshot()
    assert values.pop("shmstats", {}) == {}
    assert values["c"].pop("handle") == values["c"].pop("m") == 3 * rounds
    assert sum(values["c"].values()) == 3 * rounds


def test_an_operation_during_which_the_block_is_closed_is_not_lost(
    shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = shmstats.stats
    stats.declare("c", "m", kind="gauge", mode="sum")  # a gauge by worker takes the slow path
    block = stats.shared.attach()
    find = block.names.find
    pool = ThreadPoolExecutor(1)

    def find_after_close(key: bytes) -> Any:
        monkeypatch.undo()
        pool.submit(shmstats.close).result()
        return find(key)

    monkeypatch.setattr(block.names, "find", find_after_close)
    stats.gauge("c", "m", 1)
    pool.shutdown()
    assert stats.get("c", "m") == 1
    assert stats.get("shmstats", "operations_dropped") == 0


def test_a_log_handler_that_counts_does_not_deadlock(python: Any, data: Path, configure: Any) -> None:
    configure(capacity=512)
    holder = python.start("from shmstats import stats; stats.incr('c', 'm'); print(); input()")
    holder.hear()
    configure(capacity=256)
    code = """
        import logging, threading
        from shmstats import stats

        log = logging.getLogger("shmstats")

        inside, counted = threading.Event(), []

        class Counting(logging.Handler):
            def emit(self, record):
                if record.name == "app":
                    # This thread has the handler's lock now. The other one is about to log as well.
                    inside.wait(5)
                    stats.incr("logged", "records")

        handler = Counting()
        logging.getLogger("app").addHandler(handler)
        log.addHandler(handler)
        log.addFilter(lambda record: inside.set() or True)
        logger = threading.Thread(target=logging.getLogger("app").error, args=("x",), daemon=True)
        logger.start()
        stats.incr("c", "m")
        logger.join(20)
        assert not logger.is_alive()
        print(stats.get("logged", "records"), stats.get("c", "m"))
    """
    child = python.start(code)
    assert child.finish(bound=30, quiet=False) == "1 2\n"
    holder.tell()
    holder.finish()


def test_tasks_of_asyncio_count_exactly(stats: Any) -> None:
    async def count(name: str) -> None:
        for _ in range(50):
            stats.incr("tasks", name)
            await asyncio.sleep(0)

    async def count_all() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(count(f"name {i % 5}") for i in range(20)),
            loop.run_in_executor(None, stats.incr, "tasks", "executor", 3),
        )

    asyncio.run(count_all())
    values = stats.snapshot()["tasks"]
    assert (values.pop("executor"), sum(values.values())) == (3, 1000)


def test_finalizers_may_count(stats: Any) -> None:
    class Counted:
        def __del__(self) -> None:
            stats.incr("finalized", "objects")

    for number in range(300):
        cycle = Counted()
        cycle.self = cycle  # type: ignore[attr-defined]
        stats.incr("main", f"name {number}")
    del cycle
    gc.collect()
    assert stats.get("finalized", "objects") == 300


# The end of a process -------------------------------------------------------------------------------------------


def test_counting_at_exit_is_kept(python: Any, stats: Any) -> None:
    code = """
        import atexit
        {before}
        from shmstats import stats
        {after}
        stats.incr("c", "m")
    """
    register = "atexit.register(lambda: __import__('shmstats').stats.incr('exit', '{}'))"
    python.run(code.format(before=register.format("after ours"), after=register.format("before ours")))
    assert stats.snapshot() == {"c": {"m": 1}, "exit": {"before ours": 1, "after ours": 1}}


def test_no_block_stays_if_the_only_use_is_at_exit(python: Any, data: Path) -> None:
    python.run("import atexit, shmstats; atexit.register(shmstats.stats.incr, 'c', 'm')")
    assert not segment_file(data).exists()
    assert saved(data)["c", "m"] == (1, True, 1)


def test_the_counts_before_os_exit_are_kept(python: Any, stats: Any, data: Path) -> None:
    child = python.start("import os; from shmstats import stats; stats.incr('c', 'm', 5); os._exit(7)")
    child.finish(status=7)
    assert segment_file(data).exists()
    assert stats.get("c", "m") == 5


def test_a_process_that_ends_by_an_exception_leaves_its_block(python: Any, data: Path) -> None:
    child = python.start("from shmstats import stats; stats.incr('c', 'm', 5); raise SystemExit(3)")
    child.finish(status=3)
    assert not segment_file(data).exists()
    assert saved(data)["c", "m"] == (1, True, 5)


def test_daemon_threads_may_count_until_the_process_ends(python: Any, data: Path) -> None:
    code = """
        import threading
        from shmstats import stats

        counting = threading.Event()

        def count():
            handle = stats.counter("c", "handle")
            number = 0
            while True:
                handle.incr()
                stats.incr("c", f"name {number % 100}")
                number += 1
                if number == 200:
                    counting.set()

        for _ in range(2):
            threading.Thread(target=count, daemon=True).start()
        counting.wait()
    """
    python.run(code)
    values = saved(data) if (data / "stats").exists() else {}
    assert segment_file(data).exists() or values["c", "handle"][2] >= 200


# Full blocks ------------------------------------------------------------------------------------------------------


def test_a_full_block_drops_new_names_counts_the_drops_and_logs_once(
    stats: Any, configure: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    configure(capacity=256)
    for number in range(300):
        stats.incr("c", f"name {number}")
    kept = stats.snapshot()["c"]
    assert len(kept) == 256 - 2
    assert set(kept.values()) == {1}
    assert stats.get("shmstats", "operations_dropped") == 300 - len(kept)
    for number in range(300):
        stats.incr("c", f"name {number}")
        stats.counter("c", f"name {number}").incr()
        stats.gauge("g", f"name {number % 2}", 1)
    assert set(stats.snapshot()["c"].values()) == {3}
    assert stats.snapshot()["shmstats"] == {"operations_dropped": 3 * (300 - len(kept)) + 300}
    assert len([record for record in caplog.records if "256, is in use" in record.getMessage()]) == 1
    stats.remove("c", "name 0")
    stats.incr("c", "new")
    assert stats.get("c", "new") == 1


def test_if_shared_memory_is_full_while_attaching_counting_begins_later(
    shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every reservation after the first few fails, for each number of those."""
    segment = shmstats.block.lock.RecordLocks
    for allowed in range(12):
        calls = 0
        reserve = segment.reserve

        def limited(self: Any, *arguments: int) -> None:
            nonlocal calls
            calls += 1
            if calls > allowed:  # noqa: B023 - called in this round only
                raise OSError(28, "No space left on device")
            reserve(self, *arguments)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(segment, "reserve", limited)
            shmstats.stats.incr("c", "m")
            shmstats.stats.gauge("g", "v", 1.5)
            shmstats.stats.get("c", "m")
            shmstats.stats.snapshot()
        shmstats.stats.shared._retry_at = 0.0
        shmstats.stats.incr("c", "later")
        assert shmstats.stats.get("c", "later") == 1, allowed
        shmstats.stats.remove("c")
        shmstats.close()


def test_a_refused_block_is_logged_once_and_raised_by_init(
    shmstats: ModuleType, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segment_file(data).write_bytes(b"no block" * 1024)
    segment_file(data).chmod(0o644)
    with pytest.raises(shmstats.BlockError, match="has mode -rw-r--r--; it must be -rw-------"):
        shmstats.init()
    for _ in range(3):
        shmstats.stats.incr("c", "m")
        shmstats.stats.shared._retry_at = 0.0
    assert len([record for record in caplog.records if "nothing is counted" in record.getMessage()]) == 1
    segment_file(data).unlink()
    shmstats.stats.incr("c", "m")
    assert shmstats.stats.get("c", "m") == 1
    assert shmstats.stats.get("shmstats", "operations_dropped") == 3


# Memory ---------------------------------------------------------------------------------------------------------------


def test_calls_leave_no_references(stats: Any) -> None:
    """Every path, good and bad, many times: the reference counts do not change."""
    category, metric, n = "".join(["cat", "egory"]), "".join(["met", "ric"]), 10**15
    handle = stats.counter(category, metric)
    provider_free = [
        lambda: stats.incr(category, metric, n),
        lambda: stats.incr(category, metric=metric, n=n),
        lambda: stats.decr(category, metric, n),
        lambda: stats.gauge("g", metric, n),
        lambda: stats.gauge("g", metric, 0.5),
        lambda: stats.absolute("g", metric, n),
        lambda: handle.incr(n),
        lambda: handle.decr(n=n),
        lambda: handle.value,
        lambda: repr(handle),
        lambda: stats.counter(category, metric),
        lambda: stats.get(category, metric),
        lambda: stats.remove(category, metric),
        lambda: stats.reset("g", metric),
    ]
    bad = [
        lambda: stats.incr(category, metric, 2.5),
        lambda: stats.incr(category, metric, wrong=n),
        lambda: stats.incr(category),
        lambda: stats.incr("", metric),
        lambda: stats.gauge(category, metric, None),
        lambda: handle.incr(n, n),
        lambda: handle.incr("x"),
    ]

    def everything() -> None:
        for call in provider_free:
            call()
        for call in bad:
            with pytest.raises((TypeError, ValueError)):
                call()

    def counts() -> list[int]:
        gc.collect()
        return [sys.getrefcount(each) for each in (category, metric, n, handle, stats, type(handle))]

    for _ in range(3):
        everything()
    before = counts()
    for _ in range(50):
        everything()
    assert counts() == before


def test_handles_and_registries_are_garbage_collected(shmstats: ModuleType) -> None:
    mine = shmstats.Registry()
    handle = mine.counter("c", "m")
    handle.incr()
    mine.incr("c", "n")
    mine.close()
    gone = weakref.ref(mine)
    cells = sys.getrefcount(handle)
    assert cells < 10
    del mine, handle
    gc.collect()
    assert gone() is None


def test_a_handle_may_outlive_its_registry(shmstats: ModuleType) -> None:
    handles = []
    for _ in range(3):
        mine = shmstats.Registry()
        handle = mine.counter("c", "m")
        handle.incr()
        mine.incr("c", "m")
        mine.close()
        del mine
        gc.collect()
        handles.append(handle)
    for handle in handles:
        handle.incr()
    assert {handle.value for handle in handles} == {9}


def test_ordinary_use_logs_nothing(shmstats: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shmstats.stats.incr("c", "m")
    shmstats.close()
    shmstats.stats.incr("c", "m")
    assert [record for record in caplog.records if record.name == "shmstats"] == []
