"""The form of the ring file ``history.ring``: fixed in size, written by one process, read by any::

     offset 0
    +--------+----------+----------+------------+------------+------------+
    | header | tracks A | tracks B | events     | 900 rows   | 1440 rows  |
    | 1 page | 512 KiB  | 512 KiB  | 128 B each | a second   | a minute   |
    +--------+----------+----------+------------+------------+------------+

header
    A `HEADER`. A file whose header is another one is replaced.
``tracks``
    Which series are in which columns, as JSON (`shmstats.history.tracks`). Written to the older of two places, each
    with a number and a checksum, so that one of them is whole at every moment.
``events``
    What happened to the processes: an `EVENT` each, in a ring of their own.
``rows``
    A `ROW` and after it its columns as 4-byte floats. The row of second (or minute) ``n`` since 1970 is at ``n``
    modulo the rows of its tier: a row with another number is one of long ago, or was never written. What a column
    has no value for is NaN.

A writer that is killed leaves a row whose checksum does not fit; readers take it for a gap. The file is written by
pwrite(2) and read by pread(2), not through a mapping: one that is truncated, or for which the disk has no room, costs
rows, but kills nobody by SIGBUS. Nothing is synced: after a power loss the last seconds may be missing.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import numpy as np

from ..snapshot import make_private

if TYPE_CHECKING:
    import numpy.typing as npt

FILE = "history.ring"

#: Columns of a row. A counter or gauge takes one, a histogram two more than it has buckets.
COLUMNS = 3072

_MAGIC = int.from_bytes(b"shmsring", "little")
_VERSION = 1

HEADER = np.dtype([("magic", "<u8"), ("version", "<u4"), ("columns", "<u4"), ("made", "<u8")])

#: Before each copy of the tracks.
PLACE = np.dtype([("number", "<u8"), ("length", "<u4"), ("checksum", "<u4")])

EVENT = np.dtype([("time", "<u8"), ("checksum", "<u4"), ("length", "<u2"), ("kind", "S10"), ("text", "S104")])

ROW = np.dtype(
    [
        ("number", "<u8"),  # seconds or minutes since 1970
        ("span", "<u4"),  # ms that its deltas cover
        ("columns", "<u4"),  # that are in use
        ("checksum", "<u4"),  # of what is before it and of the columns
        ("spare", "<u4"),
    ]
)

_PAGE = 4096
_TRACKS_BYTES = 2**19
_EVENTS = 512
_ROW_BYTES = ROW.itemsize + 4 * COLUMNS


@dataclass(frozen=True)
class Tier:
    """One resolution of the ring.

    Attributes:
        step: seconds from one row to the next.
        rows: how many there are.
        offset: of the first in the file.
    """

    step: int
    rows: int
    offset: int

    @property
    def end(self) -> int:
        """Offset behind the last row."""
        return self.offset + self.rows * _ROW_BYTES

    def place(self, number: int) -> int:
        """Return the offset of the row of second or minute ``number``."""
        return self.offset + number % self.rows * _ROW_BYTES


_TRACKS = (_PAGE, _PAGE + _TRACKS_BYTES)
_EVENTS_OFFSET = _TRACKS[1] + _TRACKS_BYTES
SECONDS = Tier(1, 900, _EVENTS_OFFSET + _EVENTS * EVENT.itemsize)
MINUTES = Tier(60, 1440, SECONDS.end)

#: Bytes of the file.
SIZE = MINUTES.end


class RingError(Exception):
    """A file that is no ring of this version; the message says which."""


class Event(NamedTuple):
    """Something that happened to the processes of the application.

    Attributes:
        time: ns since 1970.
        kind: ``start``, ``restart``, ``reload``, ``exit``, ``kill`` or ``timeout``.
        text: for people.
    """

    time: int
    kind: str
    text: str


@dataclass(frozen=True)
class Rows:
    """Rows of one tier, ascending; those that are missing or torn are left out.

    Attributes:
        numbers: of each row, in steps of the tier since 1970.
        spans: seconds that the deltas of each cover.
        values: float32, shape (rows, `COLUMNS`); NaN where there is no value.
    """

    numbers: npt.NDArray[np.int64]
    spans: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]


def ring_file(data: Path) -> Path:
    """Return the path of a data directory's ring."""
    return data / "stats" / FILE


class Ring:
    """An open ring file.

    Args:
        fd: descriptor of the file, which `close` closes.
        file: its path, for messages.

    Raises:
        RingError: it is none.
    """

    def __init__(self, fd: int, file: Path) -> None:
        self._fd = fd
        self.file = file
        content = os.pread(fd, HEADER.itemsize, 0)
        found = np.frombuffer(content, HEADER)[0] if len(content) == HEADER.itemsize else None
        if found is None or (found["magic"], found["version"], found["columns"]) != (_MAGIC, _VERSION, COLUMNS):
            raise RingError(f"{file} is not a history of this version of shmstats")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def is_current(self) -> bool:
        """Tell whether this is still the file of its name: somebody may have deleted it."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.file, follow_symlinks=False))
        except OSError:
            return False

    # Tracks -----------------------------------------------------------------------------------

    def read_tracks(self) -> Any:
        """Return the newest tracks that are whole, as JSON has them; None where there are none.

        Raises:
            ValueError: they are no JSON.
        """
        number, text = self._newest_tracks()
        return json.loads(text) if number else None

    def write_tracks(self, document: Any) -> None:
        """Replace the older copy of the tracks.

        Raises:
            OSError: the disk has no room.
            ValueError: they are too long for the file.
        """
        text = json.dumps(document, separators=(",", ":")).encode()
        if len(text) > _TRACKS_BYTES - PLACE.itemsize:
            raise ValueError(f"{len(text)} bytes of names do not fit into {self.file}")
        number = self._newest_tracks()[0] + 1
        head = np.array([(number, len(text), crc32(text, number & 0xFFFFFFFF))], PLACE)
        _write(self._fd, head.tobytes() + text, _TRACKS[number % 2])

    def _newest_tracks(self) -> tuple[int, bytes]:
        newest = 0, b""
        for offset in _TRACKS:
            head = os.pread(self._fd, PLACE.itemsize, offset)
            if len(head) < PLACE.itemsize:
                continue
            number, length, checksum = np.frombuffer(head, PLACE)[0].item()
            if number > newest[0] and length <= _TRACKS_BYTES:
                text = os.pread(self._fd, length, offset + PLACE.itemsize)
                if crc32(text, number & 0xFFFFFFFF) == checksum:
                    newest = number, text
        return newest

    # Events -----------------------------------------------------------------------------------

    def add_event(self, event: Event) -> None:
        """Write an event over the oldest one.

        Raises:
            OSError: the disk has no room.
        """
        text = event.text.encode(errors="replace")[: EVENT["text"].itemsize]
        record = np.zeros(1, EVENT)
        record["time"], record["length"], record["kind"], record["text"] = event.time, len(text), event.kind, text
        record["checksum"] = _checksum(record)
        events = self._events()
        at = int(np.argmin(np.where(_sound(events), events["time"], 0)))
        _write(self._fd, record.tobytes(), _EVENTS_OFFSET + at * EVENT.itemsize)

    def events(self, since: int = 0) -> list[Event]:
        """Return the events after a moment in ns since 1970, oldest first."""
        events = self._events()
        chosen = np.sort(events[_sound(events) & (events["time"] > since)], order="time")
        return [
            Event(int(each["time"]), each["kind"].decode(), each["text"][: each["length"]].decode(errors="replace"))
            for each in chosen
        ]

    def _events(self) -> npt.NDArray[Any]:
        size = _EVENTS * EVENT.itemsize
        return np.frombuffer(os.pread(self._fd, size, _EVENTS_OFFSET).ljust(size, b"\0"), EVENT)

    # Rows -------------------------------------------------------------------------------------

    def write_row(self, tier: Tier, number: int, span: float, values: npt.NDArray[np.float32]) -> None:
        """Write the row of second or minute ``number``.

        Args:
            tier: where.
            number: in steps of the tier since 1970.
            span: seconds that the deltas cover.
            values: of the columns in use.

        Raises:
            OSError: the disk has no room.
        """
        head = np.zeros(1, ROW)
        head["number"], head["span"], head["columns"] = number, round(span * 1000), len(values)
        content = values.tobytes()
        head["checksum"] = crc32(content, crc32(head.tobytes()))
        _write(self._fd, head.tobytes() + content, tier.place(number))

    def read_rows(self, tier: Tier, first: int, last: int) -> Rows:
        """Return the rows of seconds or minutes ``first`` to ``last``, both included."""
        first = max(first, last - tier.rows + 1)
        found = [row for number in range(first, last + 1) if (row := self._row(tier, number)) is not None]
        values = np.full((len(found), COLUMNS), np.nan, np.float32)
        for i, (_, _, columns) in enumerate(found):
            values[i, : len(columns)] = columns
        numbers = np.array([number for number, _, _ in found], np.int64)
        return Rows(numbers, np.array([span for _, span, _ in found], np.float64), values)

    def has_row(self, tier: Tier, number: int) -> bool:
        """Tell whether there is a whole row of second or minute ``number``."""
        return self._row(tier, number) is not None

    def _row(self, tier: Tier, number: int) -> tuple[int, float, npt.NDArray[np.float32]] | None:
        place = tier.place(number)
        content = os.pread(self._fd, ROW.itemsize, place)
        if len(content) < ROW.itemsize:
            return None
        head = np.frombuffer(content, ROW).copy()
        columns = int(head["columns"][0])
        if int(head["number"][0]) != number or columns > COLUMNS:
            return None
        values = os.pread(self._fd, 4 * columns, place + ROW.itemsize)
        checksum, head["checksum"] = int(head["checksum"][0]), 0
        if len(values) != 4 * columns or crc32(values, crc32(head.tobytes())) != checksum:
            return None
        return number, int(head["span"][0]) / 1000, np.frombuffer(values, np.float32)


def open_ring(file: Path) -> Ring:
    """Open a ring for reading.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        RingError: it is none.
    """
    return _opened(file, os.O_RDONLY)


def make_ring(file: Path) -> Ring:
    """Open a ring for writing; make it where there is none, or one of another version.

    Raises:
        OSError: it cannot be made or written.
    """
    try:
        return _opened(file, os.O_RDWR)
    except (FileNotFoundError, RingError):
        pass
    make_private(file.parent)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600)
    try:
        os.ftruncate(fd, SIZE)
        _write(fd, np.array([(_MAGIC, _VERSION, COLUMNS, time.time_ns())], HEADER).tobytes(), 0)
        os.replace(temporary, file)
        return Ring(fd, file)
    except BaseException:
        os.close(fd)
        raise


def _opened(file: Path, flags: int) -> Ring:
    fd = os.open(file, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return Ring(fd, file)
    except BaseException:
        os.close(fd)
        raise


def _checksum(records: npt.NDArray[Any]) -> int:
    plain = records.copy()
    plain["checksum"] = 0
    return crc32(plain.tobytes())


def _sound(events: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which events are whole."""
    sound: npt.NDArray[np.bool_] = events["time"] != 0
    for i in np.flatnonzero(sound).tolist():
        sound[i] = _checksum(events[i : i + 1]) == events["checksum"][i]
    return sound


def _write(fd: int, content: bytes, offset: int) -> None:
    written = 0
    while written < len(content):
        written += os.pwrite(fd, content[written:], offset + written)
