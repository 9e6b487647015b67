"""The requests that the processes of a block serve, read without asking them: also of stuck and stopped processes."""

from __future__ import annotations

from collections.abc import Iterable

from ..block.layout import WORKER, Layout
from ..block.workers import Worker
from ..frozen import NamedTuple
from ..layout import REQUEST, REQUESTS_PER_WORKER

#: Key of a WSGI environment by which an endpoint marks a request that only looks at statistics: it is not counted.
UNSEEN = "shmstats.unseen"

#: Paths of the live page, wherever it is mounted; no list of requests has them.
_LOOKS = ("/stats/live", "/stats/live/data", "/stats/history", "/debug/requests", "/debug/stacks")

_REQUEST = REQUEST.struct
_SERVING = WORKER.offset("serving")
_ATTEMPTS = 5


class Request(NamedTuple):
    """A request that a process is serving.

    Attributes:
        pid: of the process.
        began: ns since 1970, to a few ms.
        text: method and path without the query, cut at 110 bytes. It comes from a client.
    """

    pid: int
    began: int
    text: str


class Served(NamedTuple):
    """The requests that one process serves.

    Attributes:
        worker: the process.
        requests: those with an entry, longest first.
        further: number of requests without an entry.
        begun: number of requests that it has begun to serve since it attached, without further ones.
    """

    worker: Worker
    requests: list[Request]
    further: int
    begun: int


def read_requests(buf: memoryview, layout: Layout, workers: Iterable[Worker]) -> list[Served]:
    """Return the requests of some workers, without those that only look at statistics."""
    return [Served(worker, *_of_worker(buf, layout, worker)) for worker in workers]


def _of_worker(buf: memoryview, layout: Layout, worker: Worker) -> tuple[list[Request], int, int]:
    slot = layout.workers + worker.slot * WORKER.size + _SERVING
    if not int.from_bytes(buf[slot : slot + 4], "little"):
        return [], 0, 0  # its entries may not have memory
    entries = layout.requests + worker.slot * REQUESTS_PER_WORKER * REQUEST.size
    offsets = range(entries, entries + REQUESTS_PER_WORKER * REQUEST.size, REQUEST.size)
    entries_now = (entry for offset in offsets if (entry := _read(buf, offset)) is not None)
    requests = [Request(worker.pid, began, text) for began, text in entries_now if not text.endswith(_LOOKS)]
    begun = sum(_REQUEST.unpack_from(buf, offset)[1] + 1 >> 1 for offset in offsets)
    requests.sort(key=lambda request: request.began)
    return requests, int.from_bytes(buf[slot + 4 : slot + 8], "little"), begun


def _read(buf: memoryview, offset: int) -> tuple[int, str] | None:
    """Return start and text of an entry; None for a free one, or one that changes all the time."""
    for _ in range(_ATTEMPTS):
        start, sequence, length, text = _REQUEST.unpack_from(buf, offset)
        if start == 0:
            return None
        if sequence % 2 == 0 and _REQUEST.unpack_from(buf, offset)[:2] == (start, sequence):
            shown = text[:length].decode(errors="replace")
            return start, "".join(each if each.isprintable() else "\ufffd" for each in shown)
    return None
