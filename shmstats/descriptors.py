"""Opening files as everything here does: without waiting, without following a link, and never as descriptor 0 to 2.

A process may have its standard streams closed. Whatever is opened then has their numbers, and is written to by who
believes that it is a stream.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: The first number that is no standard stream's.
FIRST = 3


def open_file(path: str | Path, flags: int, mode: int = 0o600, dir_fd: int | None = None) -> int:
    """Open a file and return a descriptor of 3 or more, which no child inherits by exec.

    A fifo or device does not make the caller wait, and a link is not followed.

    Args:
        path: of the file.
        flags: as for `os.open`.
        mode: of a file that is made, before the umask.
        dir_fd: descriptor of the directory that a relative path begins at.

    Raises:
        OSError: it cannot be opened; ELOOP where it is a link.
    """
    return _above_standard(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=dir_fd))


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


def _above_standard(descriptor: int) -> int:
    if descriptor >= FIRST:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST)
    finally:
        os.close(descriptor)
