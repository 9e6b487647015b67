"""The output of C equals that of Python for the same names and values: pages by bytes, files by content."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE, HOSTILE_LABELS
from hypothesis import given, settings
from hypothesis import strategies as st

from shmstats.core import bulk
from shmstats.export import FORMATS, Renderer, View
from shmstats.export.page import Pages
from shmstats.layout import NAME
from shmstats.reading import catalog as catalogs
from shmstats.reading import columns, gauges, reader
from shmstats.registry import Registry
from shmstats.series import Snapshot
from shmstats.snapshot import format as snapshots
from shmstats.snapshot.decoding import decode

plain = st.sampled_from(["requests", "hits", "open", "total", "x_total", "latency_ms", "user.login", "é"])
metrics = plain | st.sampled_from(HOSTILE)
categories = st.sampled_from(["api", "web", "a.b", 'quo"te\\\n', "prometheus_client", "日本語"])
label_names = st.sampled_from(["method", "route", "le", "a_b"]) | st.sampled_from(HOSTILE_LABELS)
label_values = st.sampled_from(["", "GET", "é\n", 'a"\\b', "🙂"])
labels = st.none() | st.dictionaries(label_names, label_values, max_size=2)
reals = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 0.1, 1e15, 1e16, 1e-5, 2.0**-44])
numbers = st.integers(-(2**63), 2**63 - 1)
modes = st.sampled_from(["max", "liveall", "sum", "livesum", "min"])
texts = st.sampled_from(["", "Help.", '%d "\\\n'])
steps = st.one_of(
    st.tuples(st.just("incr"), categories, metrics, st.integers(0, 2**62), labels),
    st.tuples(st.just("incr"), categories, metrics, st.integers(0, 2**62), labels),
    st.tuples(st.just("decr"), categories, metrics, st.integers(1, 9), labels),
    st.tuples(st.just("gauge"), categories, metrics, numbers | reals, labels),
    st.tuples(st.just("timing"), categories, metrics, st.floats(0, 1e6), labels),
    st.tuples(st.just("remove"), categories, metrics),
    st.tuples(st.just("timestamp"), categories, metrics),
    st.tuples(st.just("declare"), categories, metrics, st.just("counter"), texts, st.sampled_from(["", "bytes", "é"])),
    st.tuples(st.just("declare"), categories, metrics, st.just("gauge"), texts, modes),
    st.tuples(st.just("declare"), categories, metrics, st.just("histogram"), texts, st.sampled_from(["", "bytes"])),
    st.tuples(st.just("declare"), categories, metrics, st.just("buckets"), texts, st.just((1.0, 2.5, 1000.0))),
)
views = st.builds(
    View,
    escaping=st.sampled_from([None, "underscores", "allow-utf-8", "dots"]),
    names=st.just(frozenset())
    | st.sampled_from([frozenset({"requests_total"}), frozenset({"hits", "uptime_seconds"})]),
    namespace=st.sampled_from(["", "shop"]),
    labels=st.sampled_from([(), (("method", "x"),), (("env", 'p"'), ("zone", "a"))]),
)
figures = st.just({}) | st.just({"uptime": 3, "cpu": 12.5, "gc": 1})


def do(stats: Registry, step: tuple[Any, ...]) -> None:
    """Do a step; an impossible one has no effect."""
    what, category, metric, *rest = step
    try:
        if what == "declare":
            kind, help_, more = rest
            named = {"gauge": {"mode": more}, "buckets": {"buckets": more}}.get(kind, {"unit": more})
            stats.declare(category, metric, kind="histogram" if kind == "buckets" else kind, help=help_, **named)
        elif what in ("remove", "timestamp"):
            getattr(stats, what)(category, metric)
        else:
            getattr(stats, what)(category, metric, rest[0], labels=rest[1])
    except (ValueError, TypeError):
        return


pytestmark = pytest.mark.skipif(bulk is None, reason="the C extension is not built")


def read_in_python(stats: Registry) -> Snapshot:
    """Read a block with none of the functions that only C has."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (columns, gauges, reader, catalogs):
            patch.setattr(module, "bulk", None)
        return stats.read()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(steps, max_size=12), min_size=1, max_size=3), st.lists(views, min_size=1, max_size=2), figures)
def test_page_and_file_of_a_block_equal_those_of_its_names_and_values(
    rounds: list[list[tuple[Any, ...]]], asked: list[View], system: dict[str, float]
) -> None:
    renderer, stats = Renderer(), Registry()
    with tempfile.TemporaryDirectory() as data:
        stats.init({"path": {"data": data}, "stats": {"persist": False, "capacity": 300}})
        try:
            for some in rounds:
                for step in some:
                    do(stats, step)
                read = stats.read()
                plain = read_in_python(stats)
                same = Snapshot(list(plain.names), list(plain.values), system)
                shown = read.replaced(system=system)
                assert saved(read) == saved(same)
                for view in asked:
                    for name in ("text", "text_utf8", "openmetrics"):
                        assert getattr(renderer, name)(shown, view) == getattr(Renderer(), name)(same, view)
        finally:
            stats.close()


def saved(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot as it is read back from its file."""
    found = decode(Path("simple.json"), b"".join(snapshots.encode(snapshot)))
    assert not found.left_out
    return found.snapshot


@given(st.floats())
def test_a_number_is_written_as_python_writes_it(number: float) -> None:
    bits = memoryview(bytearray(24))
    bits.cast("Q")[0] = 1 << 32
    bits.cast("d")[2] = number
    places = b"".join(number.to_bytes(4, "little") for number in (0, 0, 1, 0))
    assert bulk.fill_text(((b"", places),), bits) == repr(number).encode() + b"\n"


def test_damaged_records_are_never_grouped_or_written() -> None:
    chance = random.Random(5)
    stats = Registry()
    with tempfile.TemporaryDirectory() as data:
        stats.init({"path": {"data": data}, "stats": {"persist": False, "capacity": 300}})
        for number in range(8):
            stats.incr(f"c{number % 2}", "total" if number > 5 else f"m{number}", labels={"a": "é", "b": str(number)})
        catalog = stats.read().names.catalog
        stats.close()
    refused = 0
    for _ in range(400):
        records, heap = bytearray(catalog.records), bytearray(catalog.heap)
        for _ in range(chance.randint(1, 3)):
            target = chance.choice((records, heap))
            target[chance.randrange(len(target))] = chance.randrange(256)
        found = outcome(bulk.group_series, bytes(records), bytes(heap), b"")
        if isinstance(found, str):
            refused += 1
        else:
            group_of = memoryview(found[0]).cast("I")
            for number, group in enumerate(group_of):
                if group < len(found[1]) // 12:
                    fields = NAME.struct.unpack_from(records, number * NAME.size)
                    parts = heap[fields[9] : fields[9] + fields[11]].decode().split("\0")
                    assert len(parts) % 2 == 0
        lines = ((b"x{c=", b"", b"y{c="),) * (len(catalog.groups) + 1)
        outcome(bulk.plan_text, bytes(records), bytes(heap), catalog.group_of, bytes(4 * len(lines)), lines, (b"#",))
    assert 20 < refused < 400


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call, or the text of its error."""
    try:
        return call(*arguments)
    except (BufferError, ValueError) as error:
        return str(error)


@pytest.mark.parametrize("wrong", ["text", "places", "totals"])
def test_values_are_written_only_into_existing_places(wrong: str) -> None:
    places = b"".join(number.to_bytes(4, "little") for number in (2, 0, 0, 0))
    given = {"text": b"x ", "places": places, "totals": bytes(16)}
    damaged = {**given, wrong: given[wrong][:-1]}
    before, behind = (b"a\n", b""), (b"b\n", b"")
    assert bulk.fill_text((before, (given["text"], places), behind), given["totals"]) == b"a\nx 0\nb\n"
    with pytest.raises(ValueError, match="do not fit together"):
        bulk.fill_text((before, (damaged["text"], damaged["places"])), damaged["totals"])


def test_every_format_of_a_block_equals_that_of_its_names_and_values() -> None:
    stats = Registry()
    with tempfile.TemporaryDirectory() as data:
        stats.init({"path": {"data": data}, "stats": {"persist": False, "capacity": 300}})
        stats.incr("a", "n", 3)
        stats.timing("a", "t", 12.5)
        stats.gauge("a", "g", 1.5)
        read = stats.read()
        same = Snapshot(list(read.names), list(read.values))
        for name, form in FORMATS.items():
            assert form.render(read, View()) == form.render(same, View()), name
        stats.close()


def test_a_page_that_goes_on_with_new_names_equals_a_new_page() -> None:
    """Combined gauges are named after all others: here one whose name a counter takes that is added later."""
    stats, pages = Registry(), Pages()
    with tempfile.TemporaryDirectory() as data:
        stats.init({"path": {"data": data}, "stats": {"persist": False}})
        stats.declare("a", "hits_total", kind="gauge", mode="max")
        stats.gauge("a", "hits_total", 7)
        found = []
        for metric in ("other", "hits", "hits-total", "last"):
            stats.incr("a", metric, labels={"at": metric})
            snapshot = stats.read()
            page, new = (each.of(snapshot, View(), "underscores") for each in (pages, Pages()))
            found.append([(each.position, each.series.family.name, each.series.labels) for each in page.members])
            assert found[-1] == [(each.position, each.series.family.name, each.series.labels) for each in new.members]
        stats.close()
    assert [name for _, name, _ in found[0]][-1] == "hits_total"
    assert [name for _, name, _ in found[1]][-1] == "hits_total_value"


def test_a_page_that_goes_on_has_no_help_of_a_gauge_that_is_gone() -> None:
    """Metrics of several categories share a family, which the first one that has a help describes."""
    stats, pages = Registry(), Pages()
    with tempfile.TemporaryDirectory() as data:
        stats.init({"path": {"data": data}, "stats": {"persist": False}})
        stats.gauge("a", "depth", 1)

        def described() -> str:
            snapshot = stats.read()
            page, new = (each.of(snapshot, View(), "underscores") for each in (pages, Pages()))
            found = [[family.help for family in each.families()] for each in (page, new)]
            assert found[0] == found[1]
            return next(family.help for family in page.families() if family.name == "depth")

        assert described() == "Current value of depth."
        stats.declare("b", "depth", kind="gauge", mode="max", help="Of b.")
        stats.gauge("b", "depth", 2)
        assert described() == "Of b."
        stats.declare("c", "depth", kind="gauge", help="Of c.")
        stats.gauge("c", "depth", 3)
        assert described() == "Of c."
        stats.remove("b", "depth")
        stats.incr("a", "other")
        assert described() == "Of c."
        stats.close()
