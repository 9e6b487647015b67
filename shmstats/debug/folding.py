"""Stacks for people: the application's frames first, library frames folded, the package's own threads left out.

A stack from `shmstats.debug.stacks` is a text with the outermost frame first. Here the order is reversed: the first
line is where the thread is now.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)')
_INSTALLED = re.compile(r"/(?:site|dist)-packages/(?P<package>[^/]+)")
_OURS = str(Path(__file__).parents[1])
_STANDARD = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")})


def fold(stack: str) -> tuple[bool, list[str]]:
    """Return whether a stack has frames of the application, and its lines, innermost first, libraries folded.

    A text without frames ("no answer: …") is returned unchanged.
    """
    lines: list[str] = []
    run: list[str] = []  # packages of the frames to fold next
    own = False
    for line in reversed(stack.splitlines()[1:]):
        frame = _FRAME.fullmatch(line)
        if frame is None:
            lines += [*_folded(run), line.strip()]
            run = []
        elif (package := library_of(frame["file"])) is not None:
            run.append(package)
        else:
            own = True
            lines += [*_folded(run), f"{frame['function']}  {frame['file']}:{frame['line']}"]
            run = []
    lines += _folded(run)
    return own, lines or [stack]


def library_of(file: str) -> str | None:
    """Return the library that a file belongs to; None for the application."""
    if file.startswith(_OURS):
        return "shmstats"
    if installed := _INSTALLED.search(file):
        return installed["package"].removesuffix(".py")
    if file.startswith("<frozen") or file.startswith(_STANDARD):
        return "python"
    return None


def is_own_thread(stack: str) -> bool:
    """Tell whether a stack is of a thread of this package."""
    files = [frame["file"] for line in stack.splitlines() if (frame := _FRAME.fullmatch(line))]
    return {library_of(file) for file in files} in ({"shmstats"}, {"shmstats", "python"})


def stacks_of(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the stacks of one process for people: ``count``, ``kind``, ``own`` and ``lines``; the application's first.

    Args:
        entries: as `shmstats.debug.stacks.stacks` returns them.
    """
    found = []
    for entry in entries:
        stack: str = entry["goroutine"]
        if not is_own_thread(stack):
            own, lines = fold(stack)
            kind, frames, _ = stack.partition("\n")
            found.append({"count": entry["count"], "kind": kind if frames else "", "own": own, "lines": lines})
    return sorted(found, key=lambda each: (not each["own"], -each["count"]))


def _folded(packages: list[str]) -> list[str]:
    if not packages:
        return []
    names = list(dict.fromkeys(packages))
    frames = "1 frame" if len(packages) == 1 else f"{len(packages)} frames"
    return [f"… {frames} of {', '.join(names)}"]
