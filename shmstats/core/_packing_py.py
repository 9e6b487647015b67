"""The pure Python twin of packing.h: the series of a saved snapshot in the form of a block."""

from __future__ import annotations

import json
import math
import struct
from itertools import pairwise
from typing import Any

from ..layout import CELL, INT64_MAX, INT64_MIN, NAME

_COUNTER, _GAUGE, _HISTOGRAM = 1, 2, 3
_MONOTONIC, _MEMBER, _CARRIED = 1, 16, 128

#: Kinds in a snapshot, and the flag that each of them means.
_KINDS = {_COUNTER: _MONOTONIC, -_COUNTER: 0, _GAUGE: 0, _HISTOGRAM: 0}
_MOST_BYTES = 255
_OVERFLOW = "__overflow__"

_NUMBER = struct.Struct("<IIq")
_REAL = struct.Struct("<IIqd")

#: Cells of a histogram before its buckets.
_FIRST_BUCKET = 4


def pack_series(
    keys: bytes | memoryview,
    kinds: bytes | memoryview,
    created: bytes | memoryview,
    values: bytes | memoryview,
    metrics: dict[str, int],
    buckets: list[int],
    carried: set[int],
    latest: int,
) -> tuple[bytes, bytes, bytes, bytes] | None:
    """Pack the series of a saved snapshot in the form of a block, as far as they are simple.

    A series is simple if it is as today's version saves it; others may be wrong, or need a closer look.

    Args:
        keys: a list in JSON, of UTF-8: category, metric, and label names and values, joined by NUL.
        kinds: likewise: as `shmstats.series.Kind`; negative: a counter that was decremented.
        created: likewise: ns since 1970.
        values: likewise: integers; of gauges also floats; of histograms sum, maximum, minimum, number of the first
            bucket, and a list of the buckets from there on.
        metrics: numbers of metrics, by category and metric joined by NUL. A new metric with labels gets the
            next number.
        buckets: number of buckets of a metric's histograms, by its number; 0: they are not simple, nor are those
            without a number; -1: no series of the metric is simple.
        carried: positions of histograms with observations from other buckets.
        latest: latest possible moment of creation; a later one becomes 0: unknown.

    Returns:
        Of the simple series the keys, concatenated, a record for each, with the number of its metric + 1 as
        family, and 1 as members if it has labels, and the cells of the shared row; and a JSON list of the others,
        each a list of its position and its items of the lists. It is empty if there are none.
        None if the lists differ in length, a key is there twice, or something is not a JSON list.
    """
    lists = []
    for text in (keys, kinds, created, values):
        try:
            lists.append(json.loads(bytes(text)))
        except (ValueError, RecursionError):
            return None
    if not all(type(each) is list and len(each) == len(lists[0]) for each in lists):
        return None
    seen: set[str] = set()
    texts, records, cells, aside = bytearray(), bytearray(), bytearray(), []
    for position, (key, kind, moment, value) in enumerate(zip(*lists, strict=True)):
        if type(key) is str:
            if key in seen:
                return None
            seen.add(key)
        parts = _parts(key)
        content = b""
        if parts is not None and type(kind) is int and kind in _KINDS and _is_integer(moment):
            number = _number_of(metrics, parts)
            n_buckets = buckets[number] if 0 <= number < len(buckets) else 0
            if n_buckets >= 0:
                content = _distribution(value, n_buckets) if kind == _HISTOGRAM else _number(value, abs(kind))
        if parts is None or not content:
            aside.append([position, key, kind, moment, value])
            continue
        text, labels = key.encode(), parts[2:]
        is_member = bool(labels) and not all(value == _OVERFLOW for value in labels[1::2])
        flags = _KINDS[kind] | (_MEMBER if is_member else 0)
        if kind == _HISTOGRAM and position in carried and any(content[_FIRST_BUCKET * CELL.size :]):
            flags |= _CARRIED
        moment = moment if 0 <= moment <= latest else 0
        width = len(content) // CELL.size
        records += NAME.struct.pack(
            *(0, abs(kind), 0, flags, width, 0, number + 1, 0, 0, 0, 0, len(text), 0, 0, 1 if labels else 0, moment),
        )
        texts += text
        cells += content
    return bytes(texts), bytes(records), bytes(cells), json.dumps(aside).encode() if aside else b""


def _parts(key: Any) -> list[str] | None:
    """Return the parts of a key; None if no series can have them."""
    if type(key) is not str:
        return None
    parts = key.split("\0")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return None
    if len(parts) % 2 or max(sizes) > _MOST_BYTES:
        return None
    if not all(parts[:2]) or not all(parts[2::2]):
        return None
    return parts if all(one < other for one, other in pairwise(parts[2::2])) else None


def _number_of(metrics: dict[str, int], parts: list[str]) -> int:
    """Return the number of a metric, -1 if it has none; a new one with labels gets the next number."""
    metric = "\0".join(parts[:2])
    return metrics.setdefault(metric, len(metrics)) if len(parts) > 2 else metrics.get(metric, -1)


def _is_integer(value: Any) -> bool:
    return type(value) is int and INT64_MIN <= value <= INT64_MAX


def _number(value: Any, kind: int) -> bytes:
    """Return the cells of a counter or gauge; empty if the value is not simple."""
    if _is_integer(value):
        return _REAL.pack(0, 0, value, 0.0) if kind == _GAUGE else _NUMBER.pack(0, 0, value)
    if kind == _GAUGE and type(value) is float and math.isfinite(value):
        return _REAL.pack(0, 1, 0, value)
    return b""


def _distribution(value: Any, n_buckets: int) -> bytes:
    """Return the cells of a histogram; empty if the value is not simple."""
    if not n_buckets or type(value) is not list or len(value) != 5:
        return b""
    *figures, first, counts = value
    if not all(_is_integer(each) or (type(each) is float and math.isfinite(each)) for each in figures):
        return b""
    if not _is_integer(first) or not 0 <= first <= n_buckets or type(counts) is not list:
        return b""
    if len(counts) > n_buckets - first:
        return b""
    if not all(_is_integer(count) and count >= 0 for count in counts):
        return b""
    total, maximum, minimum = map(float, figures)
    kept = struct.unpack("<q", struct.pack("<d", max(minimum, 0.0) + 0.0))[0] + 1 if any(counts) else 0
    filled = [0] * first + list(map(int, counts))
    filled += [0] * (n_buckets - len(filled))
    return struct.pack(f"<qddq{n_buckets}q", 0, total + 0.0, max(maximum, 0.0) + 0.0, kept, *filled)
