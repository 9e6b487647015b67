"""The saved snapshot: writing it, checking it, reading it back.

``simple.json`` in the directory ``stats/`` of the data directory is one JSON object::

    {"version": 1, "checksum": "<BLAKE2b of the bytes of data>", "data": {"saved": …, "category": […], …}}

with a list for each column of a snapshot. What is declared about a metric is there once, not with each of its
series: ``"declared": [[category, metric, help, unit, bounds], …]``. The file is replaced whole: written under
a temporary name, synced, renamed, and the directory synced. The one before it stays as ``simple.json.1``, so there is a valid one
at every moment. A damaged file is set aside as ``simple.json.damaged-<time>`` and never read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .series import Distribution, Kind, Mode, Name, Snapshot, Value

log = logging.getLogger("shmstats")

FILE = "simple.json"
PREVIOUS = "simple.json.1"

_VERSION = 2
_COLUMNS = ("category", "metric", "labels", "kind", "monotonic", "value")


class SnapshotError(Exception):
    """A snapshot file that cannot be read: damaged, or of a later version. The message says why."""


def stats_directory(data: Path) -> Path:
    """Return where the statistics of a data directory are saved."""
    return data / "stats"


def save(directory: Path, snapshot: Snapshot) -> None:
    """Replace the saved snapshot, atomically; timestamps and gauges by worker are left out.

    Args:
        directory: of the statistics; it is made where it is missing.
        snapshot: what to save.

    Raises:
        OSError: it could not be written. What was saved before is still there.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    target, previous = directory / FILE, directory / PREVIOUS
    temporary = directory / f".{FILE}.{os.getpid()}"
    try:
        _write(temporary, _encode(snapshot))
        if target.exists():
            with suppress(FileNotFoundError):
                os.unlink(f"{temporary}.1")
            os.link(target, f"{temporary}.1")
            os.replace(f"{temporary}.1", previous)
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(directory)


def load(file: Path) -> Snapshot:
    """Read one saved snapshot.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        SnapshotError: it is damaged, or of another version.
    """
    return _decode(file, file.read_bytes())


def load_newest(directory: Path, tell: Callable[[str], object] = log.error) -> Snapshot | None:
    """Read the newest valid snapshot of a statistics directory, and set damaged ones aside.

    Args:
        directory: of the statistics.
        tell: called with a line about each damaged one.

    Returns:
        The snapshot, or None where nothing valid was saved.
    """
    for file in (directory / FILE, directory / PREVIOUS):
        try:
            return load(file)
        except FileNotFoundError:
            continue
        except SnapshotError as error:
            tell(f"{error}; {_set_aside(file)}")
        except OSError as error:
            tell(f"snapshot {file} cannot be read: {error}")
    return None


def _set_aside(file: Path) -> str:
    """Give a damaged file another name; returns what became of it."""
    moment = time.strftime("%Y%m%dT%H%M%S")
    names = (f"{file.name}.damaged-{moment}{number}" for number in ("", *(f"-{n}" for n in range(1, 1000))))
    aside = next((file.with_name(name) for name in names if not os.path.lexists(file.with_name(name))), None)
    if aside is None:
        return "there are too many damaged ones already to set it aside"
    try:
        os.rename(file, aside)
    except OSError as error:
        return f"it could not be set aside: {error}"
    return f"it was set aside as {aside}"


def _encode(snapshot: Snapshot) -> bytes:
    rows = []
    declared: dict[tuple[str, str], tuple[str, str, tuple[float, ...]]] = {}
    for name, value in zip(snapshot.names, snapshot.values, strict=True):
        if name.kind is Kind.TIMESTAMP or name.mode is not Mode.LAST:
            continue
        if name.bounds or name.help or name.unit:
            declared[name.category, name.metric] = name.help, name.unit, name.bounds
        rows.append((name.category, name.metric, name.labels, int(name.kind), name.monotonic, _plain(value)))
    columns = zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
    head = {"saved": time.time(), "declared": [(*key, *what) for key, what in declared.items()]}
    data = json.dumps({**head, **dict(zip(_COLUMNS, columns, strict=True))}).encode()
    return _prefix(data) + data + b"}\n"


def _prefix(data: bytes) -> bytes:
    checksum = hashlib.blake2b(data, digest_size=16).hexdigest()
    return b'{"version": %d, "checksum": "%s", "data": ' % (_VERSION, checksum.encode())


def _decode(file: Path, content: bytes) -> Snapshot:
    prefix_length = len(_prefix(b""))
    data = content[prefix_length:-2]
    if content != _prefix(data) + data + b"}\n":
        found = content[: len(b'{"version": ')]
        if found == b'{"version": ' and not content.startswith(b'{"version": %d,' % _VERSION):
            raise SnapshotError(f"snapshot {file} has another version than {_VERSION}")
        raise SnapshotError(f"snapshot {file} is damaged: its checksum does not fit")
    try:
        columns: dict[str, Any] = json.loads(data)
        declared = {
            (category, metric): (tuple(map(float, bounds)), str(help_), str(unit))
            for category, metric, help_, unit, bounds in columns["declared"]
        }
        rows = list(zip(*(columns[column] for column in _COLUMNS), strict=True))
        names = [_name(declared, *row[:-1]) for row in rows]
        values = [_value(row[-1]) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise SnapshotError(f"snapshot {file} has content that cannot be understood: {error!r}") from error
    return Snapshot(names, values)


def _name(
    declared: Mapping[tuple[str, str], tuple[tuple[float, ...], str, str]],
    category: str,
    metric: str,
    labels: list[list[str]],
    kind: int,
    monotonic: bool,
) -> Name:
    pairs = tuple((key, value) for key, value in labels)
    what = declared.get((category, metric), ((), "", ""))
    return Name(category, metric, Kind(kind), pairs, monotonic, *what)


def _plain(value: Value) -> int | float | list[Any]:
    """Return a value as JSON has it."""
    if isinstance(value, Distribution):
        return [value.sum, value.max, value.buckets]
    return value


def _value(plain: Any) -> Value:
    """Return the value that `_plain` made this of.

    Raises:
        TypeError: there is none.
        ValueError: there is none.
    """
    if isinstance(plain, list):
        total, maximum, buckets = plain
        return Distribution(float(total), float(maximum), tuple(map(operator.index, buckets)))
    if isinstance(plain, (int, float)):
        return plain
    raise TypeError(f"{plain!r:.80} is no value")


def _write(file: Path, content: bytes) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
