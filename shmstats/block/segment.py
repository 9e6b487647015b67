"""The piece of shared memory under a block: opening, reserving, unlinking.

`Segment` is `multiprocessing.shared_memory.SharedMemory` without the two things that would lose counts:

- CPython's resource tracker unlinks a segment when a process that attached it ends (always before
  Python 3.13, on request since). The tracker is never told of ours.
- SharedMemory unlinks a segment that it fails to map. Ours is unlinked by `unlink_segment` alone.

A segment's size is an address range, not memory. Memory is reserved piece by piece before its use, for
a store to a page that shared memory has no room for kills the process.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import TracebackType
from typing import Any

from ..hashing import blake2b

#: Where Linux keeps POSIX shared memory, see shm_overview(7): shm_open has no other place. That anybody may write
#: there is what `check_trust` and exclusive creation are for.
SHARED_MEMORY = "/dev/shm"  # nosec B108

#: How the names of all our segments begin.
PREFIX = "shmstats_"


class BlockError(Exception):
    """A block that cannot be used: not ours, damaged, or of another version. The message says why."""


class DamagedBlockError(BlockError):
    """A block whose contents are damaged."""


def segment_name(directory: Path) -> str:
    """Return the name of the segment for a data directory: the same for every path that leads there."""
    place = os.fsencode(os.path.realpath(directory))
    return f"{PREFIX}{os.geteuid()}_{blake2b(place, digest_size=8).hexdigest()}"


def segment_path(name: str) -> str:
    """Return the path of a segment's file."""
    return f"{SHARED_MEMORY}/{name}"


def unlink_segment(name: str) -> None:
    """Remove a segment; who has it attached keeps it. The table lock is held."""
    with suppress(FileNotFoundError):
        os.unlink(segment_path(name))


def set_segment_aside(name: str) -> str:
    """Give a damaged segment another name, in the place of one set aside before; returns its path then.

    The table lock is held.
    """
    aside = f"{segment_path(name)}.damaged"
    os.replace(segment_path(name), aside)
    return aside


def check_trust(name: str, found: os.stat_result) -> None:
    """Refuse what another user owns or may open.

    Raises:
        BlockError: naming the owner and mode found.
    """
    if found.st_uid != os.geteuid():
        raise BlockError(f"block {name} belongs to user {found.st_uid}; it must belong to user {os.geteuid()}")
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
        raise BlockError(f"block {name} has mode {stat.filemode(found.st_mode)}; it must be -rw-------")


def _keep_from_tracker() -> None:
    """Have the resource tracker never told of our segments: it has no switch for that before Python 3.13.

    This is done once, on import. To do it around each attachment would need a lock, and a signal handler or
    the child of a fork would find that taken.
    """
    register = resource_tracker.register

    def register_others(name: Any, kind: str) -> None:
        if not (kind == "shared_memory" and name.lstrip("/").startswith(PREFIX)):
            register(name, kind)

    resource_tracker.register = register_others  # type: ignore[assignment]


if sys.version_info < (3, 13):
    _keep_from_tracker()


class Segment(SharedMemory):
    """A segment mapped for reading and writing.

    Args:
        name: of the segment.
        size: in bytes, to create it; None to attach the one that there is.

    Raises:
        FileNotFoundError: there is none to attach.
        FileExistsError: there is one already.
        ValueError: it is empty, as the one left by a process that was killed while creating it.
    """

    _fd: int
    _mmap: mmap.mmap | None
    _inode: tuple[int, int] | None = None

    def __init__(self, name: str, size: int | None = None) -> None:
        if sys.version_info >= (3, 13):
            super().__init__(name, create=size is not None, size=size or 0, track=False)
        else:
            super().__init__(name, create=size is not None, size=size or 0)
        self._inode = _inode_of(os.fstat(self._fd))

    @property
    def buf(self) -> memoryview:
        """The bytes of the segment."""
        buf = super().buf
        assert buf is not None
        return buf

    def unlink(self) -> None:
        """Do nothing: SharedMemory calls this when it cannot map, and that must not remove the block."""

    def stat(self) -> os.stat_result:
        """Return the owner, mode and size of the segment's file.

        Raises:
            OSError: the descriptor was closed, by this or by somebody else in this process.
        """
        found = os.fstat(self._fd)
        if _inode_of(found) != self._inode:
            raise OSError(errno.EBADF, "the descriptor is that of another file")
        return found

    def is_linked(self) -> bool:
        """Tell whether the name still leads here; someone may have removed the file by hand."""
        try:
            there = os.stat(segment_path(self.name), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return _inode_of(there) == self._inode

    def is_blank(self, offset: int) -> bool:
        """Tell whether there is nothing but zeros from an offset on; memory that was never written is not touched."""
        while True:
            try:
                offset = os.lseek(self._fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return True
                raise
            content = os.pread(self._fd, 1 << 20, offset)
            if content.strip(b"\0"):
                return False
            offset += len(content)

    def reserve(self, offset: int, length: int) -> None:
        """Have memory behind a range of bytes, which may be reserved in part already.

        Raises:
            OSError: shared memory is full, or the segment closed.
        """
        if not self._has_descriptor():
            self._open_again()
        os.posix_fallocate(self._fd, offset, length)

    def _has_descriptor(self) -> bool:
        """Tell whether the descriptor is still ours: who becomes a daemon may close all, and numbers are given anew."""
        try:
            self.stat()
        except OSError:
            return False
        return True

    def _open_again(self) -> None:
        """Open the segment's file anew.

        Raises:
            OSError: the segment was closed, or its file has another's place now.
        """
        if self._mmap is None:
            raise OSError(errno.EBADF, "the segment is closed")
        self._fd = os.open(segment_path(self.name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not self._has_descriptor():
            os.close(self._fd)
            self._fd = -1
            raise OSError(errno.EBADF, "the file of the segment was removed")

    def close(self) -> None:
        """Unmap; where another thread is still reading, the mapping goes when it has finished."""
        if self._inode is not None and not self._has_descriptor():
            self._fd = -1  # it is not ours to close
        try:
            super().close()
        except BufferError:
            self._buf = None
            self._mmap = None
            super().close()


def _inode_of(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


class ReadOnlySegment:
    """A segment mapped for reading alone, as a context manager that gives its bytes.

    Args:
        name: of the segment.

    Raises:
        FileNotFoundError: there is none, or it is just being made.
        BlockError: it is another user's.
    """

    def __init__(self, name: str) -> None:
        fd = os.open(segment_path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            check_trust(name, found)
            if found.st_size == 0:
                raise FileNotFoundError(f"block {name} is not finished yet")
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self.buf = memoryview(self._map)

    def __enter__(self) -> memoryview:
        return self.buf

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap, or leave that to the last view that still exists."""
        try:
            self.buf.release()
            self._map.close()
        except BufferError:
            pass
