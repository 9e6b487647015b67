"""The identity of a data directory: a UUID made with it, by which its totals are known wherever they are shown.

It is stored in ``identity.json`` in the statistics directory, so it moves with the totals: over restarts, to
another machine with the volume, and also to an unwanted copy. The file also has the place where it was last used, so
that a move and a copy are noticed. See docs/fleet.md for what to do then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

from .block.identity import make_directory
from .descriptors import read_file, written_beside
from .frozen import Frozen

log = logging.getLogger("shmstats")

FILE = "identity.json"

_MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")
#: machine-id(5) must be kept secret, so only this digest of it is stored, which is of no use elsewhere.
_PURPOSE = b"shmstats identity"


class Instance(Frozen):
    """The identity of a data directory.

    Attributes:
        uuid: in its usual form of 36 characters.
        made: ns since 1970.
        machine: digest of the ID of the machine where the directory was used last; empty if there is none.
        host: the name of that machine.
        inode: of the statistics directory there, which differs in a copy; 0 if unknown.
    """

    uuid: str
    made: int
    machine: str
    host: str
    inode: int = 0


def instance_of(directory: Path) -> Instance:
    """Return the identity of a statistics directory, made if there is none; log once if it was moved or copied.

    Raises:
        OSError: there is none and it cannot be written, or it cannot be read.
        ValueError: the file contains no identity.
    """
    file = directory / FILE
    here = Instance(str(uuid.uuid4()), time.time_ns(), _machine(), socket.gethostname())
    try:
        found = _read(file)
    except FileNotFoundError:
        make_directory(directory)
        return _made(file, here.replaced(inode=directory.stat().st_ino))
    here = here.replaced(inode=directory.stat().st_ino)
    if (found.machine, found.host) != (here.machine, here.host):
        what = f"was last used on the machine {found.host}, and is now on {here.host}"
    elif found.inode not in (0, here.inode):
        what = "is a copy of another one of this machine, or was restored"
    else:
        return found
    log.warning(
        "the data directory %s %s: if both continue to be used, sums over machines take them for one; remove %s from"
        " one of the two",
        directory.parent, what, file,
    )  # fmt: skip
    moved = found.replaced(machine=here.machine, host=here.host, inode=here.inode)
    with suppress(OSError):
        os.replace(written_beside(file, json.dumps(moved.as_dict())), file)
    return moved


def _read(file: Path) -> Instance:
    content = read_file(file)
    try:
        found = Instance(**json.loads(content))
        return found.replaced(uuid=str(uuid.UUID(found.uuid)), made=int(found.made), inode=int(found.inode))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file} is no identity ({error}): remove it, and another is made") from error


def _made(file: Path, identity: Instance) -> Instance:
    """Make the file, or take the one that another process has made in the meantime."""
    temporary = written_beside(file, json.dumps(identity.as_dict()))
    try:
        os.link(temporary, file)
    except FileExistsError:
        pass
    except OSError:  # a volume without hard links
        if not file.exists():
            os.replace(temporary, file)
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    return _read(file)


def _machine() -> str:
    for path in _MACHINE_IDS:
        with suppress(OSError):
            found = Path(path).read_bytes().strip()
            if found:
                return hashlib.blake2b(found, key=_PURPOSE, digest_size=16).hexdigest()
    return ""
