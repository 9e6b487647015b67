"""The saved snapshot: `format` writes the content of the file, `decoding` reads it, `store` manages the files."""

from __future__ import annotations

from .format import SnapshotError
from .store import load, load_newest

__all__ = ["SnapshotError", "load", "load_newest"]
