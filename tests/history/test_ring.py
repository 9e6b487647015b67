"""The ring file after a killed writer, on a full disk, and replaced by another file."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PythonRunner

import shmstats
from shmstats.history.past import Query, read_past
from shmstats.history.recorder import HistoryRecorder
from shmstats.history.ring import (
    COLUMNS,
    MINUTES,
    PLACE,
    SECONDS,
    SIZE,
    Event,
    Ring,
    RingError,
    RingRow,
    make_ring,
    ring_file,
)

NOW = 1_700_000_000


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    """A new ring."""
    ring = make_ring(tmp_path / "stats" / "history.ring")
    yield ring
    ring.close()


def row(*values: float) -> "array[float]":
    return array("f", values)


def test_a_row_is_read_as_it_was_written_with_gaps_left_out(ring: Ring) -> None:
    ring.write_row(SECONDS, NOW, 1.0, row(1, 2.5))
    ring.write_row(SECONDS, NOW + 2, 2.5, row(3))
    assert ring.read_rows(SECONDS, NOW - 5, NOW + 5) == [RingRow(NOW, 1.0, row(1, 2.5)), RingRow(NOW + 2, 2.5, row(3))]


def test_a_row_of_the_previous_lap_is_not_taken_for_a_current_one(ring: Ring) -> None:
    ring.write_row(SECONDS, NOW - SECONDS.rows, 1.0, row(1))
    assert len(ring.read_rows(SECONDS, NOW, NOW)) == 0


def test_a_half_written_row_is_a_gap(ring: Ring) -> None:
    ring.write_row(SECONDS, NOW, 1.0, row(*range(100)))
    with open(ring.file, "r+b") as file:
        file.seek(SECONDS.place(NOW) + 100)
        file.write(b"torn")
    assert len(ring.read_rows(SECONDS, NOW, NOW)) == 0


def test_the_file_has_a_fixed_size_of_at_most_32_mib(ring: Ring) -> None:
    for number in range(NOW, NOW + 2 * SECONDS.rows, 97):
        ring.write_row(SECONDS, number, 1.0, row(*[0.0] * COLUMNS))
        ring.write_row(MINUTES, number, 60.0, row(*[0.0] * COLUMNS))
    assert ring.file.stat().st_size <= SIZE <= 32 * 2**20


def test_half_written_tracks_leave_the_previous_tracks(ring: Ring) -> None:
    ring.write_tracks(["first"])
    ring.write_tracks(["second"])
    content = ring.file.read_bytes()
    with open(ring.file, "r+b") as file:
        file.seek(content.index(b'["second"]'))
        file.write(b"?")
    assert ring.read_tracks() == ["first"]


TRACK = ["c", "m", [["a", "b"]], 3, [1.0, 2.0], "", 0, 0]


@pytest.mark.parametrize(
    "tracks",
    [
        "text", 7, {"a": 1}, [7], [[]],
        [TRACK, ["other", *TRACK[1:]]],
        *([*TRACK[:at], wrong, *TRACK[at + 1 :]] for at, wrong in [
            (0, 7), (1, None), (2, [["a"]]), (2, [[1, "b"]]), (3, 99), (4, [2.0, 1.0]), (4, [float("nan")]), (5, []),
            (6, -1), (6, COLUMNS), (6, 0.5), (7, "x"),
        ]),
    ],
)  # fmt: skip
def test_impossible_tracks_are_damage_to_a_reader_and_replaced_by_a_writer(tmp_path: Path, tracks: Any) -> None:
    ring = make_ring(ring_file(tmp_path))
    ring.write_tracks(tracks if not isinstance(tracks, list) or len(tracks) < 8 else [tracks])
    with pytest.raises(RingError, match="damaged"):
        read_past(tmp_path, Query.made())
    recorder = HistoryRecorder(tmp_path, ())
    recorder._open()
    assert recorder._tracks.tracks == {}
    recorder.close()
    ring.close()


def test_a_head_of_tracks_that_marks_zeros_as_complete_is_damage(ring: Ring, tmp_path: Path) -> None:
    with open(ring.file, "r+b") as file:
        file.seek(4096)
        file.write(PLACE.struct.pack(3, 0, 3))
    with pytest.raises(RingError, match="damaged"):
        read_past(tmp_path, Query.made())


@pytest.mark.slow
def test_events_are_kept_in_order_and_the_oldest_are_replaced(ring: Ring) -> None:
    for number in range(1, 601):
        ring.add_event(Event(number, "kill", f"worker {number} <b>"))
    events = ring.events()
    assert len(events) == 512
    assert events[0] == Event(89, "kill", "worker 89 <b>")
    assert events[-1].time == 600
    assert len(ring.events(590)) == 10


def test_a_file_that_is_not_a_ring_is_refused_by_a_reader_and_replaced_by_a_writer(tmp_path: Path) -> None:
    file = tmp_path / "history.ring"
    file.write_bytes(b"not a ring")
    with pytest.raises(RingError, match=r"history\.ring is not a history"):
        Ring(file)
    make_ring(file).close()
    Ring(file).close()


def test_a_truncated_file_is_read_as_gaps(ring: Ring) -> None:
    ring.write_row(SECONDS, NOW, 1.0, row(1))
    os.truncate(ring.file, 4096)
    assert len(ring.read_rows(SECONDS, NOW - 900, NOW)) == 0
    assert ring.events() == []
    assert ring.read_tracks() is None


WRITER = f"""
import itertools, sys
from array import array
from pathlib import Path
from shmstats.history.ring import SECONDS, make_ring

ring = make_ring(Path(sys.argv[1]))
for count in itertools.count():
    number = {NOW} + count % 900
    ring.write_row(SECONDS, number, 1.0, array("f", [number % 1000]) * 3000)
    if count == 50:
        print("going", flush=True)
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_whole_rows(ring: Ring, tmp_path: Path) -> None:
    runner = PythonRunner(tmp_path, Path(shmstats.__file__).parents[1])
    for _ in range(3):
        child = runner.start(WRITER, ring.file)
        child.hear()
        child.kill()
        rows = ring.read_rows(SECONDS, NOW, NOW + 899)
        assert len(rows) > 40
        for number, _, values in rows:
            assert set(values) == {number % 1000}
    runner.kill_all()
