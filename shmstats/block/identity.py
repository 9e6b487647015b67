"""Which block belongs to a data directory, and whose it is.

A block belongs to the owner of the data directory. That user and root may use it, and what root makes is given to the
owner. Directories are told apart by device and inode, so that every path and mount leads to one block.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..hashing import blake2b
from ..once import Once
from ..proc import there_is_proc
from .errors import BlockError

log = logging.getLogger("shmstats")

#: Where Linux keeps POSIX shared memory, see shm_overview(7): shm_open has no other place. That anybody may write
#: there is what `Identity.refuse` and exclusive creation are for.
SHARED_MEMORY = "/dev/shm"  # nosec B108

_logged = Once()

#: How the names of all our segments begin.
PREFIX = "shmstats_"


class Identity(NamedTuple):
    """A data directory and its block: computed once by `identify`, and taken by everything that needs a path or owner.

    Attributes:
        directory: the data directory, with all links resolved: where the block's statistics are saved.
        name: of the segment; a path where there is no shared memory, and the block is a file in the directory.
        owner: user id of the directory's owner; of this process where there is no directory.
        group: group id of the directory.
        key: device and inode of the directory; None where there is none.
    """

    directory: Path
    name: str
    owner: int
    group: int
    key: tuple[int, int] | None

    @property
    def segment(self) -> str:
        """Path of the segment's file."""
        return os.path.join(SHARED_MEMORY, self.name)

    def socket(self, slot: int) -> str:
        """Return the path of a worker's socket: short, for there is room for 108 bytes (unix(7))."""
        return f"{self.segment}.{slot}.sock"

    @property
    def legacy_segments(self) -> list[str]:
        """Paths of the segments that version 0.1 has for this directory: its owner's, root's, and this user's."""
        place = blake2b(os.fsencode(self.directory), digest_size=8).hexdigest()
        users = {self.owner, 0, os.geteuid()}
        return [f"{SHARED_MEMORY}/{PREFIX}{user}_{place}" for user in sorted(users)]

    def check_user(self) -> None:
        """Refuse who may not use the block, by a BlockError that names the directory, its owner and what to do."""
        if not self.permits(os.geteuid()):
            raise BlockError(
                f"data directory {self.directory} belongs to user {_called(self.owner)}, this process runs as user"
                f" {_called(os.geteuid())}: run it as the owner or as root, or give it another path.data"
            )

    def permits(self, user: int) -> bool:
        """Tell whether a user may use the block."""
        return user in (self.owner, 0)

    def is_current(self) -> bool:
        """Tell whether the directory's path still leads to the same directory, or to none."""
        try:
            found = os.stat(self.directory)
        except OSError:
            return True
        return self.key in (None, (found.st_dev, found.st_ino))

    def birth(self) -> int:
        """Return when the directory was made, in ns since 1970; 0 where the system does not tell.

        The inode of a removed directory is given to another one, whose block is not the one that is left of the first.
        """
        return 0 if self.key is None else _birth(self.directory)

    def give(self, descriptor: int) -> None:
        """Give a file that was just made to the owner of the data directory, where this is root."""
        if os.geteuid() == 0 and self.owner != 0:
            os.fchown(descriptor, self.owner, self.group)


def identify(directory: Path, make: bool = False) -> Identity:
    """Return the identity of a data directory.

    Where there is no directory, the block is that of the path and of this user.

    Args:
        directory: absolute path of the data directory.
        make: whether to make the directory where it is missing, if that is possible.

    Raises:
        BlockError: this user may not even see the directory.
    """
    resolved = Path(os.path.realpath(directory))
    if make:
        with suppress(OSError):
            make_directory(resolved)
    by_path = f"{PREFIX}path_{blake2b(os.fsencode(resolved), digest_size=8).hexdigest()}"
    try:
        found = os.stat(resolved)
    except PermissionError as error:
        raise BlockError(
            f"data directory {directory} cannot be seen by user {_called(os.geteuid())} ({error.strerror}): run this as"
            " the owner of the directory or as root, or give it another path.data"
        ) from None
    except OSError:
        found = None
    if not os.path.isdir(SHARED_MEMORY):
        by_path = str(resolved / by_path)
        if _logged.first(str(resolved)):
            log.warning("there is no %s: the block is a file in %s, and slower on a disk", SHARED_MEMORY, resolved)
    if not there_is_proc() and _logged.first("/proc"):
        log.warning(
            "there is no /proc: who lives is known by record locks and psutil, and nobody tells whose process a client"
            " is, so /debug and /_local want the token from everybody"
        )
    if found is None or not stat.S_ISDIR(found.st_mode):
        return Identity(resolved, by_path, os.geteuid(), os.getegid(), None)
    name = os.path.join(os.path.dirname(by_path), f"{PREFIX}{found.st_dev:x}_{found.st_ino:x}")
    if os.path.lexists(os.path.join(SHARED_MEMORY, by_path)):
        name = by_path  # it was made when there was no directory, and is used until its last process has saved it
    return Identity(resolved, name, found.st_uid, found.st_gid, (found.st_dev, found.st_ino))


def make_directory(directory: Path) -> None:
    """Make a directory, and what is missing above it, for its owner alone.

    What root makes belongs to the owner of the directory above.
    """
    if directory.is_dir():
        return
    make_directory(directory.parent)
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        if os.geteuid() == 0:
            above = os.stat(directory.parent)
            os.chown(directory, above.st_uid, above.st_gid, follow_symlinks=False)


def _called(user: int) -> str:
    """Return a user's number, and its name where it has one."""
    try:
        return f"{user} ({pwd.getpwuid(user).pw_name})"
    except (KeyError, OSError):
        return str(user)


# Where a `struct statx` has the time of birth, and what asks for it: statx(2).
_STATX_BTIME, _AT_FDCWD, _BIRTH = 0x800, -100, 80


def _birth(path: Path) -> int:
    import ctypes  # takes longer than the rest of this room, and is for a block that is made or adopted

    found = ctypes.create_string_buffer(256)
    try:
        failed = ctypes.CDLL(None).statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, found)
    except (AttributeError, OSError):
        return 0
    (mask,) = struct.unpack_from("<I", found)
    if failed or not mask & _STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("<qI", found, _BIRTH)
    return int(seconds * 10**9 + nanoseconds)
