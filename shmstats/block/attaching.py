"""How a process gets the block of its data directory: it finds, creates or adopts it, or is refused.

There is no lock outside of the block. A new block gets its place with its table lock held, so a process that finds it
waits until it is filled. A process that had to wait then checks whether the block still has its place.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..core import CORE, PROTOCOL
from ..descriptors import open_file
from ..layout import PAGE
from .errors import BlockError, DamagedBlockError
from .header import read_header, write_header
from .identity import Identity
from .layout import FIRST_INDEX_SLOTS, HEADER, LAYOUT_VERSION, MAGIC, PROTOCOLS, Layout
from .lock import guards, is_locked, tell
from .segment import Segment, make_segment, unlink
from .validate import check_layout, check_unfinished, find_damage
from .workers import WorkerTable, pid_namespace

#: The byte of version 0.1's lock file on which all attached processes hold a shared lock.
_ATTACHED_OF_0_1 = 2**60 + 1


def retire_legacy(identity: Identity) -> None:
    """Set aside the block that ended processes of version 0.1 have left for the same data directory.

    Raises:
        BlockError: processes of version 0.1 still use it.
    """
    for path in identity.legacy_segments:
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (identity.owner, 0, os.geteuid()):
            continue  # another user's
        lock = f"{path}.lock"
        if _is_used_by_0_1(lock):
            raise BlockError(
                f"block {path} of data directory {identity.directory} is used by processes of shmstats 0.1: stop"
                " them, or wait until they end: they save what they counted, and this version continues with it"
            )
        with suppress(OSError):
            os.replace(path, f"{path}.layout3")
            unlink(lock)
            tell(
                f"block {path} was left by processes of shmstats 0.1 that are gone; it was set aside as"
                f" {path}.layout3, which may be removed, and what they had saved is restored"
            )


def _is_used_by_0_1(lock: str) -> bool:
    try:
        descriptor = open_file(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        return is_locked(descriptor, _ATTACHED_OF_0_1)
    finally:
        os.close(descriptor)


def lay_out(segment: Segment, layout: Layout) -> None:
    """Write the header of a new block, without its magic, and reserve the memory that each block needs."""
    slots = min(FIRST_INDEX_SLOTS, layout.index_slots)
    segment.locks.reserve(0, PAGE)
    segment.locks.reserve(layout.pages, layout.index + 4 * slots - layout.pages)
    header = {
        "layout_version": LAYOUT_VERSION,
        "protocol": PROTOCOL,
        "capacity": layout.capacity,
        "max_workers": layout.max_workers,
        "namespace": pid_namespace(),
        "generation": 1,
        "revision": 1,
        "started": time.monotonic_ns(),
        "index_slots": slots,
        "salt": os.urandom(16),
    }
    write_header(segment.buf, header)


def finish(segment: Segment) -> None:
    """Mark a new block as finished. The table lock is held.

    The magic is written first: a process killed after it leaves a whole block, and `adopt` writes the other mark.
    """
    segment.buf[:8] = MAGIC.to_bytes(8, "little")
    _store(segment.buf, "finished", 1)


def find_usable(segment: Segment, capacity: int, max_workers: int) -> tuple[Layout, bool] | None:
    """Return the layout of a block that this process may use, and whether live processes use it.

    None if it was left half made, or has another layout and no process uses it: then its place is free, and a new block
    must be made. The table lock is held.

    Args:
        segment: of the block.
        capacity: the configured one.
        max_workers: the configured one.

    Raises:
        BlockError: it must not be used.
        DamagedBlockError: its header cannot be; or no process uses it, and its contents cannot be.
    """
    header = read_header(segment.buf)
    if header["magic"] == 0:
        check_unfinished(segment, header)
        unlink(segment.path)
        return None
    is_other = header["magic"] == MAGIC and header["layout_version"] != LAYOUT_VERSION
    if is_other and not (segment.locks.slots_held() or segment.locks.slots):
        _retire_other_layout(segment, header["layout_version"])
        return None
    name = segment.name
    layout = check_layout(name, header, len(segment.buf))
    live = segment.locks.slots_held() or WorkerTable(segment.buf, layout, segment.locks).anyone()
    if live and header["namespace"] != (ours := pid_namespace()):
        # In another pid namespace the pids mean nothing, so it cannot be used here. A block without live processes, as
        # a killed container leaves it, can be used.
        raise BlockError(
            f"block {name} belongs to the pid namespace {header['namespace']}, where processes use it; this process"
            f" runs in {ours} (another container?): give each its own data directory"
        )
    if header["protocol"] != PROTOCOL and live:
        raise BlockError(
            f"block {name} is locked by {PROTOCOLS.get(header['protocol'], header['protocol'])}, which"
            f" the {CORE} core of this process does not do (it does {PROTOCOLS[PROTOCOL]}): run all"
            " processes with the same core (SHMSTATS_PURE, shmstats info)"
        )
    if (capacity, max_workers) != (layout.capacity, layout.max_workers):
        tell(
            f"block {name} keeps capacity {layout.capacity} and max_workers {layout.max_workers} until"
            f" all its processes have left (configured: {capacity} and {max_workers})",
            logging.WARNING,
        )
    if not live:
        damage = find_damage(segment.buf, layout)
        if damage:
            raise DamagedBlockError(f"block {name} is damaged: {damage}")
    return layout, live


@contextmanager
def nobody_attaches(identity: Identity) -> Iterator[bool]:
    """Make processes wait that want to create the block of a data directory; gives False if there is one already."""
    with guards.current:
        segment = make_segment(identity, PAGE)
        try:
            with segment.locks.table():
                try:
                    segment.publish(identity.segment)
                except FileExistsError:
                    yield False
                else:
                    yield True
                finally:
                    unlink(segment.path)
        finally:
            segment.close()


def set_aside(segment: Segment, damage: DamagedBlockError) -> None:
    """Rename a damaged block, so that a new one can be made. The table lock is held.

    Raises:
        BlockError: processes use it.
    """
    if segment.locks.slots_held() or segment.locks.slots:
        raise BlockError(f"{damage}; live processes use it: stop them first, they save what they counted") from damage
    tell(f"{damage}; it was set aside as {segment.set_aside('damaged')} for inspection, and a new one is made")


def _retire_other_layout(segment: Segment, version: int) -> None:
    """Set aside a block of another layout that no process uses."""
    aside = segment.set_aside(f"layout{version}")
    tell(
        f"block {segment.name} has layout version {version}, this shmstats has version {LAYOUT_VERSION}; nobody uses"
        f" it, so it was set aside as {aside}, which may be removed, and what was saved is restored"
    )


def adopt(segment: Segment, layout: Layout) -> None:
    """Take over a block whose processes have all ended: set our namespace, and our protocol of locks.

    Field by field, because `struct` clears what it writes first, and a kill must leave a whole header.
    """
    buf = segment.buf
    workers = WorkerTable(buf, layout, segment.locks)
    for worker in workers:
        workers.release(worker)
    # The index and everything else derived from the names is rebuilt by the process that finds them changing.
    for field, value in (
        ("finished", 1),
        ("changing", 1),
        ("protocol", PROTOCOL),
        ("started", time.monotonic_ns()),
        ("expose_due", 0),  # of a block in a file it may be of the machine's former run, whose clock was far ahead
        ("namespace", pid_namespace()),
    ):
        _store(buf, field, value)


def _store(buf: memoryview, field: str, value: int) -> None:
    """Write a number to the header."""
    start, size = HEADER.offset(field), HEADER.fields[field][1]
    buf[start : start + size] = value.to_bytes(size, "little")
