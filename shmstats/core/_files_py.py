"""File operations that Python does not offer: the twin of ``files.h``."""

from __future__ import annotations

import ctypes  # at once: a fork in the middle of a later import would leave the child with half a module
import errno
import os
import struct

# For statx(2): the bit of the birth time in the mask, its offset in the struct; and AT_FDCWD.
_WITH_BIRTH, _OF_BIRTH, _AT_FDCWD = 0x800, 80, -100

#: A flag of renameat2(2).
_NO_REPLACE = 1


def time_of_birth(path: bytes) -> int:
    """Return the birth time of a file in ns since 1970; 0 if the system does not provide it."""
    found = ctypes.create_string_buffer(256)
    try:
        failed = ctypes.CDLL(None).statx(_AT_FDCWD, path, 0, _WITH_BIRTH, found)
    except (AttributeError, OSError):  # another system, or an old C library
        return 0
    (mask,) = struct.unpack_from("<I", found)
    if failed or not mask & _WITH_BIRTH:
        return 0
    seconds, nanoseconds = struct.unpack_from("<qI", found, _OF_BIRTH)
    return int(seconds * 10**9 + nanoseconds)


def rename_to_new(path: bytes, place: bytes) -> None:
    """Rename a file to a name that must not exist.

    Raises:
        FileExistsError: the name exists.
        OSError: it failed for another reason.
    """
    try:
        failed = ctypes.CDLL(None, use_errno=True).renameat2(_AT_FDCWD, path, _AT_FDCWD, place, _NO_REPLACE)
        reason = ctypes.get_errno()
    except (AttributeError, OSError):
        failed, reason = -1, errno.ENOSYS
    if failed and reason in (errno.ENOSYS, errno.EINVAL):  # the file system does not support it
        os.link(path, place)
        os.unlink(path)
    elif failed:
        raise OSError(reason, os.strerror(reason), os.fsdecode(place))
