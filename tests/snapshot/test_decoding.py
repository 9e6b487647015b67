"""The content of a file: restored as a reader decodes it, and the same in both cores."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmstats.layout import NAME
from shmstats.series import Kind
from shmstats.snapshot import packing
from shmstats.snapshot.decoding import decode
from shmstats.snapshot.format import SnapshotError, _prefix

FUZZ = settings(
    derandomize=True, deadline=None, database=None, max_examples=30, suppress_health_check=list(HealthCheck)
)

KEYS = st.one_of(
    st.sampled_from(
        ["c\0m", "c\0h", "c\0h\0a\0b", "c\0m\0a\0b", "c\0m\0a\0", "c\0n\0a\0__overflow__", "c\0f", "d\0ß\0ß\0ä"]
    ),
    st.sampled_from(
        ["c", "c\0", "\0m", "c\0m\0", "c\0m\0a", "c\0m\0\0b", "c\0m\0b\0x\0a\0x", "c\0m\0a\0x\0a\0x", "c\0\ud800"]
    ),
    st.sampled_from(["c\0" + "x" * 255, "c\0" + "x" * 256, "c\0m\0a\0" + "ß" * 128, 7, None, "own\0counter"]),
    st.integers(0, 9).map("c\0n{}".format),
)
KINDS = st.one_of(st.sampled_from([1, 2, 3]), st.sampled_from([-1, -2, -3, 0, 4, 257, True, None, "1", 1.0]))
INTEGERS = st.one_of(st.integers(0, 9), st.sampled_from([2**63 - 1, 2**63, -(2**63), -1, True]))
NUMBERS = st.one_of(INTEGERS, st.sampled_from([1.5, -0.0, float("nan"), float("inf"), 1e308, None, "1"]))
COUNTS = st.lists(INTEGERS, max_size=5)
HISTOGRAMS = st.one_of(
    st.builds(list, st.tuples(NUMBERS, NUMBERS, NUMBERS, st.integers(-1, 4), COUNTS)),
    st.builds(list, st.tuples(NUMBERS, NUMBERS, COUNTS)),
)
ROWS = st.tuples(KEYS, KINDS, st.one_of(st.just(10**18), NUMBERS), st.one_of(NUMBERS, HISTOGRAMS))
DECLARED = [
    ["c", "h", "Of it.", "bytes", [1, 2, 3]],
    ["c", "m", "Of it.", "", []],
    ["c", "f", 7, "", [1]],
    ["c", "n1", "", "", "ab"],
]


@FUZZ
@given(st.lists(ROWS, max_size=20), st.sets(st.integers(0, 20)), st.booleans())
def test_c_and_the_general_code_pack_alike(rows: list[tuple[Any, ...]], carried: set[int], is_ascii: bool) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    texts = [json.dumps(column, ensure_ascii=is_ascii).encode(errors="replace") for column in columns]
    c, general = packed_by_both(texts, carried)
    assert c == general


def packed_by_both(texts: list[bytes], carried: set[int]) -> list[Any]:
    """Return the results of C and of the general code for a file with these lists."""
    if packing.bulk is None:
        pytest.skip("the C extension is not built")
    names, kinds, created, values = texts
    form = b'{"saved": 1, "values": %s, "declared": %s, "names": %s, "kinds": %s, "created": %s, "carried": %s}'
    carried_text, declared = json.dumps(sorted(carried)).encode(), json.dumps(DECLARED).encode()
    data = form % (values, declared, names, kinds, created, carried_text)
    content = _prefix(3, data) + data + b"}\n"
    found = []
    for bulk in (packing.bulk, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packing, "bulk", bulk)
            found.append(decoded(content))
    return found


def decoded(content: bytes) -> Any:
    """Return the series and values of a file, sorted, or "refused"."""
    try:
        saved = decode(Path("simple.json"), content)
    except SnapshotError:
        return "refused"
    metrics = ["", *saved.packed.metrics]
    rows = {}
    for key, record, cells in saved.packed.rows():
        state, kind, mode, flags, width, cell, family, *rest = NAME.struct.unpack(record)
        is_needed = kind == Kind.HISTOGRAM or rest[-2]  # others may have the number of their metric or none
        rows[key] = state, kind, mode, flags, width, cell, metrics[family] if is_needed else "", *rest, cells
    return rows, dict(saved.declared), sorted(map(repr, saved.left_out))


PIECES = [*'",:[]{} 0123456789.-+eE\n\\', "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\\/", "NaN"]


@FUZZ
@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_c_accepts_only_a_value_that_json_represents_exactly(pieces: list[str]) -> None:
    value = "".join(pieces)
    for column, text in enumerate((f'["c\\u0000{value}"]', f"[{value}]", f"[{value}]", f"[{value}]", f"[{value}")):
        texts = [b'["c\\u0000m"]', b"[2]", b"[0]", b"[1.5]"]
        texts[min(column, 3)] = text.encode()
        c, general = packed_by_both(texts, set())
        assert c == general


def test_a_restored_block_equals_the_file_as_a_reader_decodes_it(
    shmstats: ModuleType, attach: Callable[..., Any], tmp_path: Path
) -> None:
    fill = import_module("shmstats.attachment.restoring").fill
    prefix, number = shmstats.snapshot.format._prefix, iter(range(10**6))

    @FUZZ
    @given(st.lists(ROWS, max_size=12), st.sampled_from([2, 3]), st.sets(st.integers(0, 12), max_size=3))
    def check(rows: list[tuple[Any, ...]], version: int, carried: set[int]) -> None:
        columns = (
            dict(zip(("names", "kinds", "created", "values"), zip(*rows, strict=True), strict=True)) if rows else {}
        )
        content = dict.fromkeys(("names", "kinds", "created", "values"), ()) | columns
        text = json.dumps({**content, "declared": DECLARED, "carried": sorted(carried)}).encode()
        directory = tmp_path / str(next(number))
        (directory / "stats").mkdir(parents=True)
        file = directory / "stats" / "simple.json"
        file.write_bytes(prefix(version, text) + text + b"}\n")
        seen = shmstats.snapshot.store.load(file)
        block = attach(directory=directory)
        assert fill(block, lambda line: None) == 0
        there = block.reader.read()
        wanted = {name[:4]: (name, value) for name, value in zip(seen.names, seen.values, strict=True)}
        assert {name[:4] for name in there.names} == set(wanted)
        for name, value in zip(there.names, there.values, strict=True):
            name_saved, saved = wanted[name[:4]]
            assert (name.created, name.monotonic) == (name_saved.created, name_saved.monotonic)
            if isinstance(value, shmstats.series.Distribution):
                assert sum(value.buckets) == min(sum(saved.buckets), sum(value.buckets))
                assert (value.sum, value.max) == (saved.sum, max(saved.max, 0.0))
            else:
                assert (type(value), value) == (type(saved), saved)
        block.leave(lambda left: None)

    check()


def test_each_series_that_fits_is_restored(shmstats: ModuleType, attach: Callable[..., Any], tmp_path: Path) -> None:
    """Series are restored in order: one that is too wide does not exclude later ones."""
    series, restoring = shmstats.series, import_module("shmstats.attachment.restoring")
    restore, chance = shmstats.block.restoring.restore, random.Random(4)
    names: list[Any] = []
    values: list[Any] = []
    for number in range(400):
        labels = (("a", str(number)),)
        if chance.random() < 0.3:
            bounds = tuple(map(float, range(1, chance.choice([4, 40]))))
            names.append(series.Name("h", f"h{len(bounds)}", series.Kind.HISTOGRAM, labels, bounds=bounds))
            values.append(series.Distribution(1.0, 1.0, (1,) + len(bounds) * (0,)))
        else:
            metric = chance.choice(["m", "metric" * 9]) + str(chance.choice([number, number % 7 + 400]))
            names.append(series.Name("c", metric, series.Kind.COUNTER, labels))
            values.append(1)
    shmstats.snapshot.store.save(tmp_path / "stats", series.Snapshot(names, values))
    saved = shmstats.snapshot.store.load_newest(tmp_path / "stats")[1]
    packed = saved.packed
    together, alone = attach(directory=tmp_path / "1"), attach(directory=tmp_path / "2")
    for block in (together, alone):
        assert not restoring._declare_saved(block, saved.declared, print)
    failed = restore(together, packed)
    one_by_one = [row[0] for row in packed.rows() if restore(alone, packed.of([row]))]
    assert sorted(key for key, _ in failed) == sorted(one_by_one)
    there, wanted = together.reader.read(), alone.reader.read()
    assert sorted(zip(there.names, there.values, strict=True)) == sorted(zip(wanted.names, wanted.values, strict=True))
    keys = [row[0] for row in packed.rows()]
    assert keys.index(failed[0][0]) < max(keys.index(key) for key in keys if key not in one_by_one)


def test_a_metric_of_several_kinds_keeps_the_bounds_of_its_histograms(
    shmstats: ModuleType, attach: Callable[..., Any], tmp_path: Path
) -> None:
    data = {
        "names": ["c\0h\0a\0b", "c\0h"],
        "kinds": [3, 1],
        "created": [0, 0],
        "values": [[5.0, 3.0, 2.0, 1, [1, 1]], 7],
        "declared": [["c", "h", "", "", [1, 2, 3]]],
    }
    text = json.dumps(data).encode()
    (tmp_path / "stats").mkdir()
    file = tmp_path / "stats" / "simple.json"
    file.write_bytes(shmstats.snapshot.format._prefix(3, text) + text + b"}\n")
    block = attach(directory=tmp_path)
    assert import_module("shmstats.attachment.restoring").fill(block, print) == 0
    there = block.reader.read()
    assert dict(zip([name[1:4:2] for name in there.names], there.values, strict=True)) == {
        ("h", (("a", "b"),)): shmstats.series.Distribution(5.0, 3.0, (0, 1, 1, 0), 2.0),
        ("h", ()): 7,
    }
