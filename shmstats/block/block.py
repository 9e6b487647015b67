"""A block as a worker has it attached: made or found, counted into, left.

The block outlives a crash: it is unlinked only by a worker that leaves in good order and finds no other live one;
whoever comes first after a crash adopts it as it stands.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from ..core import Cells, Registrar, Requests
from ..layout import REQUEST, REQUESTS_PER_WORKER
from ..series import Declaration, Kind
from . import attaching
from .errors import OF_CONTENTS, BlockError, DamagedBlockError
from .header import Header
from .identity import Identity, identify
from .layout import SAVER, TABLE, WORKER, Layout
from .lock import guards
from .metrics import Metrics
from .records import Record
from .registering import find_or_add
from .repairing import mark_inherited, repair
from .segment import Segment, attach_segment, make_segment, remove_unpublished, unlink
from .validate import damage_named, damage_of
from .workers import own_start_time

_HELD = WORKER.offset("held")


class Block(Metrics):
    """An attached block. Get one by `attach`.

    Attributes:
        name: of the segment.
        identity: of the data directory: whose the block is, and where its statistics are saved.
        header: the fields of the header that change.
        is_new: whether this process has made it.
        is_left: whether it is attached no more.
    """

    def __init__(self, segment: Segment, layout: Layout, identity: Identity) -> None:
        super().__init__(segment, layout)
        self.name = identity.name
        self.identity = identity
        self.header = Header(self._buf)
        self._segment = segment
        self._slot = layout.workers + self.worker.slot * WORKER.size
        self._held = self._slot + _HELD
        self.is_new = False
        self.is_left = False
        self._registrar_fd = -1
        self._requests: Requests | None = None

    @property
    def requests(self) -> Requests:
        """What this process serves, for others to see; there is memory for it from its first use on.

        Raises:
            OSError: shared memory is full.
        """
        if self._requests is None:
            size = REQUESTS_PER_WORKER * REQUEST.size
            entries = self.layout.requests + self.worker.slot * size
            self._segment.reserve(entries, size)
            self._requests = Requests(self._buf, entries, self._slot + WORKER.offset("further"))
            serving = self._slot + WORKER.offset("serving")
            self._buf[serving : serving + 4] = (1).to_bytes(4, "little")
        return self._requests

    def buffer_cells(self, limit: int, flush: Callable[[], object]) -> Cells:
        """Return a row of this process's own, flushed to the block when ``limit`` operations are in it.

        ``flush`` is called where that cannot be done at once.
        """
        return self._make_cells(limit=limit, flush=flush, held_offset=self._held, target=self.cells)

    @property
    def held(self) -> int:
        """Operations in this process's buffer, as anyone can see."""
        return int.from_bytes(self._buf[self._held : self._held + 8], "little")

    @held.setter
    def held(self, held: int) -> None:
        self._buf[self._held : self._held + 8] = held.to_bytes(8, "little")

    @classmethod
    def attach(
        cls,
        directory: Path,
        capacity: int,
        max_workers: int,
        fill: Callable[[Self], None] = lambda block: None,
    ) -> Self:
        """Attach the block of a data directory as a worker; make it where there is none.

        Args:
            directory: the data directory; it is made where it is missing, if that is possible.
            capacity: cells of a row, if the block is made.
            max_workers: rows, if the block is made.
            fill: called with the block, while all others wait; where it was just made, before anyone else sees it.

        Raises:
            BlockError: there is a block that must not be used, or this user may not use it.
            OSError: shared memory is full or not usable.
        """
        while True:
            identity = identify(directory, make=True)
            identity.check_user()
            own_start_time()
            with guards.current:
                segment = attach_segment(identity)
                if segment is None:
                    attaching.retire_legacy(identity)
                    block = cls._make(identity, Layout(capacity, max_workers), fill)
                else:
                    block = cls._join(segment, identity, capacity, max_workers, fill)
            if block is not None:
                return block

    @classmethod
    def _make(cls, identity: Identity, layout: Layout, fill: Callable[[Self], None]) -> Self | None:
        """Make the block; None where another process was quicker."""
        segment = make_segment(identity, layout.size)
        try:
            with segment.locks.table():
                try:
                    attaching.lay_out(segment, layout)
                    segment.publish(identity.segment)
                    block = cls(segment, layout, identity)
                    block.is_new = True
                    fill(block)
                    attaching.finish(segment)
                except BaseException:
                    unlink(segment.path)  # with the lock held: the next one is another process's
                    raise
        except (FileExistsError, FileNotFoundError):
            segment.close()
            return None
        except BaseException:
            segment.close()
            raise
        return block

    @classmethod
    def _join(
        cls, segment: Segment, identity: Identity, capacity: int, max_workers: int, fill: Callable[[Self], None]
    ) -> Self | None:
        """Attach a block that is there; None where it has its place no longer, or that was taken from it."""
        block = None
        try:
            with segment.locks.table():
                if segment.is_linked():
                    try:
                        usable = attaching.find_usable(segment, capacity, max_workers)
                        if usable is not None:
                            block = cls._join_usable(segment, identity, *usable, fill)
                    except DamagedBlockError as error:
                        attaching.set_aside(segment, error)
        except BaseException:
            segment.close()
            raise
        if block is None:
            segment.close()
        return block

    @classmethod
    def _join_usable(
        cls, segment: Segment, identity: Identity, layout: Layout, live: bool, fill: Callable[[Self], None]
    ) -> Self:
        """Attach a block that may be used. The table lock is held."""
        if not live:
            attaching.adopt(segment, layout)
        try:
            with damage_named(segment, layout):
                block = cls(segment, layout, identity)
                try:
                    repair(block.names)
                    if not live:
                        mark_inherited(block.names)
                    fill(block)
                except BaseException:
                    block.workers.release(block.worker)
                    raise
        except DamagedBlockError as error:
            raise BlockError(f"{error}; live processes use it: stop them first") from error
        return block

    def is_current(self) -> bool:
        """Tell whether this is the block of its data directory, or there is none.

        Its file may have been removed, and another one made. Where the directory was removed and made again, the block
        becomes that of the new one, if that has none.
        """
        if not self.identity.is_current():
            identity = identify(self.identity.directory)
            if identity.owner != self.identity.owner or not self._segment.move(identity.segment):
                return False
            self.identity, self.name = identity, identity.name
        return self._segment.is_linked() or not os.path.lexists(self.identity.segment)

    def find_or_add(
        self, key: bytes, kind: Kind, limit: int = 0, mine: Declaration | None = None, whole: bool = True
    ) -> Record:
        """Return the record of a name, which is registered if it is not there; see `find_or_add` of `registering`."""
        return find_or_add(self, key, kind, limit, mine, whole)

    def open_registrar(self, registrar: Registrar, limit: int) -> None:
        """Have a registrar find and add the names of this block, of a metric so many label sets at most.

        Raises:
            OSError: the block was left.
        """
        where = self.names.index, self.cells, self.worker.row
        self._registrar_fd = self.locks.descriptor()
        registrar.open(*where, limit, self.locks.guard.lock, self._registrar_fd, TABLE)

    def has_lost_registrar(self) -> bool:
        """Tell whether a registrar has a descriptor that is gone: who becomes a daemon closes all."""
        return self._registrar_fd >= 0 and self.locks.descriptor() != self._registrar_fd

    def leave(self, save: Callable[[Self], None] = lambda block: None) -> None:
        """Give up the slot. The last live worker saves and unlinks the block.

        Nothing can be counted into it any more once this has begun.

        Args:
            save: called, by the last one, before the block is unlinked. If it raises, the block stays.

        Raises:
            DamagedBlockError: it is damaged. It was left all the same, and stays.
        """
        with self.locks.table():
            try:
                with self.damage_named():
                    self._leave(save)
            finally:
                self.abandon()

    def _leave(self, save: Callable[[Self], None]) -> None:
        try:
            repair(self.names)
        finally:
            # Closed before the values are read to be saved, and before the slot is another's.
            self.cells.close()
            self.workers.release(self.worker)
            self.locks.unlock(SAVER)
        if not self.workers.anyone():
            if self.is_current():
                save(self)
            if self._segment.is_linked():
                unlink(self._segment.path)  # also that of a directory that is gone: nobody comes to it again
            remove_unpublished(self.identity)

    def damage_named(self) -> AbstractContextManager[None]:
        """Have what comes of damaged contents raised as a `DamagedBlockError`; see `damage_named` of `validate`."""
        return damage_named(self._segment, self.layout)

    def accounts_for(self, error: Exception) -> bool:
        """Tell whether an error comes of the system or of damage; another one may be a signal handler's.

        A class that nothing here raises is not asked about. An error of the system has an errno.
        """
        if isinstance(error, OSError):
            return error.errno is not None
        if isinstance(error, OF_CONTENTS):
            return bool(damage_of(self._segment, self.layout))
        return isinstance(error, (BlockError, BufferError, MemoryError, AttributeError, TypeError))

    def abandon(self) -> None:
        """Let go of the memory without a word to the others: what the child of a fork does."""
        self.is_left = True
        self.cells.close()
        if self._requests is not None:
            self._requests.close()
        self.names.close()
        self.header.close()
        self._segment.close()
