"""The layout of the block in shared memory, written once.

Everything that touches the block, in Python or in C, takes its offsets and sizes from here::

     offset 0
    +--------+---------+----------+-------+-------+----------+------+-----------------------------+
    | header | workers | requests | pages | index | names    | heap | cells                       |
    | 1 page | 64 B    | 2 KiB    | 1 bit | 4 B   | 64 B     | utf8 | rows x capacity x 16 B      |
    |        | a slot  | a worker | a page| a slot| a record |      |                             |
    +--------+---------+----------+-------+-------+----------+------+-----------------------------+
                                                                row 0: shared by all workers
                                                                row n: the stripe of one worker (or of
                                                                       several, if rows are scarce)

header
    One `HEADER`. ``magic`` is written last when a block is created, so a block without it is unfinished.
    The fields that counting reads at every call have a cache line of their own.
``workers``
    A `WORKER` for each process that counts: its identity, and the row it adds to.
``requests``
    For each worker slot `REQUESTS_PER_WORKER` entries, a `REQUEST` each: the requests being served.
    Written without a lock by the process that has the slot; they have memory only if one was written.
``pages``
    For each row a bitmap of its pages with memory. No process may touch a page of cells
    whose bit is 0: shared memory can be smaller than its size says, and touching a missing page
    kills the process (SIGBUS), or makes a mere reader allocate it.
``index``
    An open-addressing hash table, which grows with the names: 0 is empty, `DELETED` was used once, else a
    record's number + 1.
``names``
    A `NAME` for each statistic. The first ``header.names`` are in use or removed.
``heap``
    The keys of the names (their form: `shmstats.block.keys`) and their declarations.
``cells``
    A `shmstats.layout.CELL` of 8 bytes for each row and column. A series has ``width`` consecutive columns: its
    lock, then its values::

        counter    | lock seq | n       |
        gauge      | lock seq | integer | double  | owner | moment |   owner and moment if each worker has its own
        histogram  | lock seq | sum     | maximum | minimum | bucket 0 | bucket 1 | ...

    ``seq`` of a gauge is 0 if its value is the integer, and 1 if it is the double; of a histogram it is odd while
    it is being written, and a different number afterwards. Its minimum is the bits of the smallest observation plus 1,
    or 0 if there is none.

Every section and every row starts on a page of its own. All numbers are little-endian. The names,
heap, index, worker and request sections are reserved as far as they are used (see `shmstats.block.segment`).
"""

from __future__ import annotations

from ..layout import CELL, COUNTER_WIDTH, NAME, PAGE, REQUEST, REQUESTS_PER_WORKER, Structure

#: The first eight bytes of a finished block, as one little-endian integer.
MAGIC = int.from_bytes(b"shmstats", "little")

#: Raised with every change of the layout below. From 4 on, spare room is used before the number is raised.
LAYOUT_VERSION = 4

#: How the cells of a block are locked: by compare-and-swap (C), or by record locks (pure Python).
PROTOCOLS = {1: "compare-and-swap", 2: "record locks"}

#: Worker slots of a block: the number of processes that can count at the same time.
WORKER_SLOTS = 4095

#: Record locks on the segment's file, by position: the table lock; in the pure Python core, from `FIRST_CELL` on, those
#: of the cells; far after them, that of the saver; and that of each taken worker slot, which
#: its process holds as long as it lives. They are the same in every layout.
TABLE = 0
SAVER = 2**60
FIRST_SLOT = 2**61

#: Number of slots of a new index.
FIRST_INDEX_SLOTS = 1024

#: Bytes of a text in the header.
MESSAGE_BYTES = 192

#: Four cache lines of 64 bytes (what a block is, what every call compares, the names, the saver), then texts.
#: The rest of its page is spare, and zero.
HEADER = Structure(
    {
        "magic": "Q",
        "layout_version": "I",
        "protocol": "I",
        "capacity": "I",  # counters that a row has room for
        "max_workers": "I",  # rows beside row 0
        "namespace": "Q",  # inode of the creator's pid namespace
        "started": "Q",  # CLOCK_MONOTONIC in ns: creation, or adoption after a crash
        "finished": "Q",  # 1 once there is a magic: without one the block was damaged then, not half made
        "salt": "16s",  # of the hash of keys
        "generation": "Q",  # raised when a name is removed: bindings to cells are void
        "spare_generation": "56s",
        "revision": "Q",  # raised when any name changes: what a reader derived is stale
        "heap": "Q",  # bytes of the heap in use
        "names": "I",  # records in use or removed
        "removed": "I",  # of these, the removed ones
        "cells": "I",  # columns in use
        "slots": "I",  # worker slots ever used
        "changing": "I",  # 1 while the names change; a holder that dies leaves it so
        "claims": "I",  # the last claim number given out
        "families": "I",  # records that stand for a whole metric
        "index_slots": "I",  # of the index, those in use: a power of two
        "spare_names": "16s",
        "spare_identity": "16s",
        "saver_term": "Q",  # raised by each process that begins to save
        "saver_heartbeat": "Q",  # CLOCK_BOOTTIME in ns
        "saver_pid": "I",
        "spare_saver": "I",
        "saved": "Q",  # the last saved snapshot, in ns since 1970; 0: none
        "saved_count": "Q",  # snapshots saved
        "save_ticket": "Q",  # the last ticket: each save draws one before it reads, and one after
        "saved_ticket": "Q",  # of the saved snapshot, after it was read: one begun before does not take its place
        "durable_from": "Q",  # ticket: what was counted before it was drawn is on the disk
        "expose_due": "Q",  # CLOCK_BOOTTIME in ns: the next turn of a save for a page, if all were taken in turn
        "pushed": "Q",  # the last push, in ns since 1970; 0: none
        "save_error": f"{MESSAGE_BYTES}s",  # UTF-8, NUL-padded; empty: the last save succeeded
        "push_error": f"{MESSAGE_BYTES}s",
        "save_error_check": "I",  # CRC-32 of the text: whoever reads a half-written one notices
        "push_error_check": "I",
        "durable_ticket": "Q",  # of the newest snapshot of which the disk knows the place, too
    }
)

WORKER = Structure(
    {
        "state": "I",  # 0 free, 1 taken
        "claim": "I",
        "pid": "I",
        "row": "I",
        "start_time": "Q",  # of the process, in clock ticks since boot, as /proc has it
        "attached": "Q",  # CLOCK_MONOTONIC in ns
        "held": "Q",  # operations in its buffer
        "serving": "I",  # 1 once there is memory behind the entries of its requests
        "further": "I",  # requests that it serves beyond those that have an entry
        "spare": "16s",
    }
)


def _pages(size: int) -> int:
    """Round a size in bytes up to whole pages."""
    return -(-size // PAGE) * PAGE


class Layout:
    """Where each section of a block is, given its two sizes; never changed.

    Args:
        capacity: counters that a row has room for; other series take more.
        max_workers: rows beside the shared row 0.

    Attributes:
        rows: stripes, with the shared one.
        columns: cells of a row.
        row_bytes: from one row of cells to the next.
        workers: offset of the worker slots.
        requests: offset of the requests, `REQUESTS_PER_WORKER` entries for each worker slot.
        pages: offset of the bitmaps of reserved pages.
        bitmap_bytes: of one row's bitmap, a multiple of 8.
        index: offset of the hash index.
        index_slots: that the index can grow to: a power of two, at most half of them used.
        names: offset of the name records; there are as many as a row has room for counters.
        heap: offset of the heap.
        heap_bytes: of the heap.
        cells: offset of the cells.
        size: of the whole block in bytes, most of which has no memory behind it.
    """

    def __init__(self, capacity: int, max_workers: int) -> None:
        self.capacity, self.max_workers = capacity, max_workers
        self.rows = max_workers + 1
        self.columns = capacity * COUNTER_WIDTH
        self.row_bytes = _pages(self.columns * CELL.size)
        self.workers = PAGE
        self.requests = self.workers + _pages(WORKER_SLOTS * WORKER.size)
        self.pages = self.requests + _pages(WORKER_SLOTS * REQUESTS_PER_WORKER * REQUEST.size)
        self.bitmap_bytes = -(-self.row_bytes // PAGE // 64) * 8
        self.index = self.pages + _pages(self.rows * self.bitmap_bytes)
        self.index_slots = 1 << (2 * capacity - 1).bit_length()
        self.names = self.index + _pages(self.index_slots * 4)
        self.heap = self.names + _pages(capacity * NAME.size)
        self.heap_bytes = _pages(capacity * 128)
        self.cells = self.heap + self.heap_bytes
        self.size = self.cells + self.rows * self.row_bytes
