"""The stacks of the threads, asyncio tasks and greenlets of this process, for the debug endpoints.

Each process answers for itself (`shmstats.attachment.peers` asks it); `grouped` merges the stacks of all workers. A
stack is a text: its kind, then a line for each frame, the outermost first as in a traceback, without addresses and
thread numbers, so that equal stacks have equal texts. Modules such as asyncio and greenlet are used only if loaded.
"""

from __future__ import annotations

import gc
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

from ..proc import uses_of

#: Most distinct stacks of a process, and most frames of one stack; the rest is only counted.
MAX_STACKS = 500
MAX_FRAMES = 100

_OUTER_FRAMES = 30

#: The attributes of coroutines and generators for their frame, and for what they wait for.
_SUSPENDED = {
    CoroutineType: ("cr_frame", "cr_await"),
    GeneratorType: ("gi_frame", "gi_yieldfrom"),
    AsyncGeneratorType: ("ag_frame", "ag_await"),
}

#: Types of the interpreter between one of these and the next, which do not expose the next one.
_BETWEEN = {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper", "anext_awaitable"}

_ADDRESS = re.compile("0x[0-9a-fA-F]+")


def stacks() -> list[dict[str, Any]]:
    """Return what this process is doing: every thread, asyncio task and greenlet.

    A thread that runs an asyncio task shows in both. A greenlet that runs at the moment shows as its thread.

    Returns:
        ``{"goroutine": stack, "count": n}`` for each different stack, the most frequent first.
    """
    counts = Counter(chain(_threads_and_tasks(), _greenlets()))
    told = [{"goroutine": text, "count": count} for text, count in counts.most_common(MAX_STACKS)]
    if len(counts) > MAX_STACKS:
        left_out = counts.total() - sum(count for _, count in counts.most_common(MAX_STACKS))
        told.append({"goroutine": f"left out: stacks beyond the first {MAX_STACKS}", "count": left_out})
    return told


def grouped(answers: Mapping[int, list[dict[str, Any]] | None]) -> list[dict[str, Any]]:
    """Put the stacks of several workers together.

    Args:
        answers: by pid the result of `stacks` there; None for a worker that did not answer.

    Returns:
        ``{"goroutine": stack, "count": n, "pids": [...]}`` for each different stack, the most frequent
        first, equally frequent ones in order of their text. The workers that did not answer have an entry
        that begins with "no answer" in place of a stack.
    """
    counts: Counter[str] = Counter()
    pids: defaultdict[str, set[int]] = defaultdict(set)
    for pid, answer in answers.items():
        if answer is None:
            answer = [{"goroutine": no_answer(pid), "count": 1}]
        for entry in answer:
            counts[entry["goroutine"]] += entry["count"]
            pids[entry["goroutine"]].add(pid)
    return [
        {"goroutine": stack, "count": count, "pids": sorted(pids[stack])}
        for stack, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def no_answer(pid: int) -> str:
    """Return why a worker did not answer, as far as the system knows."""
    state = next((use.state for _, use in uses_of([pid])), None)
    if state is None:
        return "no answer: the worker has ended"
    if state in ("T", "t"):
        return "no answer: the worker is stopped, by a signal or a debugger"
    return "no answer in time: the worker is busy in C code, or waits for the disk, or cannot listen"


def _threads_and_tasks() -> Iterator[str]:
    current = sys._current_frames()
    # No reference to the frames must remain: one of them is that of this call, and would stay alive.
    while current:
        yield from _thread_and_tasks(list(_callers(current.popitem()[1]))[::-1])


def _thread_and_tasks(frames: list[FrameType]) -> Iterator[str]:
    yield _text("thread", frames)
    for loop in _running_loops(frames):
        for task in _tasks(loop):
            yield _text("asyncio task", _task_frames(task, frames))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Give a frame and its callers, from the inside outwards."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _running_loops(frames: Iterable[FrameType]) -> list[Any]:
    """Return the event loops that the frames of a thread run.

    Only frames of asyncio itself are asked for their variables, because asking keeps a frame alive. A loop
    in C (uvloop) has no frame, but is found through the frame of the runner that runs it.
    """
    base_events, runners = sys.modules.get("asyncio.base_events"), sys.modules.get("asyncio.runners")
    if base_events is None or runners is None:
        return []
    loops = []
    for frame in frames:
        if frame.f_code is base_events.BaseEventLoop.run_forever.__code__:
            loops.append(frame.f_locals.get("self"))
        elif frame.f_code is runners.Runner.run.__code__:
            loops.append(getattr(frame.f_locals.get("self"), "_loop", None))
    return [loop for loop in dict.fromkeys(loops) if loop is not None]


def _tasks(loop: Any) -> Iterable[Any]:
    try:
        tasks: Iterable[Any] = sys.modules["asyncio"].all_tasks(loop)
    except RuntimeError:  # the set of tasks kept changing during the iteration
        return ()
    return tasks


def _task_frames(task: Any, thread: list[FrameType]) -> list[FrameType]:
    """Return the frames of a task, the outermost first.

    Args:
        task: an `asyncio.Task`.
        thread: the frames of the thread that its loop runs in.
    """
    frames = list(_awaited_frames(task.get_coro()))
    if frames and frames[0].f_back is not None and frames[0] in thread:
        return thread[thread.index(frames[0]) :]
    return frames


def _awaited_frames(awaited: Any) -> Iterator[FrameType]:
    """Give the frames from a suspended coroutine or generator inwards, to the frame that waits."""
    while awaited is not None:
        if type(awaited) in _SUSPENDED:
            frame, following = _SUSPENDED[type(awaited)]
            if (suspended := getattr(awaited, frame)) is not None:
                yield suspended
            awaited = getattr(awaited, following)
        elif type(awaited).__name__ in _BETWEEN:
            referred = gc.get_referents(awaited)
            awaited = next((other for other in referred if type(other) in _SUSPENDED), None)
        else:
            return


def _greenlets() -> Iterator[str]:
    module = sys.modules.get("greenlet")
    if module is None:
        return
    for found in gc.get_objects():
        # type() instead of isinstance(): the latter calls a proxy's code.
        if issubclass(type(found), module.greenlet) and found.gr_frame is not None:
            yield _text("greenlet", list(_callers(found.gr_frame))[::-1])


def _text(kind: str, frames: list[FrameType]) -> str:
    """Return a stack as text, without the middle of one that is too deep."""
    lines = [
        f'  File "{frame.f_code.co_filename}", line {frame.f_lineno or 0}, in {frame.f_code.co_qualname}'
        for frame in frames
    ]
    if (left_out := len(lines) - MAX_FRAMES) > 0:
        lines[_OUTER_FRAMES : _OUTER_FRAMES + left_out] = [f"  ({left_out} frames left out)"]
    text = _ADDRESS.sub("0x...", "\n".join([kind, *lines]))
    return text.encode("utf-8", "backslashreplace").decode()
