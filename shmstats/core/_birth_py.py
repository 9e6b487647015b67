"""When a file was made: the twin of ``birth.h``."""

from __future__ import annotations

import struct

# Of the struct of statx(2): the bit of the time of birth in its mask, its offset; and what stands for a path's start.
_WITH_BIRTH, _OF_BIRTH, _AT_FDCWD = 0x800, 80, -100


def time_of_birth(path: bytes) -> int:
    """Return when a file was made, in ns since 1970; 0 where the system does not tell."""
    import ctypes  # as much to load as all of the core, and not there in every Python

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
