"""Notes: a text that belongs to a record, stored in the heap.

Its place has two halves, written in turn: the text's length, its number, a checksum, and the bytes. The valid half with
the higher number is the note, so a writer that is killed during a write leaves the previous note, and a reader finds
either one or the other.
"""

from __future__ import annotations

import struct

from ..hashing import blake2b

#: Before the text: its length, its number among the record's notes, and a checksum.
_HEAD = struct.Struct("<IQ8s")

_LEAST_HALF = 64


def read_note(content: bytes) -> bytes:
    """Return the text of a note, from the content of its place; empty if there is none."""
    return max(_halves(content))[1]


def next_half(content: bytes, text: bytes) -> tuple[int, bytes]:
    """Return the offset in a note's place for the next note, and its bytes.

    Args:
        content: of the place.
        text: of the next note.

    Returns:
        The offset, -1 if a half has no room for the text; and head and text.
    """
    halves = _halves(content)
    turn = 1 + max(number for number, _ in halves)
    half = len(content) // 2
    place = half if halves[0] >= halves[1] else 0
    return place if _HEAD.size + len(text) <= half else -1, _HEAD.pack(len(text), turn, _checksum(turn, text)) + text


def room_for(note: bytes) -> int:
    """Return the size of the place for a note that was packed by `next_half`."""
    return 2 * max(_LEAST_HALF, 1 << (len(note) - 1).bit_length())


def _halves(content: bytes) -> list[tuple[int, bytes]]:
    """Return number and text of the notes in the two halves of a place; 0 and empty for one that is not whole."""
    half = len(content) // 2
    return [_half(content[:half]), _half(content[half:])]


def _half(content: bytes) -> tuple[int, bytes]:
    if len(content) < _HEAD.size:
        return 0, b""
    length, turn, checksum = _HEAD.unpack_from(content)
    text = content[_HEAD.size : _HEAD.size + length]
    return (turn, text) if len(text) == length and _checksum(turn, text) == checksum else (0, b"")


def _checksum(turn: int, text: bytes) -> bytes:
    return blake2b(text, digest_size=8, salt=turn.to_bytes(8, "little")).digest()
