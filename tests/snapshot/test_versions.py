"""Snapshots of every version are read; only invalid parts of one are left out.

The files in ``versions`` were saved by the released writers of these versions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

VERSIONS = sorted((Path(__file__).parent / "versions").iterdir())

pytestmark = pytest.mark.far_from_core


def put(data: Path, content: bytes) -> None:
    (data / "stats").mkdir(parents=True)
    (data / "stats" / "simple.json").write_bytes(content)


@pytest.mark.parametrize("file", VERSIONS, ids=lambda file: file.stem)
def test_a_snapshot_of_each_version_is_restored_completely(
    shmstats: ModuleType, data: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(data, file.read_bytes())
    stats = shmstats.stats
    assert stats.get("shop", "visits") == 42
    assert stats.get("shop", "orders", labels={"country": "fr", "kind": "gift"}) == 7
    assert stats.get("shop", "orders", labels={"country": "", "kind": "größe"}) == 3
    assert stats.get("shop", "balance") == 7
    assert stats.get("shop", "temperature") == -2.5
    assert stats.get("shop", "queue") == 9
    page = stats.get("shop", "page")
    assert (page.sum, page.max, page.count) == (100320.5, 99999, 4)
    assert stats.get("shop", "size", labels={"to": "a"}).buckets == (0, 0, 1, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    names = {(name.category, name.metric): name for name in stats.read().names}
    assert names["shop", "visits"].monotonic
    assert not names["shop", "balance"].monotonic
    assert names["shop", "size"].bounds == (1.0, 10.0, 100.0)


@pytest.mark.parametrize("file", VERSIONS, ids=lambda file: file.stem)
def test_histograms_of_each_version_continue_in_the_current_buckets(
    shmstats: ModuleType, data: Path, file: Path
) -> None:
    put(data, file.read_bytes())
    stats = shmstats.stats
    page = stats.get("shop", "page")
    assert [count for count in page.buckets if count] == [1, 1, 1, 1]
    assert len(page.buckets) == 162
    (carried,) = {name.carried for name in stats.read().names if name.metric == "page"}
    assert carried == (file.stem != "version-3")
    stats.timing("shop", "page", 7)
    (unit,) = {name.unit for name in stats.read().names if name.metric == "size"}  # version 1 had no unit: ms
    stats.declare("shop", "size", kind="histogram", unit=unit, help="Size of it.")
    stats.timing("shop", "size", 2.5, labels={"to": "a"})
    size = stats.get("shop", "size", labels={"to": "a"})
    assert (size.count, size.sum, size.max, len(size.buckets)) == (2, 52.5, 50.0, 250 if unit else 162)
    stats.declare("shop", "page", kind="histogram", buckets=(1, 10, 1000))
    assert (stats.get("shop", "page").count, len(stats.get("shop", "page").buckets)) == (5, 4)
    stats.close()
    assert (stats.get("shop", "page").count, stats.get("shop", "size", labels={"to": "a"}).sum) == (5, 52.5)


def test_a_series_that_is_there_twice_in_different_escapes_is_restored_once(
    shmstats: ModuleType, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists = b'"values": [5, 6], "declared": [], "names": ["c\\u0000\xc3\xa9", "c\\u0000\\u00e9"], "kinds": [1, 1]'
    content = b'{"saved": 1, %s, "created": [0, 0]}' % lists
    put(data, shmstats.snapshot.format._prefix(3, content) + content + b"}\n")
    assert shmstats.stats.get("c", "é") == 5
    assert [name.metric for name in shmstats.stats.read().names if name.category == "c"] == ["é"]
    assert "it is there twice" in caplog.text


def test_creation_times_survive_a_restart(stats: Any) -> None:
    stats.incr("c", "m", labels={"l": "x"})
    before = {name[:4]: name.created for name in stats.read().names}
    stats.close()
    assert {name[:4]: name.created for name in stats.read().names} == before
    assert all(before.values())


Change = Callable[[dict[str, Any], int], None]


def _set(column: str, value: Any) -> Change:
    def change(content: dict[str, Any], at: int) -> None:
        content[column][at] = value

    return change


WRONG: dict[str, Change] = {
    "an unknown kind": _set("kinds", 77),
    "a kind that is no number": _set("kinds", "1"),
    "a timestamp": _set("kinds", 4),
    "a label name twice": _set("names", "c\0bad\0l\0x\0l\0y"),
    "half a label": _set("names", "c\0bad\0l"),
    "no metric": _set("names", "c"),
    "an empty category": _set("names", "\0bad"),
    "a lone surrogate": _set("names", "c\0bad\ud800"),
    "a name that is too long": _set("names", "c\0" + "x" * 300),
    "a name that is a number": _set("names", 7),
    "a counter of 2^70": _set("values", 2**70),
    "a counter that is a text": _set("values", "many"),
    "a counter that is a float": _set("values", 1.5),
    "a counter that is none": _set("values", None),
    "a counter that is a histogram": _set("values", [1.0, 1.0, [1]]),
    "a name of another series": _set("names", "c\0good"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_invalid_series_alone_is_left_out_and_its_file_is_kept(
    shmstats: ModuleType, data: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    stats = shmstats.stats
    stats.incr("c", "good", 5)
    stats.incr("c", "bad", 6)
    stats.close()
    content = json.loads((data / "stats" / "simple.json").read_bytes())["data"]
    WRONG[wrong](content, content["names"].index("c\0bad"))
    # The checksum is right: only the content is wrong.
    whole = json.dumps(content).encode()
    (data / "stats" / "simple.json").write_bytes(shmstats.snapshot.format._prefix(3, whole) + whole + b"}\n")
    assert stats.get("c", "good") == 5
    assert stats.get("c", "bad") == 0
    (message,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert message.startswith("1 series of snapshot")
    assert len(list((data / "stats").glob("simple.json.unrestored-*"))) == 1
    stats.incr("c", "bad")
    stats.close()
    assert stats.get("c", "bad") == 1


def test_invalid_declarations_are_ignored_where_the_block_is_too_small_for_all_series(
    shmstats: ModuleType, data: Path
) -> None:
    names = [f"c\0m\0a\0{number}" for number in range(300)]
    wrong = ["", "\ud800", "c\0m", "x" * 300, 7, None, []]
    declared = [
        *wrong,
        *([category, "m", "", "", []] for category in wrong),
        *(["c", each, "", "", []] for each in wrong),
    ]
    content = {"names": names, "values": [5] * 300, "kinds": [1] * 300, "created": [0] * 300, "declared": declared}
    whole = json.dumps({"saved": 1} | content).encode()
    (data / "stats").mkdir(parents=True)
    (data / "stats" / "simple.json").write_bytes(shmstats.snapshot.format._prefix(3, whole) + whole + b"}\n")
    shmstats.stats.init({"path": {"data": str(data)}, "stats": {"capacity": 256}})
    assert shmstats.stats.get("c", "m", labels={"a": "7"}) == 5


@pytest.mark.parametrize("bounds", [[float("nan")], [float("inf"), 1.0], [2.0, 1.0], ["x"], "ab", None, [1e400] * 300])
def test_invalid_bounds_leave_out_only_their_histogram(
    shmstats: ModuleType, data: Path, bounds: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stats = shmstats.stats
    stats.incr("c", "good", 5)
    stats.timing("c", "t", 3)
    stats.close()
    content = json.loads((data / "stats" / "simple.json").read_bytes())["data"]
    for entry in content["declared"]:
        if entry[:2] == ["c", "t"]:
            entry[4] = bounds
    text = json.dumps(content).encode()
    (data / "stats" / "simple.json").write_bytes(shmstats.snapshot.format._prefix(3, text) + text + b"}\n")
    assert stats.get("c", "good") == 5
    assert stats.get("c", "t") == 0
    assert "1 series of snapshot" in caplog.text


def test_a_snapshot_of_a_later_version_is_set_aside_and_named(
    shmstats: ModuleType, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(data, b'{"version": 99, "checksum": "x", "data": {}}\n')
    assert shmstats.stats.get("c", "m") == 0
    assert "a later version of shmstats has saved it" in caplog.text
    assert len(list((data / "stats").glob("simple.json.damaged-*"))) == 1
