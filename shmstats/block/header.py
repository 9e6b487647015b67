"""The header of a block: its fields, read and written."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from ..layout import PAGE
from .errors import DamagedBlockError
from .layout import HEADER, MESSAGE_BYTES

_HEADER = HEADER.struct
_FIELDS = HEADER.fields

#: Attempts to read a text that is being written.
_ATTEMPTS = 100


class HeaderField:
    """A number in the header, read and written in the ``words`` or ``longs`` of the object that has it as an attribute.

    A number beyond its size, which only a damaged one can reach, wraps to 0, as in C.

    Args:
        name: of the field; by default that of the attribute.
    """

    def __init__(self, name: str = "") -> None:
        self._name = name

    def __set_name__(self, owner: type, name: str) -> None:
        offset, self._size = HEADER.fields[self._name or name]
        self._at, self._most = offset // self._size, 256**self._size - 1

    def __get__(self, header: Any, owner: type) -> int:
        number: int = (header.words if self._size == 4 else header.longs)[self._at]
        return number

    def __set__(self, header: Any, value: int) -> None:
        (header.words if self._size == 4 else header.longs)[self._at] = value & self._most


class _Message:
    """A text in the header with its checksum: a half-written one is read again, and is empty if it stays so."""

    def __init__(self, name: str) -> None:
        self._at = HEADER.offset(name)
        self._check = HEADER.offset(f"{name}_check") // 4

    def __get__(self, header: Header, owner: type[Header]) -> str:
        for _ in range(_ATTEMPTS):
            check = header.words[self._check]
            text = bytes(header.buf[self._at : self._at + MESSAGE_BYTES]).rstrip(b"\0")
            if not text or zlib.crc32(text) == check:
                return text.decode(errors="replace")
        return ""

    def __set__(self, header: Header, message: str) -> None:
        text = message.replace("\0", " ").encode(errors="replace")[:MESSAGE_BYTES]
        text = text.decode(errors="ignore").encode()  # a character that was cut in the middle goes
        header.words[self._check] = zlib.crc32(text)
        header.buf[self._at : self._at + MESSAGE_BYTES] = text.ljust(MESSAGE_BYTES, b"\0")


class Header:
    """The fields of a block's header that change, each read and written separately.

    Args:
        buf: the block; writable in order to set a field.

    Attributes:
        generation: raised when a name is removed.
        revision: raised when any name changes.
        started: when the block was created, or adopted after a crash: CLOCK_MONOTONIC in ns.
        saver_term: raised by each process that begins to save.
        saver_heartbeat: of the saver: CLOCK_BOOTTIME in ns.
        saver_pid: of the saver.
        saved: when the last snapshot was saved, in ns since 1970; 0: never.
        saved_count: number of saved snapshots.
        save_ticket: the last ticket: each save takes one before it reads, and one after.
        saved_ticket: of the saved snapshot, taken after it was read: a save begun earlier does not replace it.
        durable_from: a ticket: counts from before it was taken are on the disk.
        durable_ticket: of the newest snapshot whose directory entry is on the disk, too.
        expose_due: the next turn of a save for a page: CLOCK_BOOTTIME in ns.
        pushed: when the last push succeeded, in ns since 1970; 0: never.
        save_error: why the last save failed; empty if it succeeded. At most `MESSAGE_BYTES` of UTF-8, cut.
        push_error: as ``save_error``.
    """

    generation = HeaderField()
    revision = HeaderField()
    started = HeaderField()
    saver_term = HeaderField()
    saver_heartbeat = HeaderField()
    saver_pid = HeaderField()
    saved = HeaderField()
    saved_count = HeaderField()
    save_ticket = HeaderField()
    saved_ticket = HeaderField()
    durable_from = HeaderField()
    durable_ticket = HeaderField()
    expose_due = HeaderField()
    pushed = HeaderField()
    save_error = _Message("save_error")
    push_error = _Message("push_error")

    def __init__(self, buf: memoryview) -> None:
        self.buf = buf[:PAGE]
        self.words, self.longs = self.buf.cast("I"), self.buf.cast("Q")

    def number(self, field: str) -> int:
        """Return a field of the header by its name."""
        return self.numbers(field)[0]

    def numbers(self, *fields: str) -> list[int]:
        """Return fields of the header by their names, read in this order."""
        found = []
        for field in fields:
            offset, size = HEADER.fields[field]
            found.append((self.words if size == 4 else self.longs)[offset // size])
        return found

    def close(self) -> None:
        """Release the buffer."""
        for view in (self.words, self.longs, self.buf):
            view.release()


def read_header(buf: memoryview) -> dict[str, int]:
    """Return the numbers in a block's header by name.

    Raises:
        DamagedBlockError: it is too short for a header.
    """
    if len(buf) < PAGE:
        raise DamagedBlockError(f"the block is {len(buf)} bytes long; its header alone is {PAGE}")
    return dict(zip(_FIELDS, _HEADER.unpack_from(buf, 0), strict=True))


def write_header(buf: memoryview, values: Mapping[str, Any]) -> None:
    """Write the header of a block that is being created; fields that are not given become 0, or empty."""
    _HEADER.pack_into(buf, 0, *({**HEADER.empty, **values}[field] for field in _FIELDS))
