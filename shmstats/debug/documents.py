"""The requests that every process serves, and the stacks of its threads, as documents for people.

A stack from `shmstats.debug.stacks` is a text with the outermost frame first. For people the first line is where the
thread is now, the application's stacks come first, library frames are folded, and the package's own threads left out.
"""

from __future__ import annotations

import re
import sysconfig
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from ..block import Worker
from ..reading.requests import Served
from .stacks import no_answer

_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)')
_INSTALLED = re.compile(r"/(?:site|dist)-packages/(?P<package>[^/]+)")
_OURS = str(Path(__file__).parents[1])
_STANDARD = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")})


def requests_document(served: Iterable[Served], older_than: float = 0.0) -> dict[str, Any]:
    """Return the requests that are being served, the longest first.

    Args:
        served: by each worker.
        older_than: shortest duration of a request, in seconds.

    Returns:
        ``requests``: for each ``pid``, ``request`` (method and path), ``began`` (ISO 8601) and ``seconds``; and
        ``further``: by pid, the number of requests that have no entry.
    """
    served = list(served)
    now = time.time_ns()
    found = sorted((request for each in served for request in each.requests), key=lambda request: request.began)
    return {
        "requests": [
            {
                "pid": request.pid,
                "request": request.text,
                "began": datetime.fromtimestamp(request.began / 1e9, UTC).isoformat(timespec="milliseconds"),
                "seconds": round(seconds, 3),
            }
            for request in found
            if (seconds := max(now - request.began, 0) / 1e9) >= older_than
        ],
        "further": {str(each.worker.pid): each.further for each in served if each.further},
    }


def stacks_document(answers: Sequence[tuple[Worker, Any | None]], served: Sequence[Served]) -> list[dict[str, Any]]:
    """Return for each process its ``pid``, the ``requests`` that it serves, and its ``stacks`` for people."""
    serving = {each.worker.pid: requests_document([each])["requests"] for each in served}
    return [
        {
            "pid": worker.pid,
            "requests": serving.get(worker.pid, []),
            "stacks": stacks_of([{"goroutine": no_answer(worker.pid), "count": 1}] if answer is None else answer),
        }
        for worker, answer in answers
    ]


def stacks_of(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the stacks of one process for people: ``count``, ``kind``, ``own`` and ``lines``; the application's first.

    Args:
        entries: as `shmstats.debug.stacks.stacks` returns them.
    """
    found = []
    for entry in entries:
        stack: str = entry["goroutine"]
        libraries, lines = fold(stack)
        if libraries not in ({"shmstats"}, {"shmstats", "python"}):  # else it is a thread of this package
            kind, frames, _ = stack.partition("\n")
            own = None in libraries
            found.append({"count": entry["count"], "kind": kind if frames else "", "own": own, "lines": lines})
    return sorted(found, key=lambda each: (not each["own"], -each["count"]))


def fold(stack: str) -> tuple[set[str | None], list[str]]:
    """Return the libraries of a stack's frames, with None for the application, and its lines, innermost first.

    A text without frames ("no answer: …") is returned unchanged.
    """
    libraries: set[str | None] = set()
    places: list[tuple[str | None, str]] = []
    for line in reversed(stack.splitlines()[1:]):
        library, text = None, line.strip()
        if frame := _FRAME.fullmatch(line):
            library, text = library_of(frame["file"]), f"{frame['function']}  {frame['file']}:{frame['line']}"
            libraries.add(library)
        places.append((library, text))
    lines: list[str] = []
    for is_own, run in groupby(places, lambda place: place[0] is None):
        if is_own:
            lines += [text for _, text in run]
        else:
            lines.append(_folded([str(library) for library, _ in run]))
    return libraries, lines or [stack]


def library_of(file: str) -> str | None:
    """Return the library that a file belongs to; None for the application."""
    if file.startswith(_OURS):
        return "shmstats"
    if installed := _INSTALLED.search(file):
        return installed["package"].removesuffix(".py")
    if file.startswith("<frozen") or file.startswith(_STANDARD):
        return "python"
    return None


def _folded(libraries: list[str]) -> str:
    frames = "1 frame" if len(libraries) == 1 else f"{len(libraries)} frames"
    return f"… {frames} of {', '.join(dict.fromkeys(libraries))}"
