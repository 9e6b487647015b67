"""The ring file ``history.ring``: fixed in size, written by one process, read by any. `Ring` has its layout.

It is written by pwrite(2) and read by pread(2), not mapped: if it is truncated or the disk is full, rows are
lost, but no process dies of SIGBUS. It is never synced: after a power loss the last seconds may be missing.
"""

from __future__ import annotations

import json
import math
import os
import time
from array import array
from pathlib import Path
from typing import Any
from zlib import crc32

from ..block.identity import make_directory
from ..descriptors import open_file
from ..frozen import Frozen, NamedTuple
from ..layout import Structure

FILE = "history.ring"

#: Columns of a row. A counter or gauge takes one, a histogram two more than it has buckets.
COLUMNS = 3072

_MAGIC = int.from_bytes(b"shmsring", "little")
_VERSION = 1

HEADER = Structure({"magic": "Q", "version": "I", "columns": "I", "made": "Q"})

#: Before each copy of the tracks.
PLACE = Structure({"number": "Q", "length": "I", "checksum": "I"})

EVENT = Structure({"time": "Q", "checksum": "I", "length": "H", "kind": "10s", "text": "104s"})

ROW = Structure(
    {
        "number": "Q",  # seconds or minutes since 1970
        "span": "I",  # ms that its deltas cover
        "columns": "I",  # that are in use
        "checksum": "I",  # of the fields before it and of the columns
        "spare": "I",
    }
)

_PAGE = 4096
_TRACKS_BYTES = 2**19
_EVENTS = 512
_ROW_BYTES = ROW.size + 4 * COLUMNS


class Tier(Frozen):
    """One resolution of the ring.

    Attributes:
        step: seconds from one row to the next.
        rows: number of rows.
        offset: of the first row in the file.
    """

    step: int
    rows: int
    offset: int

    @property
    def end(self) -> int:
        """Offset after the last row."""
        return self.offset + self.rows * _ROW_BYTES

    def place(self, number: int) -> int:
        """Return the offset of the row of second or minute ``number``."""
        return self.offset + number % self.rows * _ROW_BYTES


_TRACKS = (_PAGE, _PAGE + _TRACKS_BYTES)
_EVENTS_OFFSET = _TRACKS[1] + _TRACKS_BYTES
SECONDS = Tier(1, 900, _EVENTS_OFFSET + _EVENTS * EVENT.size)
MINUTES = Tier(60, 1440, SECONDS.end)

#: Bytes of the file.
SIZE = MINUTES.end


class RingError(Exception):
    """A file that is not a ring of this version; the message names it."""


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


class RingRow(NamedTuple):
    """A row of one tier.

    Attributes:
        number: in steps of the tier since 1970.
        span: seconds that its deltas cover.
        values: of the columns that were in use, as 4-byte floats; NaN for no value.
    """

    number: int
    span: float
    values: array[float]

    def blank(self, first: int, width: int) -> None:
        """Clear the values of some columns."""
        for column in range(first, min(first + width, len(self.values))):
            self.values[column] = math.nan


def ring_file(data: Path) -> Path:
    """Return the path of a data directory's ring."""
    return data / "stats" / FILE


class Ring:
    """An open ring file::

         offset 0
        +--------+----------+----------+------------+------------+------------+
        | header | tracks A | tracks B | events     | 900 rows   | 1440 rows  |
        | 1 page | 512 KiB  | 512 KiB  | 128 B each | a second   | a minute   |
        +--------+----------+----------+------------+------------+------------+

    The header is a `HEADER`; a file with another one is replaced. The tracks say which series are in which columns, as
    JSON (`shmstats.history.tracks`); the older of two copies is overwritten, each with a number and a checksum, so one
    copy is always whole. Events are a ring of `EVENT` records. A row is a `ROW` with its columns as 4-byte floats, NaN
    for no value. The row of second (or minute) ``n`` since 1970 is at ``n`` modulo the rows of its tier; with another
    number it is an old one. A killed writer leaves a row with a wrong checksum, which readers take for a gap.

    Args:
        file: its path.
        flags: to open it with: for reading, or for reading and writing.

    Raises:
        FileNotFoundError: there is no file.
        OSError: it cannot be opened or read.
        RingError: it is not a ring.
    """

    def __init__(self, file: Path, flags: int = os.O_RDONLY) -> None:
        self.file = file
        self._fd = open_file(file, flags)
        try:
            content = os.pread(self._fd, HEADER.size, 0)
            if len(content) < HEADER.size or HEADER.struct.unpack(content)[:3] != (_MAGIC, _VERSION, COLUMNS):
                raise RingError(f"{file} is not a history of this version of shmstats")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def is_current(self) -> bool:
        """Tell whether the path still refers to this file: somebody may have deleted it."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.file, follow_symlinks=False))
        except OSError:
            return False

    # Tracks -----------------------------------------------------------------------------------

    def read_tracks(self) -> Any:
        """Return the newest whole tracks, as a value from JSON; None if there are none.

        Raises:
            ValueError: they are not JSON.
        """
        number, text = self._newest_tracks()
        try:
            return json.loads(text) if number else None
        except RecursionError as error:
            raise ValueError(f"the tracks of {self.file} are nested too deeply") from error

    def write_tracks(self, document: Any) -> None:
        """Replace the older copy of the tracks.

        Raises:
            OSError: the disk has no room.
            ValueError: they are too long for the file.
        """
        text = json.dumps(document, separators=(",", ":")).encode()
        if len(text) > _TRACKS_BYTES - PLACE.size:
            raise ValueError(f"{len(text)} bytes of names do not fit into {self.file}")
        number = self._newest_tracks()[0] + 1
        head = PLACE.struct.pack(number, len(text), crc32(text, number & 0xFFFFFFFF))
        _write(self._fd, head + text, _TRACKS[number % 2])

    def _newest_tracks(self) -> tuple[int, bytes]:
        newest = 0, b""
        for offset in _TRACKS:
            head = os.pread(self._fd, PLACE.size, offset)
            if len(head) < PLACE.size:
                continue
            number, length, checksum = PLACE.struct.unpack(head)
            if number > newest[0] and length <= _TRACKS_BYTES:
                text = os.pread(self._fd, length, offset + PLACE.size)
                if crc32(text, number & 0xFFFFFFFF) == checksum:
                    newest = number, text
        return newest

    # Events -----------------------------------------------------------------------------------

    def add_event(self, event: Event) -> None:
        """Write an event over the oldest one.

        Raises:
            OSError: the disk has no room.
        """
        text = event.text.encode(errors="replace")[: EVENT.fields["text"][1]]
        record = _event_record(event.time, len(text), event.kind.encode(), text)
        times = [sound.time if sound is not None else 0 for sound in self._events()]
        _write(self._fd, record, _EVENTS_OFFSET + times.index(min(times)) * EVENT.size)

    def events(self, since: int = 0) -> list[Event]:
        """Return the events after a moment in ns since 1970, oldest first."""
        found = [event for event in self._events() if event is not None and event.time > since]
        return sorted(found, key=lambda event: event.time)

    def _events(self) -> list[Event | None]:
        """Return the events in the order of their places; None for one that is missing or not whole."""
        size = _EVENTS * EVENT.size
        content = os.pread(self._fd, size, _EVENTS_OFFSET).ljust(size, b"\0")
        return [_event_of(*record) for record in EVENT.struct.iter_unpack(content)]

    # Rows -------------------------------------------------------------------------------------

    def write_row(self, tier: Tier, number: int, span: float, values: array[float]) -> None:
        """Write the row of second or minute ``number``.

        Args:
            tier: of the row.
            number: in steps of the tier since 1970.
            span: seconds that the deltas cover.
            values: of the columns in use, as 4-byte floats.

        Raises:
            OSError: the disk has no room.
        """
        head, content = (number, round(span * 1000), len(values)), values.tobytes()
        checksum = crc32(content, crc32(ROW.struct.pack(*head, 0, 0)))
        _write(self._fd, ROW.struct.pack(*head, checksum, 0) + content, tier.place(number))

    def read_rows(self, tier: Tier, first: int, last: int) -> list[RingRow]:
        """Return the rows of seconds or minutes ``first`` to ``last``, both included; ascending."""
        first = max(first, last - tier.rows + 1)
        return [row for number in range(first, last + 1) if (row := self._row(tier, number)) is not None]

    def has_row(self, tier: Tier, number: int) -> bool:
        """Tell whether there is a whole row of second or minute ``number``."""
        return self._row(tier, number) is not None

    def _row(self, tier: Tier, number: int) -> RingRow | None:
        place = tier.place(number)
        content = os.pread(self._fd, ROW.size, place)
        if len(content) < ROW.size:
            return None
        found, span, columns, checksum, spare = ROW.struct.unpack(content)
        if found != number or columns > COLUMNS:
            return None
        values = os.pread(self._fd, 4 * columns, place + ROW.size)
        head = ROW.struct.pack(found, span, columns, 0, spare)
        if len(values) != 4 * columns or crc32(values, crc32(head)) != checksum:
            return None
        return RingRow(number, span / 1000, array("f", values))


def make_ring(file: Path) -> Ring:
    """Open a ring for writing; make it if it is missing, or of another version.

    Raises:
        OSError: it cannot be made or written.
    """
    try:
        return Ring(file, os.O_RDWR)
    except (FileNotFoundError, RingError):
        pass
    make_directory(file.parent)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    fd = open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.ftruncate(fd, SIZE)
        _write(fd, HEADER.struct.pack(_MAGIC, _VERSION, COLUMNS, time.time_ns()), 0)
        os.replace(temporary, file)
    finally:
        os.close(fd)
    return Ring(file, os.O_RDWR)


def _event_record(moment: int, length: int, kind: bytes, text: bytes) -> bytes:
    checksum = crc32(EVENT.struct.pack(moment, 0, length, kind, text))
    return EVENT.struct.pack(moment, checksum, length, kind, text)


def _event_of(moment: int, checksum: int, length: int, kind: bytes, text: bytes) -> Event | None:
    """Return the event in a record; None if it is not whole."""
    if not moment or crc32(EVENT.struct.pack(moment, 0, length, kind, text)) != checksum:
        return None
    return Event(moment, kind.rstrip(b"\0").decode(errors="replace"), text[:length].decode(errors="replace"))


def _write(fd: int, content: bytes, offset: int) -> None:
    written = 0
    while written < len(content):
        written += os.pwrite(fd, content[written:], offset + written)
