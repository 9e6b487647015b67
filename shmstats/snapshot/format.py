"""The content of the file of a saved snapshot: one JSON object, in this form since version 3::

    {"version": 3, "checksum": "<BLAKE2b of the bytes of data>", "data": {
        "saved": <seconds since 1970>, "values": [...], "declared": [[category, metric, help, unit, bounds], ...],
        "names": [...], "kinds": [...], "created": [...]}}

A name is category, metric, and label names and values, joined by NUL. A kind is the number of the kind, negative for a
counter that was decremented. Each declaration is there once, not with each of the metric's series. ``created``
is in ns since 1970, 0 if unknown. ``carried``, which is optional, has the positions among the names of
histograms with observations from other buckets (`shmstats.series.Name`).

The bounds of a histogram are a list, or for exponential ones an object of ``schema``, ``first``, ``octaves`` and
``factor`` (`shmstats.bounds`). Its value is ``[sum, maximum, minimum, number, [...]]``: the buckets from the one with
that number to the last non-empty one.

Version 2 had ``[sum, maximum, [...]]`` instead, with all buckets, lists of bounds only, and at first no ``created``.
Version 1 had a list for each column: category, metric, labels, kind, monotonic, bounds, value.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..block.records import CARRIED
from ..bounds import to_json
from ..core import bulk
from ..hashing import blake2b
from ..layout import NAME
from ..reading.catalog import Catalog
from ..reading.totals import BlockSnapshot, Totals
from ..series import Kind, Mode, Name, Snapshot
from .packing import columns_of

if TYPE_CHECKING:
    from ..core._bulk import Bulk

VERSION = 3
_VERSIONS = (1, 2, 3)
_BEGINNING = b'{"version": '


class SnapshotError(Exception):
    """A snapshot file that cannot be read: damaged, or of a later version. The message says why."""


def _is_saved(name: Name) -> bool:
    """Tell whether a series is saved: values about a moment, or about the processes themselves, are not."""
    return name.kind is not Kind.TIMESTAMP and name.mode is Mode.LAST and not name.shown


def encode(snapshot: Snapshot) -> list[bytes]:
    """Return the content of a file, in parts; timestamps and gauges by worker are left out."""
    if bulk is not None and isinstance(snapshot, BlockSnapshot):
        data = _block_data(bulk, snapshot.values.totals)
    else:
        data = [_data(snapshot)]
    saved = b'{"saved": %s, "values": ' % repr(time.time()).encode()
    return [_prefix(VERSION, saved, *data), saved, *data, b"}\n"]


def _block_data(bulk: Bulk, totals: Totals) -> list[bytes]:
    """Return the values of a block, and the text that follows from its names; mostly made without the GIL."""
    text, places, behind = _plan(bulk, totals.catalog)  # type: ignore[arg-type]  # a module is hashable
    values = bulk.fill_text(((text, places),), totals.cells)
    if b"n" in values:  # NaN or infinity, from a damaged block, which JSON writes differently
        values = values.replace(b"nan", b"NaN").replace(b"inf", b"Infinity")
    return [b"[", values, b"]", behind]


@lru_cache(maxsize=1)
def _plan(bulk: Bulk, catalog: Catalog) -> tuple[bytes, bytes, bytes]:
    """Return what follows from a block's names, made once as long as they stay the same.

    Returns:
        The text around the values, the places of these, and the JSON after them.
    """
    saved = catalog.saved
    keys, kinds, created, text, places = bulk.plan_save(catalog.records, catalog.heap, saved.tobytes())
    flags = NAME.column(catalog.records, "flags")
    carried = [i for i, number in enumerate(saved) if flags[number] & CARRIED]
    lists = b"[%s]" % keys, b"[%s]" % kinds, b"[%s]" % created
    return text, places, _behind(catalog.described, lists, carried)


def _data(snapshot: Snapshot) -> bytes:
    """Return the values of a snapshot, and the text that follows from its names."""
    saved = [pair for pair in zip(snapshot.names, snapshot.values, strict=True) if _is_saved(pair[0])]
    *lists, values = columns_of(saved)
    carried = [i for i, (name, _) in enumerate(saved) if name.carried]
    return values + _behind([name for name, _ in saved], lists, carried)


def _behind(names: Iterable[Name], lists: Iterable[bytes], carried: list[int]) -> bytes:
    """Return the JSON after the values.

    Args:
        names: whose metrics' declarations are saved.
        lists: keys, kinds and moments of creation of the series.
        carried: positions of histograms with observations from other buckets.
    """
    declared = {
        name[:2]: (name.help, name.unit, to_json(name.bounds))
        for name in names
        if name.bounds or name.help or name.unit
    }
    head = json.dumps([(*metric, *what) for metric, what in declared.items()]).encode()
    positions = b', "carried": %s' % json.dumps(carried).encode() if carried else b""
    return b', "declared": %s, "names": %s, "kinds": %s, "created": %s%s}' % (head, *lists, positions)


def _prefix(version: int, *data: bytes | memoryview) -> bytes:
    checksum = blake2b(digest_size=16)
    for part in data:
        checksum.update(part)
    return b'%s%d, "checksum": "%s", "data": ' % (_BEGINNING, version, checksum.hexdigest().encode())


def checked(file: Path, content: bytes) -> tuple[int, slice]:
    """Return the version of a file, and the place of its data.

    Raises:
        SnapshotError: it is not a snapshot, of a later version, or its checksum is wrong.
    """
    if content and not content.startswith(_BEGINNING):
        raise SnapshotError(f"{file} is not a snapshot of shmstats")
    version = next((each for each in _VERSIONS if content.startswith(b"%s%d," % (_BEGINNING, each))), None)
    if content and version is None:
        raise SnapshotError(
            f"snapshot {file} has another version than {' and '.join(map(str, _VERSIONS))}:"
            " a later version of shmstats has saved it"
        )
    start, end = len(_prefix(version or VERSION)), max(len(content) - 2, 0)
    data = memoryview(content)[start:end]
    if version is None or content[:start] != _prefix(version, data) or content[end:] != b"}\n":
        raise SnapshotError(f"snapshot {file} is damaged: its checksum does not fit")
    return version, slice(start, end)
