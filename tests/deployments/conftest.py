"""Libraries that simulate a deployment's disk and system, and fixtures for programs and real servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import segment_file

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS / folder) for folder in ("integrations", "real", "../scripts")]

#: A volume without hard links (SMB, exFAT, a bucket by FUSE).
NO_LINKS = """
#include <errno.h>
int link(const char *a, const char *b) { errno = EOPNOTSUPP; return -1; }
int linkat(int a, const char *b, int c, const char *d, int e) { errno = EOPNOTSUPP; return -1; }
"""

#: A volume without locks of whole files, and NFS, where such a lock is a record lock: it belongs to the process, and
#: is exclusive only on a file open for writing.
NO_LOCKS = """
#include <errno.h>
int flock(int fd, int operation) { errno = ENOLCK; return -1; }
"""
NFS_LOCKS = """
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
int flock(int fd, int operation) {
    struct flock whole = {.l_type = operation & LOCK_UN ? F_UNLCK : operation & LOCK_EX ? F_WRLCK : F_RDLCK};
    if (fcntl(fd, operation & LOCK_NB ? F_SETLK : F_SETLKW, &whole) == 0) return 0;
    if (errno == EACCES) errno = EWOULDBLOCK;
    return -1;
}
"""

#: A slow disk, like NFS and a cloud volume without credit.
SLOW_FSYNC = """
#include <time.h>
#include <unistd.h>
int fsync(int fd) { struct timespec t = {1, 0}; nanosleep(&t, 0); return 0; }
int fdatasync(int fd) { return fsync(fd); }
"""

#: A filter of system calls that refuses pipe2 until the current directory has a file ``pipes``.
NO_PIPES = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>
int pipe2(int fds[2], int flags) {
    if (access("pipes", F_OK) == 0) return syscall(SYS_pipe2, fds, flags);
    errno = EPERM;
    return -1;
}
"""

SOURCES = {
    "no_links": NO_LINKS,
    "no_locks": NO_LOCKS,
    "nfs_locks": NFS_LOCKS,
    "slow_fsync": SLOW_FSYNC,
    "no_pipes": NO_PIPES,
}


@pytest.fixture
def preload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make processes started from now on preload a library: ``preload("no_links")``."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")

    def preload(name: str) -> None:
        library = tmp_path / f"{name}.so"
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
        subprocess.run(command, input=SOURCES[name], text=True, check=True)
        monkeypatch.setenv("LD_PRELOAD", str(library))

    return preload


@pytest.fixture
def lose_power(data: Path) -> Callable[..., None]:
    """Kill processes and remove their block: ``lose_power(child, other)``."""

    def lose_power(*children: object) -> None:
        for child in children:
            child.kill()  # type: ignore[attr-defined]
        segment = segment_file(data)
        for file in segment.parent.glob(f"{segment.name}*"):
            os.unlink(file)

    return lose_power
