"""The saved snapshot: writing it, checking it, reading it back.

``simple.json`` in the directory ``stats/`` of the data directory is one JSON object::

    {"version": 2, "checksum": "<BLAKE2b of the bytes of data>", "data": {
        "saved": <seconds since 1970>, "values": [...],
        "declared": [[category, metric, help, unit, bounds], ...], "names": [...], "kinds": [...]}}

A name is category, metric, and label names and values, joined by NUL. A kind is the number of the kind, negative
for a counter that was decremented. What is declared about a metric is there once, not with each of its series.

The file is replaced whole: written under a temporary name, synced, renamed, and the directory synced. The one
before it stays as ``simple.json.1``, so there is a valid one at every moment. A damaged file is set aside as
``simple.json.damaged-<time>`` and never read again. One that was not restored as a whole, before the next takes its
place, is kept as ``simple.json.unrestored-<time>``, for people.
"""

from __future__ import annotations

import itertools
import json
import logging
import operator
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .hashing import blake2b
from .interruption import came_from_handler
from .series import Distribution, Kind, Mode, Name, Snapshot, Value

log = logging.getLogger("shmstats")

FILE = "simple.json"
PREVIOUS = "simple.json.1"

_VERSION = 2
_BEGINNING = b'{"version": '


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
    written = write(directory, snapshot)
    try:
        written.put_in_place()
    finally:
        written.discard()
    written.sync()


class Written:
    """A snapshot that was written under a temporary name, and may take the place of the saved one.

    Args:
        file: that it is in.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def put_in_place(self) -> None:
        """Have it be the saved snapshot, and keep the one before it; quick, for nothing is written here.

        Raises:
            OSError: that cannot be done. What was saved before is still there.
        """
        target, previous = self._file.with_name(FILE), self._file.with_name(PREVIOUS)
        if target.is_file() and not target.is_symlink():
            link = f"{self._file}.1"
            with suppress(FileNotFoundError):
                os.unlink(link)
            os.link(target, link)
            os.replace(link, previous)
        os.replace(self._file, target)

    def discard(self) -> None:
        """Remove it, if it was not put in place."""
        with suppress(FileNotFoundError):
            os.unlink(self._file)

    def sync(self) -> None:
        """Have the disk know of its place, too.

        Raises:
            OSError: that cannot be done.
        """
        _sync_directory(self._file.parent)


_number = itertools.count()


def write(directory: Path, snapshot: Snapshot) -> Written:
    """Write a snapshot, and wait for the disk; it is not the saved one yet.

    Args:
        directory: as for `save`.
        snapshot: as for `save`.

    Raises:
        OSError: it could not be written.
    """
    make_private(directory)
    # Two threads may write at once, for registries of their own.
    file = directory / f".{FILE}.{os.getpid()}-{next(_number)}"
    try:
        _write(file, _encode(snapshot))
    except BaseException:
        Written(file).discard()
        raise
    return Written(file)


def load(file: Path) -> Snapshot:
    """Read one saved snapshot.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        SnapshotError: it is none, or damaged, or of another version.
    """
    content = file.read_bytes()
    if content and not content.startswith(_BEGINNING):
        raise SnapshotError(f"{file} is not a snapshot of shmstats")
    return _decode(file, content)


def load_newest(directory: Path, tell: Callable[[str], object] = log.error) -> tuple[Path, Snapshot] | None:
    """Read the newest valid snapshot of a statistics directory, and set damaged ones aside.

    Args:
        directory: of the statistics.
        tell: called with a line about each damaged one.

    Returns:
        Its file and the snapshot, or None where nothing valid was saved.
    """
    for file in (directory / FILE, directory / PREVIOUS):
        try:
            return file, _decode(file, _read(file))
        except FileNotFoundError:
            continue
        except SnapshotError as error:
            tell(f"{error}; {_set_aside(file)}")
        except OSError as error:
            if came_from_handler(error):
                raise
            tell(f"snapshot {file} cannot be read: {error}")
    return None


def keep(file: Path) -> str:
    """Keep a snapshot that was not restored as a whole under another name, too; returns what became of it."""
    return _named_anew(file, "unrestored", "kept", os.link)


def _set_aside(file: Path) -> str:
    """Give a damaged file another name; returns what became of it."""
    return _named_anew(file, "damaged", "set aside", os.rename)


def _named_anew(file: Path, what: str, done: str, give: Callable[[Path, Path], None]) -> str:
    moment = time.strftime("%Y%m%dT%H%M%S")
    names = (f"{file.name}.{what}-{moment}{number}" for number in ("", *(f"-{n}" for n in range(1, 1000))))
    name = next((file.with_name(name) for name in names if not os.path.lexists(file.with_name(name))), None)
    if name is None:
        return f"there are too many {what} ones already, so it could not be {done}"
    try:
        give(file, name)
    except OSError as error:
        return f"it could not be {done}: {error}"
    return f"it was {done} as {name}"


class _Header(NamedTuple):
    """What is written of names; as long as they stay the same it is made only once.

    Attributes:
        names: of the snapshot.
        saved: positions of those that are saved; None: all.
        histograms: positions of histograms among those.
        text: the JSON of ``declared``, ``names`` and ``kinds``.
    """

    names: Sequence[Name]
    saved: list[int] | None
    histograms: list[int]
    text: bytes

    @classmethod
    def of(cls, names: Sequence[Name]) -> _Header:
        """Return that of some names."""
        saved = [i for i, name in enumerate(names) if name.kind is not Kind.TIMESTAMP and name.mode is Mode.LAST]
        chosen = names if len(saved) == len(names) else [names[i] for i in saved]
        declared: dict[tuple[str, str], tuple[str, str, tuple[float, ...]]] = {}
        keys: list[str] = []
        kinds: list[int] = []
        histograms: list[int] = []
        for category, metric, kind, labels, monotonic, bounds, help_, unit, *_ in chosen:
            if bounds or help_ or unit:
                declared[category, metric] = help_, unit, bounds
            if kind is Kind.HISTOGRAM:
                histograms.append(len(keys))
            kinds.append(-kind if kind is Kind.COUNTER and not monotonic else int(kind))
            key = f"{category}\0{metric}"
            keys.append("\0".join((key, *(part for pair in labels for part in pair))) if labels else key)
        head = {
            "declared": [(*metric, *what) for metric, what in declared.items()],
            "names": keys,
            "kinds": kinds,
        }
        text = json.dumps(head).encode()
        return cls(names, None if chosen is names else saved, histograms, text)


_header: _Header | None = None


def _encode(snapshot: Snapshot) -> bytes:
    global _header
    header = _header
    if header is None or header.names is not snapshot.names:
        header = _header = _Header.of(snapshot.names)
    values: list[Any] = list(snapshot.values)
    if header.saved is not None:
        values = [values[i] for i in header.saved]
    for i in header.histograms:
        values[i] = _plain(values[i])
    data = b'{"saved": %s, "values": %s, %s' % (
        repr(time.time()).encode(),
        json.dumps(values).encode(),
        header.text[1:],
    )
    return _prefix(data) + data + b"}\n"


def _prefix(data: bytes) -> bytes:
    checksum = blake2b(data, digest_size=16).hexdigest()
    return b'%s%d, "checksum": "%s", "data": ' % (_BEGINNING, _VERSION, checksum.encode())


def _decode(file: Path, content: bytes) -> Snapshot:
    prefix_length = len(_prefix(b""))
    data = content[prefix_length:-2]
    if content != _prefix(data) + data + b"}\n":
        if content.startswith(_BEGINNING) and not content.startswith(b"%s%d," % (_BEGINNING, _VERSION)):
            raise SnapshotError(f"snapshot {file} has another version than {_VERSION}")
        raise SnapshotError(f"snapshot {file} is damaged: its checksum does not fit")
    try:
        content_of: dict[str, Any] = json.loads(data)
        declared = {
            (category, metric): (tuple(map(float, bounds)), str(help_), str(unit))
            for category, metric, help_, unit, bounds in content_of["declared"]
        }
        rows = zip(content_of["names"], content_of["kinds"], strict=True)
        names = [_name(declared, key, kind) for key, kind in rows]
        values = list(map(_value, content_of["values"]))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise SnapshotError(f"snapshot {file} has content that cannot be understood: {error!r}") from error
    if len(names) != len(values):
        raise SnapshotError(f"snapshot {file} has {len(names)} names, but {len(values)} values")
    return Snapshot(names, values)


_NOTHING_DECLARED: tuple[tuple[float, ...], str, str] = ((), "", "")
_KINDS = {int(kind): kind for kind in Kind}


def _name(declared: Mapping[tuple[str, str], tuple[tuple[float, ...], str, str]], key: str, kind: int) -> Name:
    """Return the name that a snapshot has as a key and the number of a kind.

    Raises:
        ValueError: it is none.
        KeyError: there is no such kind.
    """
    category, metric, *rest = key.split("\0")
    labels = tuple(zip(rest[::2], rest[1::2], strict=True)) if rest else ()
    what = declared.get((category, metric), _NOTHING_DECLARED)
    return Name(category, metric, _KINDS[abs(kind)], labels, kind == Kind.COUNTER, *what)


def _plain(value: Value) -> Value | list[Any]:
    """Return a histogram's value as JSON has it."""
    return [value.sum, value.max, value.buckets] if isinstance(value, Distribution) else value


def _value(plain: Any) -> Value:
    """Return the value that a snapshot has.

    Raises:
        TypeError: there is none.
        ValueError: there is none.
    """
    if type(plain) is int:
        return plain
    if isinstance(plain, list):
        total, maximum, buckets = plain
        return Distribution(float(total), float(maximum), tuple(map(operator.index, buckets)))
    if isinstance(plain, (int, float)):
        return plain
    raise TypeError(f"{plain!r:.80} is no value")


def make_private(directory: Path) -> None:
    """Make a directory, and what is missing above it, for this user alone: `Path.mkdir` leaves parents to the umask."""
    if not directory.is_dir():
        if directory.parent != directory:
            make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _read(file: Path) -> bytes:
    """Read a file that is ours to replace, which is never a link and never waited for."""
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as stream:
        return stream.read()


def _write(file: Path, content: bytes) -> None:
    """Write a new file; one that is there, from a process that was killed, may have another mode or be a link."""
    with suppress(FileNotFoundError):
        os.unlink(file)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
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
