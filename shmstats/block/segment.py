"""The piece of shared memory of a block: making, opening, reserving, unlinking.

Unlike `multiprocessing.shared_memory.SharedMemory`, a `Segment` is unknown to CPython's resource tracker, and opened
only once in a process: closing any descriptor of its file would drop the process's record locks. A segment's size is an
address range; memory is reserved before its use, because a store to a page without memory kills the process.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .. import lifecycle
from ..core import rename_to_new
from ..descriptors import clear_of_standard, open_file
from .errors import BlockError
from .identity import PREFIX, SHARED_MEMORY, Identity, files_beside
from .lock import RecordLocks, guards


class Segment:
    """A mapped segment, which all users in this process share. Made by `attach_segment` or `make_segment`.

    Args:
        path: of the segment's file.
        to_read: whether a read-only mount will do.

    Attributes:
        path: where the file is.
        buf: the bytes of the segment.
        locks: the record locks on it.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is empty.
    """

    def __init__(self, path: str, to_read: bool = False) -> None:
        self.path = path
        self._users = 1
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        try:
            self.locks = RecordLocks(path)
        except OSError as error:
            if not to_read or error.errno != errno.EROFS:
                raise
            self.locks, protection = RecordLocks(path, os.O_RDONLY), mmap.PROT_READ
        try:
            with clear_of_standard():
                self._map: mmap.mmap | None = mmap.mmap(self.locks.descriptor(), 0, prot=protection)
        except BaseException:
            self.locks.close()
            raise
        self.buf = memoryview(self._map)
        _segments[self.locks.inode] = self

    @property
    def name(self) -> str:
        """The name of the file."""
        return os.path.basename(self.path)

    def is_linked(self) -> bool:
        """Tell whether the path still leads to this segment; somebody may have removed the file."""
        try:
            return _inode_of(os.stat(self.path, follow_symlinks=False)) == self.locks.inode
        except FileNotFoundError:
            return False

    def is_blank(self, offset: int) -> bool:
        """Tell whether there are only zeros from an offset on; memory that was never written is not touched."""
        fd = self.locks.descriptor()
        try:
            while True:
                offset = os.lseek(fd, offset, os.SEEK_DATA)
                content = os.pread(fd, 1 << 20, offset)
                if content.strip(b"\0"):
                    return False
                offset += len(content)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return True
            raise
        finally:
            self.locks.mark()

    def publish(self, path: str) -> None:
        """Give a segment from `make_segment` its place.

        Raises:
            FileExistsError: another segment has the place.
        """
        rename_to_new(os.fsencode(self.path), os.fsencode(path))
        self.path = self.locks.path = path

    def move(self, path: str) -> bool:
        """Move to another path, unless a process has done so; returns False if another segment is there."""
        if self.is_linked():
            try:
                rename_to_new(os.fsencode(self.path), os.fsencode(path))
            except FileExistsError:
                return False
        self.path = self.locks.path = path
        return self.is_linked() or not os.path.lexists(path)

    def set_aside(self, suffix: str) -> str:
        """Rename the segment, replacing one that was set aside before; returns its new path."""
        aside = f"{self.path}.{suffix}"
        os.replace(self.path, aside)
        return aside

    def share(self) -> Segment:
        """Return the segment for a further user in this process."""
        self._users += 1
        return self

    def close(self) -> None:
        """Unmap after the last user; if another thread is still reading, the mapping ends when it has finished."""
        self._users -= 1
        if self._users > 0:
            return
        if _segments.get(self.locks.inode) is self:
            del _segments[self.locks.inode]
        self.locks.close()
        if self.locks.was_lost:  # then the descriptor of the mapping must not be closed either
            _stay_mapped.append(self._map)
            self._map = None
        with suppress(BufferError):  # the mapping ends with the last view
            self.buf.release()
            if self._map is not None:
                self._map.close()
        self._map = None


#: Mappings of segments whose descriptors somebody has closed: they stay until the process ends.
_stay_mapped: list[mmap.mmap | None] = []


class _Segments(dict[tuple[int, int], Segment]):
    """The segments that this process has open, by device and inode."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def forget(self) -> None:
        """Drop all in the child of a fork: the parent's are closed as the blocks are abandoned."""
        self.clear()


_segments = _Segments()
lifecycle.take_part(lifecycle.Stage.LOCKS, _segments)


def attach_segment(identity: Identity, to_read: bool = False) -> Segment | None:
    """Return the segment of a data directory; None if there is none. The guard is held.

    Args:
        identity: of the data directory.
        to_read: whether it is only to be read.

    Raises:
        BlockError: it is not a valid segment.
        OSError: it cannot be opened, or a reader in this process has it from a read-only mount.
    """
    while True:
        try:
            found = stat_segment(identity)
            shared = _segments.get(_inode_of(found))
            if shared is not None:
                if shared.buf.readonly and not to_read:
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), identity.segment)
                return shared.share()
            segment = Segment(identity.segment, to_read)
        except FileNotFoundError:
            return None
        except ValueError:  # empty: no segment of ours is, under that name
            if not to_read:
                unlink(identity.segment)
            return None
        if segment.locks.inode == _inode_of(found):
            return segment
        segment.close()


@contextmanager
def opened_to_read(identity: Identity) -> Iterator[tuple[memoryview, RecordLocks]]:
    """Open the segment of a data directory for a reader; gives its bytes, which are read-only, and its locks.

    The bytes are released with the guard held: a descriptor closed later would drop the locks of a block that another
    thread has attached meanwhile.

    Raises:
        FileNotFoundError: there is none.
        BlockError: it is not a valid segment, or this user may not read it.
    """
    with guards.current:
        segment = attach_segment(identity, to_read=True)
    if segment is None:
        raise FileNotFoundError(errno.ENOENT, f"there is no block {identity.name}")
    buf = segment.buf.toreadonly()
    try:
        yield buf, segment.locks
    finally:
        with guards.current:
            with suppress(BufferError):  # another thread is still reading
                buf.release()
            segment.close()


def make_segment(identity: Identity, size: int) -> Segment:
    """Make a segment under a temporary name, which `Segment.publish` changes; it is the owner's from the beginning.

    Raises:
        OSError: it cannot be made.
    """
    remove_unpublished(identity)
    path = f"{identity.segment}.{os.getpid()}_{os.urandom(4).hex()}.new"
    if os.path.dirname(path) == SHARED_MEMORY:
        _make_shared_memory(os.path.basename(path), size)
    else:
        fd = open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
    try:
        segment = Segment(path)
    except BaseException:
        unlink(path)
        raise
    try:
        descriptor = segment.locks.descriptor()
        os.fchmod(descriptor, 0o600)
        identity.give(descriptor)
    except BaseException:
        unlink(path)
        segment.close()
        raise
    return segment


def _make_shared_memory(name: str, size: int) -> None:
    """Make a segment of shared memory. The module for it is imported only here: finding a block does not need it.

    The caller holds the guard, so a signal handler that counts meanwhile waits for the import.

    Raises:
        OSError: it cannot be made.
        BlockError: this user cannot import the module.
    """
    try:
        with lifecycle.no_fork():
            from multiprocessing import resource_tracker
            from multiprocessing.shared_memory import SharedMemory
    except ImportError as error:
        raise BlockError(
            f"shared memory cannot be made: user {os.geteuid()} cannot import multiprocessing.shared_memory of this"
            f" Python ({error}): let that user read Python's library, or import it before the process gives up root"
        ) from None
    with clear_of_standard():
        if sys.version_info >= (3, 13):
            SharedMemory(name, create=True, size=size, track=False).close()
        else:
            _keep_from_tracker(resource_tracker)
            SharedMemory(name, create=True, size=size).close()


def _keep_from_tracker(tracker: Any) -> None:
    """Hide our segments from the resource tracker, which has no switch for that before Python 3.13.

    This is never undone: a signal handler or a fork could come before it is.
    """
    register = tracker.register
    if hasattr(register, "without_shmstats"):
        return

    def register_others(name: Any, kind: str) -> None:
        if not (kind == "shared_memory" and name.lstrip("/").startswith(PREFIX)):
            register(name, kind)

    register_others.without_shmstats = True  # type: ignore[attr-defined]
    tracker.register = register_others


def stat_segment(identity: Identity) -> os.stat_result:
    """Return the status of the file in a segment's place.

    Raises:
        FileNotFoundError: there is no file.
        BlockError: it is not a valid segment.
    """
    found = os.stat(identity.segment, follow_symlinks=False)
    if os.geteuid() == 0 == found.st_uid != identity.owner and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        os.chown(identity.segment, identity.owner, identity.group, follow_symlinks=False)  # made by root before
        found = os.stat(identity.segment, follow_symlinks=False)
    check_trust(identity, found)
    return found


def check_trust(identity: Identity, found: os.stat_result) -> None:
    """Refuse a file that does not belong to the owner of the data directory alone.

    Raises:
        BlockError: with the owner and mode found.
    """
    if found.st_uid != identity.owner:
        raise BlockError(
            f"block {identity.name} belongs to user {found.st_uid}; it must belong to user {identity.owner}, the owner"
            f" of {identity.directory}: have {identity.segment} removed"
        )
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
        raise BlockError(
            f"block {identity.name} has mode {stat.filemode(found.st_mode)}; it must be -rw-------: remove"
            f" {identity.segment}"
        )


def unlink(path: str) -> None:
    """Remove a segment; processes that have it attached keep it."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_unpublished(identity: Identity) -> None:
    """Remove the segments of this directory whose makers were killed before they published them."""
    with suppress(OSError):
        for entry, rest in files_beside(identity.segment):
            pid = rest.partition("_")[0]
            if rest.endswith(".new") and pid.isdecimal() and not _exists(int(pid)):
                with suppress(OSError):
                    os.unlink(entry.path)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:  # anybody may make a file with any number in its name
        return isinstance(error, PermissionError)
    return True


def _inode_of(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
