"""A block attached by a worker: created or found, counted into, left.

The block survives a crash: it is unlinked only by a worker that leaves in an orderly way and finds no other live one.
The first process after a crash adopts it as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from ..core import Cells, Registrar, Requests
from ..layout import REQUEST, REQUESTS_PER_WORKER
from . import attaching, registering
from .errors import OF_CONTENTS, BlockError, DamagedBlockError
from .header import Header
from .identity import Identity, identify
from .layout import SAVER, TABLE, WORKER, Layout
from .lock import guards
from .metrics import Metrics
from .repairing import mark_inherited, repair
from .segment import Segment, attach_segment, make_segment, remove_unpublished, unlink
from .validate import damage_named, damage_of

_HELD = WORKER.offset("held")


class Block(Metrics):
    """An attached block. Get one by `attach`.

    Attributes:
        name: of the segment.
        identity: of the data directory: the owner of the block, and where its statistics are saved.
        header: the fields of the header that change.
        is_new: whether this process has created it.
        is_left: whether this process has left it.
    """

    find_or_add = registering.find_or_add  # a method: its first argument is the block

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
        """The requests that this process serves, for other processes to see; memory is reserved at the first use.

        Raises:
            OSError: shared memory is full.
        """
        if self._requests is None:
            size = REQUESTS_PER_WORKER * REQUEST.size
            entries = self.layout.requests + self.worker.slot * size
            self.locks.reserve(entries, size)
            self._requests = Requests(self._buf, entries, self._slot + WORKER.offset("further"))
            serving = self._slot + WORKER.offset("serving")
            self._buf[serving : serving + 4] = (1).to_bytes(4, "little")
        return self._requests

    def buffer_cells(self, limit: int, flush: Callable[[], object]) -> Cells:
        """Return a row in this process's own memory, flushed to the block when it has ``limit`` operations.

        ``flush`` is called if that cannot be done at once.
        """
        return self._make_cells(limit=limit, flush=flush, held_offset=self._held, target=self.cells)

    @property
    def held(self) -> int:
        """Operations in this process's buffer, as other processes see them."""
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
        """Attach the block of a data directory as a worker; create it if there is none.

        Args:
            directory: the data directory; created if it is missing and that is possible.
            capacity: cells of a row, if the block is created.
            max_workers: rows, if the block is created.
            fill: called with the block while all others wait; for a new block, before any other process sees it.

        Raises:
            BlockError: the block must not be used, or not by this user.
            OSError: shared memory is full or not usable.
        """
        while True:
            identity = identify(directory, make=True)
            identity.check_user()
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
        """Create the block; None if another process was faster."""
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
                    unlink(segment.path)  # with the lock held: afterwards the path may be another process's block
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
        """Attach an existing block; None if it no longer has its place, or has just lost it."""
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
        """Attach a usable block. The table lock is held."""
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
                    block.cells.close()
                    block.workers.release(block.worker)
                    raise
        except DamagedBlockError as error:
            raise BlockError(f"{error}; live processes use it: stop them first") from error
        return block

    def is_current(self) -> bool:
        """Tell whether this is the block of its data directory, or there is none.

        Its file may have been removed, and another block created. If the directory was removed and created again, the
        block becomes that of the new directory, unless that has one.
        """
        if not self.identity.is_current():
            identity = identify(self.identity.directory)
            if identity.owner != self.identity.owner or not self._segment.move(identity.segment):
                return False
            self.identity, self.name = identity, identity.name
        return self._segment.is_linked() or not os.path.lexists(self.identity.segment)

    def open_registrar(self, registrar: Registrar, limit: int) -> None:
        """Let a registrar find and add names of this block, with a limit of label sets for each metric.

        Raises:
            OSError: the process has left the block.
        """
        where = self.names.index, self.cells, self.worker.row
        self._registrar_fd = self.locks.descriptor()
        registrar.open(*where, limit, self.locks.guard.lock, self._registrar_fd, TABLE)

    def has_lost_registrar(self) -> bool:
        """Tell whether a registrar's descriptor is gone: a process that becomes a daemon closes all."""
        return self._registrar_fd >= 0 and self.locks.descriptor() != self._registrar_fd

    def leave(self, save: Callable[[Self], None] = lambda block: None) -> None:
        """Give up the slot. The last live worker saves and unlinks the block.

        Nothing can be counted into it once this has begun.

        Args:
            save: called by the last worker, before the block is unlinked. If it raises, the block stays.

        Raises:
            DamagedBlockError: it is damaged. The worker has left it nevertheless, and it stays.
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
            # Closed before the values are read to be saved, and before the slot can be another worker's.
            self.cells.close()
            self.workers.release(self.worker)
            self.locks.unlock(SAVER)
        if not self.workers.anyone():
            if self.is_current():
                save(self)
            if self._segment.is_linked():
                unlink(self._segment.path)  # also if the directory is gone: no process will come to it again
            remove_unpublished(self.identity)

    def damage_named(self) -> AbstractContextManager[None]:
        """Raise errors that damaged contents cause as a `DamagedBlockError`; see `damage_named` of `validate`."""
        return damage_named(self._segment, self.layout)

    def accounts_for(self, error: Exception) -> bool:
        """Tell whether an error comes from the system or from damage; otherwise a signal handler may have raised it.

        Only classes that this package raises are considered. An error of the system has an errno.
        """
        if isinstance(error, OSError):
            return error.errno is not None
        if isinstance(error, OF_CONTENTS):
            return bool(damage_of(self._segment, self.layout))
        return isinstance(error, (BlockError, BufferError, MemoryError, AttributeError, TypeError))

    def abandon(self) -> None:
        """Release the memory without telling other processes, as the child of a fork must."""
        self.is_left = True
        self.cells.close()
        if self._requests is not None:
            self._requests.close()
        self.names.close()
        self.header.close()
        self._segment.close()
