"""``/_local/files``: the content of the data directory.

The path of a request is taken from the server's environment, because the router has it as text
without the bytes that are not UTF-8. The server decodes it once: ``%2e%2e`` becomes ``..`` and is
refused, ``%252e%252e`` is a strange name that no file has. A backslash is an ordinary character.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flask import Response, abort, request

from ..files import InUseError, PathError, delete_file, list_directory
from ..registry import stats
from ..snapshot import store as saved
from .blueprint import blueprint, json_response

#: The first parts of the path of a saved snapshot.
_SAVED = saved.stats_directory(Path()).parts


@blueprint.get("/_local/files<shmstats_below:path>/_list", merge_slashes=False)
def list_files(path: str) -> Response:
    """Answer with the content of the data directory, or of one directory in it."""
    names = _names(path, after=1)
    with _answered(names):
        try:
            listed = list_directory(stats.settings.path.data, names)
        except FileNotFoundError:
            if names:
                raise
            return json_response({"disk": []})  # the data directory is made at the first save
    cut = {"truncated": True} if listed.get("truncated") else {}
    return json_response({"disk": listed["children"], **cut})


@blueprint.delete("/_local/files<shmstats_below:path>", merge_slashes=False)
def delete(path: str) -> Response:
    """Delete one regular file of the data directory."""
    names = _names(path, after=0)
    with _answered(names):
        delete_file(stats.settings.path.data, names, _is_live_snapshot)
    return json_response({"deleted": _shown(names)})


def _names(path: str, after: int) -> list[str]:
    """Return the names in a path, as the server has them.

    Args:
        path: from the router, with its leading slash.
        after: number of names that follow it in the URL.
    """
    names = request.environ["PATH_INFO"].encode("latin-1").split(b"/")
    end = len(names) - after
    return [os.fsdecode(name) for name in names[end - path.count("/") : end]]


def _is_live_snapshot(path: Sequence[str]) -> bool:
    *directory, name = path
    return (
        stats.settings.stats.persist
        and tuple(directory) == _SAVED
        and (name in (saved.FILE, saved.PREVIOUS) or name.startswith(f".{saved.FILE}."))
    )


@contextmanager
def _answered(names: Sequence[str]) -> Iterator[None]:
    """Turn errors about a path into their status codes."""
    try:
        yield
    except PathError as error:
        abort(400, str(error))
    except (FileNotFoundError, NotADirectoryError):
        abort(404, f"there is no {_shown(names)!r:.200} in the data directory")
    except InUseError as error:
        abort(409, str(error))
    except PermissionError as error:
        abort(403, f"{_shown(names)!r:.200}: {error.strerror}")
    except OSError as error:
        busy = error.errno in (errno.EBUSY, errno.EROFS, errno.ETXTBSY)
        abort(409 if busy else 500, f"{_shown(names)!r:.200}: {error.strerror}")


def _shown(names: Sequence[str]) -> str:
    return os.fsencode("/".join(names)).decode(errors="backslashreplace")
