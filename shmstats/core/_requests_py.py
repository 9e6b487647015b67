"""The pure Python twin of requests.h: what this process serves, for other processes to see."""

from __future__ import annotations

import time

from ..layout import REQUEST, REQUESTS_PER_WORKER

_TEXT = REQUEST.offset("text")
_TEXT_BYTES = REQUEST.fields["text"][1]
_METHOD_BYTES = 16


class Requests:
    """The requests that this process serves, for other processes to see: its entries in the block's table of requests.

    Args:
        block: the block, writable, with memory for the entries.
        entries: offset of the entries of this process's slot; they are cleared.
        further: offset of the number of requests without an entry.

    Raises:
        ValueError: these are not within the block.
    """

    def __init__(self, block: memoryview, entries: int, further: int) -> None:
        self._block: memoryview | None = block[:]
        self._entries = entries
        self._further = further
        self._free = list(range(REQUESTS_PER_WORKER))[::-1]
        block[entries : entries + REQUESTS_PER_WORKER * REQUEST.size] = bytes(REQUESTS_PER_WORKER * REQUEST.size)
        block[further : further + 4] = bytes(4)

    def begin(self, method: str, path: str) -> int:
        """Record the start of a request; return its entry for `end`: -1 once closed."""
        block = self._block
        if block is None:
            return -1
        try:
            number = self._free.pop()
        except IndexError:
            self._count_further(1)
            return REQUESTS_PER_WORKER
        text = b"%s %s" % (method.encode(errors="replace")[:_METHOD_BYTES], path.encode(errors="replace"))
        text = text[:_TEXT_BYTES]
        at = self._entries + number * REQUEST.size
        sequence = int.from_bytes(block[at + 8 : at + 16], "little") | 1
        block[at + 8 : at + 16] = sequence.to_bytes(8, "little")
        block[at + _TEXT : at + _TEXT + len(text)] = text
        block[at + 16 : at + 18] = len(text).to_bytes(2, "little")
        block[at : at + 8] = time.time_ns().to_bytes(8, "little")
        block[at + 8 : at + 16] = (sequence + 1).to_bytes(8, "little")
        return number

    def end(self, entry: int) -> None:
        """Record the end of a request."""
        block = self._block
        if block is None:
            return
        if 0 <= entry < REQUESTS_PER_WORKER:
            at = self._entries + entry * REQUEST.size
            block[at : at + 8] = bytes(8)
            self._free.append(entry)
        elif entry == REQUESTS_PER_WORKER:
            self._count_further(-1)

    def close(self) -> None:
        """Release the block; begin and end do nothing afterwards."""
        if self._block is not None:
            block, self._block = self._block, None
            block.release()

    def _count_further(self, change: int) -> None:
        assert self._block is not None
        at = self._further
        count = int.from_bytes(self._block[at : at + 4], "little")
        self._block[at : at + 4] = max(count + change, 0).to_bytes(4, "little")
