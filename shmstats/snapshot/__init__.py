"""The saved snapshot: `format` writes the content of the file, `decoding` reads it, `store` manages the files."""

from __future__ import annotations

from .format import SnapshotError
from .store import (
    FILE,
    PREVIOUS,
    have_twice,
    keep,
    load,
    load_newest,
    make_private,
    remove,
    remove_stale,
    save,
    stale,
    stats_directory,
    write,
)

__all__ = [
    "FILE",
    "PREVIOUS",
    "SnapshotError",
    "have_twice",
    "keep",
    "load",
    "load_newest",
    "make_private",
    "remove",
    "remove_stale",
    "save",
    "stale",
    "stats_directory",
    "write",
]
