"""Opening files safely: without waiting, without following a link, and never as descriptor 0 to 2.

A process may have closed its standard streams. A file opened then would get one of their numbers, and code that
writes to the stream would write into the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: The first descriptor that is not a standard stream.
FIRST = 3


def open_file(path: str | Path, flags: int, mode: int = 0o600) -> int:
    """Open a file and return a descriptor of 3 or more, which exec closes.

    The call never waits for a fifo or device, and does not follow a link.

    Args:
        path: of the file.
        flags: as for `os.open`.
        mode: of a file that is made, before the umask.

    Raises:
        OSError: it cannot be opened; ELOOP if it is a link.
    """
    return above_standard(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode))


def leads_to(fd: int, file: os.stat_result) -> bool:
    """Tell whether a descriptor still refers to a file: a process may have closed all, and numbers are reused."""
    try:
        return os.path.samestat(os.fstat(fd), file)
    except OSError:
        return False


def without_waiting(path: str, flags: int) -> int:
    """Open a file, as an opener for `open`, without waiting for the other end of a pipe; a link is followed."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_file(path: str | Path) -> bytes:
    """Return the content of a regular file, without waiting and without following a link.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open(path, "rb", opener=open_file) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "this is no regular file", str(path))
        return stream.read()


@contextmanager
def clear_of_standard() -> Iterator[None]:
    """Make all descriptors opened inside 3 or more, for libraries that cannot use `open_file`."""
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
    """Return a descriptor of 3 or more: the given one, or a duplicate instead of it.

    Raises:
        OSError: no descriptor is left; the given one is closed then.
    """
    if descriptor >= FIRST:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST)
    finally:
        os.close(descriptor)


def written_beside(file: Path, content: str) -> Path:
    """Write a temporary file beside the file that it will replace, and sync it to the disk; returns its path.

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
