"""The data directory: listing its content, and deleting files in it.

Paths come from untrusted clients, so none is given to the kernel as a whole. The data directory is opened by its
configured path, and every name after that relative to the descriptor of the directory before it, with O_NOFOLLOW. So
what was checked is what is acted on, even if a directory is replaced in between. Links are listed as links.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired, TypedDict
from urllib.parse import quote

#: Limits of one listing: levels of directories below the listed one, and entries in all of them.
MAX_DEPTH = 8
MAX_ENTRIES = 10_000

#: Longest name and longest path in bytes on Linux (NAME_MAX, PATH_MAX).
MAX_NAME = 255
MAX_PATH = 4095

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class PathError(ValueError):
    """A path that is not allowed, leads through a link, or leads to something of the wrong type."""


class InUseError(Exception):
    """The file must not be deleted, because a process uses it."""


class Entry(TypedDict):
    r"""One entry of a directory.

    Attributes:
        name: of the entry. Bytes of it that are not UTF-8 are written as ``\xNN``.
        quoted: only where there are such bytes: the name percent-encoded, as a URL needs it.
        type: ``file``, ``directory``, ``link``, ``fifo``, ``socket`` or ``device``.
        size: in bytes; of a link or directory its own, not that of its content.
        create_time: ISO 8601, UTC. The birth time if Python tells it (on Linux from 3.15), otherwise the
            time of the last change of content, owner or mode (ctime), which is not earlier.
        children: the entries of a directory, sorted by name; empty for everything else.
        truncated: only if true: ``children`` are incomplete, because of a limit or a missing permission.
    """

    name: str
    quoted: NotRequired[str]
    type: str
    size: int
    create_time: str
    children: list[Entry]
    truncated: NotRequired[bool]


def list_directory(directory: Path, path: Sequence[str] = ()) -> Entry:
    """List a directory, the directories in it, and so on, as far as `MAX_DEPTH` and `MAX_ENTRIES` allow.

    Each level is listed completely before the next, so that a limit cuts off the deepest levels.

    Args:
        directory: the data directory.
        path: the names that lead from there to the directory to list, undecodable bytes as in `os.fsdecode`.

    Returns:
        The entry of the directory itself, ``""`` being the name of the data directory.

    Raises:
        PathError: a name is not allowed, or is a link.
        FileNotFoundError: it does not exist.
        NotADirectoryError: it exists, but is not a directory.
        PermissionError: it may not be read.
    """
    _check(path)
    with _opened(directory, path) as root:
        top = _entry(path[-1] if path else "", os.fstat(root))
        room = MAX_ENTRIES
        pending: deque[tuple[tuple[str, ...], Entry]] = deque([((), top)])
        while pending:
            below, place = pending.popleft()
            if room == 0 or len(below) == MAX_DEPTH:
                place["truncated"] = True
                continue
            try:
                with _opened_below(root, below) as descriptor:
                    names, children, complete = _read(descriptor, room)
            except (OSError, PathError):  # removed, replaced or made unreadable since it was listed
                if not below:
                    raise
                place["truncated"] = True
                continue
            place["children"] = children
            if not complete:
                place["truncated"] = True
            room -= len(children)
            for name, child in zip(names, children, strict=True):
                if child["type"] == "directory":
                    pending.append(((*below, name), child))
    return top


def delete_file(
    directory: Path, path: Sequence[str], in_use: Callable[[Sequence[str]], bool] = lambda path: False
) -> None:
    """Delete one regular file.

    Args:
        directory: the data directory.
        path: the names that lead from there to the file, undecodable bytes as in `os.fsdecode`.
        in_use: tells whether a path is in use. Sockets and files called ``*.lock`` always are.

    Raises:
        PathError: a name is not allowed or is a link, or the last one is not a regular file.
        FileNotFoundError: it does not exist.
        NotADirectoryError: a name before the last one is not a directory.
        InUseError: the file is in use.
        PermissionError: the directory may not be written.
    """
    _check(path)
    if not path:
        raise PathError("the data directory itself cannot be deleted")
    name = path[-1]
    with _opened(directory, path[:-1]) as parent:
        kind = _type(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        if kind == "socket" or (kind == "file" and (name.endswith(".lock") or in_use(path))):
            raise InUseError(f"{name!r} is in use")
        if kind != "file":
            raise PathError(f"{name!r} is a {kind}; only a regular file can be deleted")
        try:
            # If the name was replaced since: a link is removed itself, a directory is refused.
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            raise PathError(f"{name!r} is a directory; only a regular file can be deleted") from None


def _check(path: Sequence[str]) -> None:
    """Refuse names that no directory can have, or that refer to another directory.

    Raises:
        PathError: with the name and what is allowed.
    """
    length = 0
    for name in path:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise PathError(
                f"a name of the path is {name!r:.80}; it must not be empty, '.' or '..', or hold '/' or NUL"
            )
        try:
            size = len(os.fsencode(name))
        except UnicodeEncodeError:
            raise PathError(f"a name of the path is {name!r:.80}, which stands for no bytes") from None
        if size > MAX_NAME:
            raise PathError(f"a name of the path has {size} bytes; allowed are at most {MAX_NAME}")
        length += size + 1
    if length > MAX_PATH:
        raise PathError(f"the path has {length} bytes; allowed are at most {MAX_PATH}")


@contextmanager
def _opened(directory: Path, path: Sequence[str]) -> Iterator[int]:
    """Give a descriptor of a directory below the data directory, whose own path may contain links."""
    root = os.open(directory, _DIRECTORY)
    try:
        with _opened_below(root, path) as descriptor:
            yield descriptor
    finally:
        os.close(root)


@contextmanager
def _opened_below(root: int, path: Sequence[str]) -> Iterator[int]:
    """Give a descriptor of the directory that names lead to, one by one, from another directory."""
    descriptor = os.dup(root)
    try:
        for name in path:
            inner = _open_directory(name, descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _open_directory(name: str, parent: int) -> int:
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        # The open has failed already; this only finds out why.
        if _type(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode) == "link":
            raise PathError(f"{name!r} is a link; links are not followed") from None
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None


def _read(descriptor: int, room: int) -> tuple[list[str], list[Entry], bool]:
    """Return names and entries of a directory, sorted, at most ``room`` of them, and whether these are all."""
    found: dict[str, Entry] = {}
    complete = True
    with os.scandir(descriptor) as entries:
        for entry in entries:
            if len(found) == room:
                complete = False
                break
            with suppress(FileNotFoundError):  # deleted since
                found[entry.name] = _entry(entry.name, entry.stat(follow_symlinks=False))
    names = sorted(found)
    return names, [found[name] for name in names], complete


def _entry(name: str, found: os.stat_result) -> Entry:
    encoded = os.fsencode(name)
    created = datetime.fromtimestamp(getattr(found, "st_birthtime", found.st_ctime), UTC)
    entry = Entry(
        name=encoded.decode(errors="backslashreplace"),
        type=_type(found.st_mode),
        size=found.st_size,
        create_time=created.isoformat(timespec="milliseconds"),
        children=[],
    )
    if encoded != entry["name"].encode():
        entry["quoted"] = quote(encoded, safe="")
    return entry


def _type(mode: int) -> str:
    return _TYPES.get(stat.S_IFMT(mode), "device")
