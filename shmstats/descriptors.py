"""Opening files as everything here does: without waiting, without following a link, and never as descriptor 0 to 2.

A process may have its standard streams closed. Whatever is opened then has their numbers, and is written to by who
believes that it is a stream.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: The first number that is no standard stream's.
FIRST = 3


def open_file(path: str | Path, flags: int, mode: int = 0o600) -> int:
    """Open a file and return a descriptor of 3 or more, which no child inherits by exec.

    A fifo or device does not make the caller wait, and a link is not followed.

    Args:
        path: of the file.
        flags: as for `os.open`.
        mode: of a file that is made, before the umask.

    Raises:
        OSError: it cannot be opened; ELOOP where it is a link.
    """
    return above_standard(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode))


def leads_to(fd: int, file: os.stat_result) -> bool:
    """Tell whether a descriptor is still one of a file: who becomes a daemon closes all, and numbers are given anew."""
    try:
        return os.path.samestat(os.fstat(fd), file)
    except OSError:
        return False


def without_waiting(path: str, flags: int) -> int:
    """Open a file, for `open`, without waiting for the other end of a pipe, which may never come; it may be a link."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_file(path: str | Path) -> bytes:
    """Return what is in a regular file, which is never waited for, nor looked for behind a link.

    Raises:
        OSError: it cannot be read, or is something else.
    """
    descriptor = open_file(path, os.O_RDONLY)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "this is no regular file", str(path))
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(descriptor)


@contextmanager
def clear_of_standard() -> Iterator[None]:
    """Have descriptors that others open inside be 3 or more, for what cannot be opened by `open_file`."""
    held: list[int] = []
    try:
        while not held or held[-1] < FIRST:
            held.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        os.close(held.pop())
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def above_standard(descriptor: int) -> int:
    """Return a descriptor above those of the standard streams: the given one, or one in its place.

    Raises:
        OSError: there is none left; the given one is closed.
    """
    if descriptor >= FIRST:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST)
    finally:
        os.close(descriptor)


def written_beside(file: Path, content: str) -> Path:
    """Write a temporary file beside one that it is to take the place of, and wait for the disk; returns its path.

    Raises:
        OSError: it cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    with open(open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary
