"""The files of saved snapshots: ``stats/simple.json`` in the data directory, and the previous one, ``simple.json.1``.

The file is replaced atomically: written under a temporary name, synced, renamed, and the directory synced. There is a
valid file at every moment, also on volumes without hard links. A damaged one is set aside as
``simple.json.damaged-<time>``, others as ``…unreadable-<time>`` and ``…unrestored-<time>``.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..block.identity import make_directory
from ..block.identity import stats_directory as stats_directory
from ..descriptors import above_standard, open_file, read_file
from ..series import Snapshot
from .decoding import Saved, decode
from .format import SnapshotError, encode

log = logging.getLogger("shmstats")

FILE = "simple.json"
PREVIOUS = "simple.json.1"

#: Temporary files: the pid of the maker, and a number. The maker holds a lock (flock) on it while it needs the file.
_TEMPORARY = re.compile(rf"(\.{re.escape(FILE)}\.\d+-\d+)(\.1)?")

#: Files that this process needs: on NFS, a process can lock a file that it has already locked.
_needed: set[Path] = set()

#: Errors of this process, not of a file, which a later attempt may read; None: what a signal handler raised.
_PASSING = (None, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

#: On a volume without locks, seconds without a write after which a temporary file is a dead maker's.
_OLD = 3600


def save(directory: Path, snapshot: Snapshot) -> None:
    """Replace the saved snapshot, atomically; timestamps and gauges by worker are left out.

    Args:
        directory: of the statistics; created if it is missing.
        snapshot: to save.

    Raises:
        OSError: it could not be written. The previous snapshot still exists.
    """
    written = write(directory, snapshot)
    try:
        written.put_in_place()
    finally:
        written.discard()
    written.sync()


def remove(directory: Path, category: str, metric: str | None) -> int:
    """Remove a metric, or a whole category, from the saved snapshot; returns the number of removed series.

    Args:
        directory: of the statistics, which no process may use meanwhile.
        category: of the series.
        metric: of the category; None for all.

    Raises:
        OSError: the snapshot could not be written. The previous one still exists.
    """
    newest = load_newest(directory)
    if newest is None:
        return 0
    before = newest[1].snapshot
    kept = [i for i, name in enumerate(before.names) if name.category != category or metric not in (None, name.metric)]
    if len(kept) < len(before.names):
        save(directory, Snapshot([before.names[i] for i in kept], [before.values[i] for i in kept]))
    return len(before.names) - len(kept)


class Written:
    """A snapshot written under a temporary name, which can replace the saved one.

    Args:
        file: the temporary file.
        fd: of the file, which is locked until `discard`, so that no process takes it for a dead process's.
    """

    def __init__(self, file: Path, fd: int) -> None:
        self._file, self._fd = file, fd

    def put_in_place(self) -> None:
        """Make it the saved snapshot, and keep the previous one; fast, because it does not wait for the disk.

        Raises:
            OSError: that failed. The previous snapshot still exists.
        """
        target, previous = self._file.with_name(FILE), self._file.with_name(PREVIOUS)
        if target.is_file() and not target.is_symlink():
            second = f"{self._file}.1"
            try:
                have_twice(target, second)
                os.replace(second, previous)
            except OSError:
                # It is another user's, and cannot be read: for a moment only the previous one exists.
                with suppress(FileNotFoundError):
                    os.unlink(second)
                os.replace(target, previous)
        os.replace(self._file, target)

    def discard(self) -> None:
        """Remove it, unless it was put in place, and unlock it; must be called once."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._file)
        finally:
            os.close(self._fd)
            _needed.discard(self._file)

    def sync(self) -> None:
        """Sync the directory, so that the rename is on the disk, too.

        Raises:
            OSError: that failed.
        """
        fd = above_standard(os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


_number = itertools.count()


def write(directory: Path, snapshot: Snapshot) -> Written:
    """Write a snapshot to a temporary file, and sync it.

    Args:
        directory: as for `save`.
        snapshot: as for `save`.

    Raises:
        OSError: it could not be written.
    """
    make_directory(directory)
    written, fd = _new_file(directory)
    try:
        with open(fd, "wb", closefd=False) as stream:  # not by os.fdopen: that of eventlet closes it
            stream.writelines(encode(snapshot))
            stream.flush()
            os.fsync(fd)
    except BaseException:
        written.discard()
        raise
    return written


def _new_file(directory: Path) -> tuple[Written, int]:
    """Make a temporary file; return it and its descriptor, which is locked."""
    while True:
        # Two threads may write at once, for registries of their own; and a pid may be there in two namespaces.
        file = directory / f".{FILE}.{os.getpid()}-{next(_number)}"
        _needed.add(file)
        try:
            fd = open_file(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except OSError as error:
            _needed.discard(file)
            if isinstance(error, FileExistsError):
                continue
            raise
        written = Written(file, fd)
        try:
            with suppress(OSError):  # another one removes it just now, or the volume has no locks
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _give_away(file)
            if os.fstat(fd).st_nlink:
                return written, fd
        except FileNotFoundError:
            pass
        except BaseException:
            written.discard()
            raise
        written.discard()


def load(file: Path) -> Snapshot:
    """Read one saved snapshot, but not behind a link; series that are not allowed are left out.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        SnapshotError: it is none, or damaged, or of a later version.
    """
    return decode(file, read_file(file)).snapshot


def load_newest(directory: Path, tell: Callable[[str], object] = log.error) -> tuple[Path, Saved] | None:
    """Read the newest valid snapshot of a statistics directory, and set damaged ones aside.

    Args:
        directory: of the statistics.
        tell: called with a line about each damaged one, and about series that are left out.

    Returns:
        Its file and what it has, or None if nothing valid was saved.

    Raises:
        OSError: there is no descriptor or memory left to read it, or a signal handler has raised it.
    """
    for file in (directory / FILE, directory / PREVIOUS):
        try:
            saved = decode(file, read_file(file))
        except FileNotFoundError:
            continue
        except SnapshotError as error:
            tell(f"{error}; {_set_aside(file, 'damaged')}")
        except OSError as error:
            if error.errno in _PASSING:
                raise
            tell(f"snapshot {file} cannot be read: {error}; {_set_aside(file, 'unreadable')}")
        else:
            if saved.left_out:
                series, reason = saved.left_out[0]
                tell(
                    f"{len(saved.left_out)} series of snapshot {file} are not allowed and were left out, the first of"
                    f" them {series}: {reason}; {keep(file)}"
                )
            return file, saved
    return None


def keep(file: Path) -> str:
    """Keep a snapshot that was not restored as a whole under another name, too; returns what became of it."""
    return _named_anew(file, "unrestored", "kept", have_twice)


def stale(directory: Path) -> list[Path]:
    """Return the temporary files of makers that were killed: nobody has them locked.

    Raises:
        OSError: the directory cannot be read.
    """
    with os.scandir(directory) as entries:
        matches = [match for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
    return [directory / match[0] for match in matches if not _is_locked(directory / match[1])]


def remove_stale(directory: Path) -> None:
    """Remove the temporary files of makers that were killed; whoever lives keeps its own."""
    with suppress(OSError):  # the directory may not be there, or no descriptor be left
        for file in stale(directory):
            with suppress(OSError):
                os.unlink(file)


def _is_locked(file: Path) -> bool:
    """Tell whether the maker of a temporary file lives; it may if that cannot be found out."""
    if file in _needed:
        return True
    try:
        fd = open_file(file, os.O_WRONLY)  # NFS locks for one alone what is open for writing
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ELOOP)  # a link was made by no saver
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return time.time() - os.fstat(fd).st_mtime < _OLD
    finally:
        os.close(fd)
    return False


def _set_aside(file: Path, what: str) -> str:
    """Give a damaged or unreadable file another name, so that no save replaces it; returns what became of it."""
    return _named_anew(file, what, "set aside", os.rename)


def _named_anew(file: Path, what: str, done: str, give: Callable[[Path, Path], object]) -> str:
    moment = time.strftime("%Y%m%dT%H%M%S")
    names = (f"{file.name}.{what}-{moment}{number}" for number in ("", *(f"-{n}" for n in range(1, 1000))))
    name = next((file.with_name(name) for name in names if not os.path.lexists(file.with_name(name))), None)
    if name is None:
        return f"the snapshot could not be {done}: there are too many {what} ones already"
    try:
        give(file, name)
    except OSError as error:
        return f"the snapshot could not be {done}: {error}"
    return f"the snapshot was {done} as {name}"


def have_twice(file: Path, name: Path | str) -> None:
    """Give a file a second name: by a link, or a copy if the volume or the owner does not allow links.

    Raises:
        OSError: it cannot be read, or there is no room.
    """
    with suppress(FileNotFoundError):
        os.unlink(name)
    try:
        os.link(file, name)
    except OSError:
        with open(open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as copy:
            copy.write(read_file(file))
        _give_away(Path(name))


def _give_away(path: Path) -> None:
    """As root, give a new path to the owner of its directory: root acts for that user."""
    if os.geteuid() == 0:
        above = path.parent.stat()
        if above.st_uid != 0:
            os.chown(path, above.st_uid, above.st_gid, follow_symlinks=False)
