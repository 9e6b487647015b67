"""A block that a process has left, to be damaged by a fuzzer's input; every kind of call was made on it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Damage:
    """A block that a process has left, and the places where bytes may be put into it.

    The first byte of an input selects a section, the next two the place in it, and the others are put there;
    or it selects the record that gets the others as its note, with a right checksum.

    Attributes:
        registry: with the block attached.
        config: of the registry.
        file: of the block.
        image: what is in it.
    """

    def __init__(self) -> None:
        from shmstats.block import identify
        from shmstats.block.layout import HEADER, Layout
        from shmstats.layout import NAME, REQUEST, REQUESTS_PER_WORKER
        from shmstats.registry import Registry

        data = directory()
        self.registry, self.config = Registry(), config(data)
        self.registry.init(self.config)
        fill(self.registry)
        attached = self.registry.shared.attach()
        for number in range(3):
            attached.requests.begin("GET", f"/route/{number}")
        self.file = Path(identify(data).segment)
        self.image = self.file.read_bytes()
        layout = Layout(*_SIZES.values())
        self._sections = (
            (0, HEADER.size),
            (layout.workers, 256),
            (layout.pages, layout.rows * layout.bitmap_bytes),
            (layout.index, 4 * layout.index_slots),
            (layout.names, 16 * NAME.size),
            (layout.heap, 2048),
            (layout.cells, 4096),
        )
        self._served = layout.requests, REQUESTS_PER_WORKER * REQUEST.size
        names = range(layout.names, layout.names + attached.names.count * NAME.size, NAME.size)
        records = [NAME.struct.unpack_from(self.image, place) for place in names]
        self._notes = [(layout.heap + record[12], record[13]) for record in records if record[13]]

    def of(self, content: bytes) -> tuple[int, bytes]:
        """Return the place and the bytes to put there."""
        from shmstats.block.records import next_half

        chosen, which = content[0] if content else 0, int.from_bytes(content[1:3], "little")
        if chosen % 128 >= _FIRST_OF_NOTES:
            start, room = self._notes[which % len(self._notes)]
            place, note = next_half(self.image[start : start + room], content[3:])
            return start + max(place, 0), note if place >= 0 else b""
        start, length = self._served if chosen % 128 >= _FIRST_SERVED else self._sections[chosen % len(self._sections)]
        at = start + which % length
        return at, content[3 : 3 + len(self.image) - at]


#: What chooses, of the first byte modulo 128, the requests that are served, and notes; below it is another section.
_FIRST_SERVED, _FIRST_OF_NOTES = 112, 120


_SIZES = {"capacity": 256, "max_workers": 2}


def config(data: Path, persist: bool = False) -> dict[str, Any]:
    """Return a configuration for a small block."""
    return {"path": {"data": str(data)}, "stats": {**_SIZES, "persist": persist}}


#: Calls that count in every way.
FILLING: tuple[Callable[[Any], object], ...] = (
    lambda stats: stats.incr("c", "m", 3),
    lambda stats: stats.gauge("c", "g", 2.5),
    lambda stats: stats.timing("c", "t", 12.5),
    lambda stats: stats.declare("c", "live", kind="gauge", mode="livesum", help="A gauge."),
    lambda stats: stats.gauge("c", "live", 4),
    lambda stats: stats.declare("c", "all", kind="gauge", mode="all"),
    lambda stats: stats.declare("c", "phase", kind="state", states=["up", "down"]),
    lambda stats: stats.gauge("c", "all", 4),
    lambda stats: stats.declare("c", "exponential", kind="histogram", buckets="exponential", range=(1, 1000)),
    lambda stats: stats.timing("c", "exponential", 7),
    lambda stats: stats.incr("c", "labelled", labels={"a": "é", "b": '"'}),
    lambda stats: stats.timestamp("c", "moment"),
    lambda stats: stats.info("c", "about", {"version": "1"}),
    lambda stats: stats.state("c", "phase", "up"),
    lambda stats: stats.incr("c", "exemplary", exemplar={"trace": "7"}),
    lambda stats: stats.incr("c", "labelled", labels={"a": "new", "b": "new"}),
)


def fill(stats: Any) -> None:
    """Count in every way."""
    for call in FILLING:
        call(stats)


def directory() -> Path:
    """Make a directory that is removed with this process."""
    made = tempfile.mkdtemp(prefix="fuzz-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)
