"""Which block belongs to a data directory, and which user owns it.

A block belongs to the owner of the data directory. That user and root may use it, and files made by root are given to
the owner. Directories are identified by device, inode and birth time, so every path and mount leads to one block,
and a directory that reuses the inode of a removed one does not get the block of that.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..core import time_of_birth
from ..frozen import NamedTuple
from ..hashing import blake2b
from ..once import Once
from ..proc import there_is_proc
from .errors import BlockError

log = logging.getLogger("shmstats")

#: Where Linux keeps POSIX shared memory, see shm_overview(7): shm_open has no other place. Anybody may write there, so
#: `check_trust` of `shmstats.block.segment` checks owners and creation is exclusive.
SHARED_MEMORY = "/dev/shm"  # nosec B108

_logged = Once()

#: Prefix of the names of all our segments.
PREFIX = "shmstats_"


#: What the kernel shows in the place of all users that a user namespace does not map: user_namespaces(7).
_NOBODY = 65534


class Identity(NamedTuple):
    """A data directory and its block: computed once by `identify`, and used for every path and owner.

    Attributes:
        directory: the data directory, with all links resolved: where the block's statistics are saved.
        segment: path of the segment's file.
        owner: user id of the directory's owner; of this process if there is none.
        group: group id of the directory.
        key: device, inode and birth time (ns since 1970; 0: unknown) of the directory; None if there is none.
    """

    directory: Path
    segment: str
    owner: int
    group: int
    key: tuple[int, int, int] | None

    @property
    def name(self) -> str:
        """The name of the segment; a path if there is no shared memory, and the block is a file in the directory."""
        return self.segment.removeprefix(f"{SHARED_MEMORY}/")

    @property
    def legacy_segments(self) -> list[str]:
        """Paths of the segments of version 0.1 for this directory: its owner's, root's, and this user's."""
        place = blake2b(os.fsencode(self.directory), digest_size=8).hexdigest()
        users = {self.owner, 0, os.geteuid()}
        return [f"{SHARED_MEMORY}/{PREFIX}{user}_{place}" for user in sorted(users)]

    def check_user(self) -> None:
        """Refuse a user who may not use the block.

        Raises:
            BlockError: with the directory, its owner and what to do.
        """
        if is_unmapped(self.owner):
            raise BlockError(
                f"data directory {self.directory} belongs to a user that the user namespace of this process does not"
                " map, and cannot tell from others: map that user, or give it another path.data"
            )
        if os.geteuid() not in (self.owner, 0):
            raise BlockError(
                f"data directory {self.directory} belongs to user {_called(self.owner)}, this process runs as user"
                f" {_called(os.geteuid())}: run it as the owner or as root, or give it another path.data"
            )

    def is_current(self) -> bool:
        """Tell whether the directory's path still leads to the same directory, or to none."""
        key = _key_of(str(self.directory))
        return None in (key, self.key) or key == self.key

    def give(self, descriptor: int) -> None:
        """As root, give a file that was just made to the owner of the data directory."""
        if os.geteuid() == 0 and self.owner != 0:
            os.fchown(descriptor, self.owner, self.group)


def is_unmapped(user: int) -> bool:
    """Tell whether a user's number stands for all users that the user namespace of this process does not map."""
    if user != _NOBODY:
        return False
    try:
        with open("/proc/self/uid_map") as file:
            ranges = [tuple(map(int, line.split())) for line in file]
    except OSError:  # there are no namespaces
        return False
    return not any(first <= user < first + number for first, _, number in ranges)


def identify(directory: Path, make: bool = False) -> Identity:
    """Return the identity of a data directory.

    Without a directory, the block is that of the path and of this user.

    Args:
        directory: absolute path of the data directory.
        make: whether to create the directory if it is missing, if that is possible.

    Raises:
        BlockError: this user may not even see the directory.
    """
    place = os.path.realpath(directory)
    resolved = directory if place == str(directory) else Path(place)
    by_path = f"{PREFIX}path_{blake2b(os.fsencode(place), digest_size=8).hexdigest()}"
    found = _stat(place)
    if found is None and make:
        with suppress(OSError):
            make_directory(resolved)
        found = _stat(place)
    shared = os.path.isdir(SHARED_MEMORY)
    if not shared and _logged.first(place):
        log.warning("there is no %s: the block is a file in %s, and slower on a disk", SHARED_MEMORY, place)
    if not there_is_proc() and _logged.first("/proc"):
        log.warning(
            "there is no /proc: record locks and psutil show which processes live, and a client's process cannot be"
            " identified, so everybody needs the token for /debug and /_local"
        )
    where = SHARED_MEMORY if shared else place
    key = _key_of(place) if found is not None and stat.S_ISDIR(found.st_mode) else None
    if found is None or key is None:
        return Identity(resolved, f"{where}/{by_path}", os.geteuid(), os.getegid(), None)
    name = by_path  # a block made when there was no directory is used until its last process has saved it
    if not os.path.lexists(f"{where}/{name}"):
        name = _name_of(key, shared)
        if make and not os.path.lexists(f"{where}/{name}"):
            # The first change of a directory from a container's image copies it, with a new birth time: do that now.
            with suppress(OSError):
                os.utime(place, ns=(found.st_atime_ns, found.st_mtime_ns))
                found, key = os.stat(place), _key_of(place) or key
                name = _name_of(key, shared)
    return Identity(resolved, f"{where}/{name}", found.st_uid, found.st_gid, key)


def _name_of(key: tuple[int, int, int], shared: bool) -> str:
    """Return the name of the block of a directory that is there."""
    # Inside the directory no other block exists, and the path of a socket must be short.
    return PREFIX + "_".join(map("{:x}".format, key if shared else key[:2]))


def _stat(place: str) -> os.stat_result | None:
    """Return the status of a data directory; None if there is none.

    Raises:
        BlockError: this user may not even see it.
    """
    try:
        return os.stat(place)
    except PermissionError as error:
        raise BlockError(
            f"data directory {place} cannot be seen by user {_called(os.geteuid())} ({error.strerror}): run this as the"
            " owner of the directory or as root, or give it another path.data"
        ) from None
    except OSError:
        return None


def files_beside(segment: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Give the files beside a segment's file whose names begin with its name and a dot, with the rest of the name.

    Raises:
        OSError: the directory cannot be read.
    """
    place, name = os.path.split(segment)
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(f"{name}."):
                yield entry, entry.name[len(name) + 1 :]


def stats_directory(data: Path) -> Path:
    """Return the directory for the saved statistics of a data directory."""
    return data / "stats"


def may_have_saved(data: Path) -> bool:
    """Tell whether a data directory may have saved statistics: their directory exists, or cannot be seen."""
    try:
        os.stat(stats_directory(data))
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return True


def make_directory(directory: Path) -> None:
    """Create a directory, with missing parents, for its owner alone: `Path.mkdir` leaves parents to the umask.

    Directories made by root belong to the owner of their parent.

    Raises:
        OSError: it cannot be created.
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
    """Return a user's number, and its name if it has one."""
    try:
        return f"{user} ({pwd.getpwuid(user).pw_name})"
    except (KeyError, OSError):
        return str(user)


def _key_of(directory: str) -> tuple[int, int, int] | None:
    """Return device, inode and birth time of a directory; None if its status cannot be read."""
    try:
        found = os.stat(directory)
        return found.st_dev, found.st_ino, time_of_birth(os.fsencode(directory))
    except OSError:
        return None
