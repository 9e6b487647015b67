"""Figures of processes and of the block, and what the processes do, for the endpoints and the commands.

`stacks` tells what every thread, asyncio task and greenlet of this process is doing, and `memory` what it
has allocated: a process answers both for itself (`shmstats.questions` is how it is asked). `grouped` puts
the stacks of all workers together. What the system knows of any process is asked of the system, in
`system_figures` and `process_memory`: it answers for a stopped process as well.

A stack is a text: its kind, then a line for each frame, the outermost first as in a traceback. It holds no
address and no number of a thread or task, so that all that do the same have the same stack::

    thread
      File "/usr/lib/python3.11/threading.py", line 1002, in Thread._bootstrap
      File "/srv/site/queue.py", line 41, in Consumer.run

psutil is imported where it is needed: code that only counts never loads it, and no answer of a worker
for itself needs it.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

from .block import BlockReader

#: Distinct stacks that a process tells of, and frames of one stack: what is beyond is counted only.
MAX_STACKS = 500
MAX_FRAMES = 100

_OUTER_FRAMES = 30

#: A frame as a stack has it: file, line, function. A mark for frames left out has no file.
_Place = tuple[str, int, str]
_Stack = tuple[str, tuple[_Place, ...]]

#: How coroutines and generators give their frame, and what they wait for.
_SUSPENDED = {
    CoroutineType: ("cr_frame", "cr_await"),
    GeneratorType: ("gi_frame", "gi_yieldfrom"),
    AsyncGeneratorType: ("ag_frame", "ag_await"),
}

#: Types of the interpreter that stand between one of these and the next, and do not tell which it is.
_BETWEEN = {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper", "anext_awaitable"}

_ADDRESS = re.compile("0x[0-9a-fA-F]+")


def system_figures(pids: Iterable[int], uptime: float) -> dict[str, int | float]:
    """Return what the live workers use, summed over them.

    Args:
        pids: of the workers. One that ends meanwhile is left out.
        uptime: of the application, in seconds.

    Returns:
        ``uptime`` (s), ``memory_usage`` (bytes resident), ``cpu`` (per cent of one processor, on the
        average since each worker's start), ``user_in_ms`` and ``sys_in_ms`` (processor time), ``threads``,
        ``workers``, and ``gc`` (garbage collections of the process that answers).
    """
    import psutil

    figures: dict[str, int | float] = {
        "uptime": int(uptime),
        "memory_usage": 0,
        "cpu": 0.0,
        "user_in_ms": 0,
        "sys_in_ms": 0,
        "threads": 0,
        "workers": 0,
        "gc": sum(generation["collections"] for generation in gc.get_stats()),
    }
    for pid in pids:
        try:
            worker = _process_figures(psutil.Process(pid))
        except psutil.Error:
            continue
        for metric, value in worker.items():
            figures[metric] += value
    figures["cpu"] = round(figures["cpu"], 2)
    return figures


def _process_figures(process: Any) -> dict[str, int | float]:
    with process.oneshot():
        times = process.cpu_times()
        age = max(time.time() - process.create_time(), 0.01)
        return {
            "memory_usage": process.memory_info().rss,
            "cpu": 100 * (times.user + times.system) / age,
            "user_in_ms": round(1000 * times.user),
            "sys_in_ms": round(1000 * times.system),
            "threads": process.num_threads(),
            "workers": 1,
        }


def pool_figures(reader: BlockReader) -> dict[str, Any]:
    """Return how much of the block is in use: for each part ``used``, ``capacity`` and ``bytes``."""
    return {part: usage._asdict() for part, usage in reader.usage().items()}


def process_memory(pid: int) -> dict[str, int | None]:
    """Return what a process uses, in bytes: ``rss`` resident, ``uss`` of that not shared with any other.

    Either is None where the system does not tell it, or the process has ended.
    """
    import psutil

    figures: dict[str, int | None] = {"rss": None, "uss": None}
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        figures["rss"] = process.memory_info().rss
        figures["uss"] = process.memory_full_info().uss
    return figures


def memory() -> dict[str, Any]:
    """Return what this process has allocated, and what its garbage collector did.

    Returns:
        ``allocator``: ``python_blocks`` of Python's own allocator, and in bytes the ``heap_bytes`` that the
        C library has from the system, of them ``heap_used_bytes`` and ``heap_free_bytes``; None where it
        does not tell, see mallinfo2(3).
        ``gc``: whether it is ``enabled``, and for each of its generations ``counts``, ``thresholds``,
        ``collections``, and how many objects were ``collected`` or ``uncollectable``.
    """
    generations = gc.get_stats()
    return {
        "allocator": {"python_blocks": sys.getallocatedblocks(), **_heap_figures()},
        "gc": {
            "enabled": gc.isenabled(),
            "counts": list(gc.get_count()),
            "thresholds": list(gc.get_threshold()),
            **{
                figure: [generation[figure] for generation in generations]
                for figure in ("collections", "collected", "uncollectable")
            },
        },
    }


class _MallInfo2(ctypes.Structure):
    """struct mallinfo2 of malloc.h, glibc 2.33 and later."""

    _fields_ = [
        (field, ctypes.c_size_t)
        for field in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
            "keepcost",
        )
    ]  # fmt: skip


@cache
def _mallinfo2() -> Any:
    """Return the function of the C library, or None where it has none."""
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    function.argtypes = ()
    function.restype = _MallInfo2
    return function


def _heap_figures() -> dict[str, int | None]:
    function = _mallinfo2()
    if function is None:
        return dict.fromkeys(("heap_bytes", "heap_used_bytes", "heap_free_bytes"))
    info = function()
    return {
        "heap_bytes": info.arena + info.hblkhd,
        "heap_used_bytes": info.uordblks + info.hblkhd,
        "heap_free_bytes": info.fordblks,
    }


def stacks() -> list[dict[str, Any]]:
    """Return what this process is doing: every thread, asyncio task and greenlet.

    A thread that runs an asyncio task shows in both. A greenlet that runs at the moment shows as its thread.

    Returns:
        ``{"goroutine": stack, "count": n}`` for each different stack, the most frequent first.
    """
    counts = Counter(_threads_and_tasks())
    counts.update(_greenlets())
    texts: Counter[str] = Counter()
    for stack, count in counts.most_common(MAX_STACKS):
        texts[_text(stack)] += count
    told = [{"goroutine": text, "count": count} for text, count in texts.most_common()]
    if len(counts) > MAX_STACKS:
        left_out = counts.total() - texts.total()
        told.append({"goroutine": f"left out: stacks beyond the first {MAX_STACKS}", "count": left_out})
    return told


def grouped(answers: Mapping[int, list[dict[str, Any]] | None]) -> list[dict[str, Any]]:
    """Put the stacks of several workers together.

    Args:
        answers: by pid what `stacks` returned there; None for a worker that did not answer.

    Returns:
        ``{"goroutine": stack, "count": n, "pids": [...]}`` for each different stack, the most frequent
        first, equally frequent ones in order of their text. The workers that did not answer have an entry
        that begins with "no answer" in place of a stack.
    """
    counts: Counter[str] = Counter()
    pids: defaultdict[str, set[int]] = defaultdict(set)
    for pid, answer in answers.items():
        if answer is None:
            answer = [{"goroutine": _no_answer(pid), "count": 1}]
        for entry in answer:
            counts[entry["goroutine"]] += entry["count"]
            pids[entry["goroutine"]].add(pid)
    return [
        {"goroutine": stack, "count": count, "pids": sorted(pids[stack])}
        for stack, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _no_answer(pid: int) -> str:
    """Say why a worker did not answer, as far as the system knows."""
    import psutil

    try:
        status = psutil.Process(pid).status()
    except psutil.Error:
        return "no answer: the worker has ended"
    if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
        return "no answer: the worker is stopped, by a signal or a debugger"
    return "no answer in time: the worker is busy in C code, or waits for the disk, or cannot listen"


def _threads_and_tasks() -> Iterator[_Stack]:
    current = sys._current_frames()
    # Nothing may refer to the frames in the end: one of them is that of this call, and would stay alive.
    while current:
        yield from _thread_and_tasks(list(_callers(current.popitem()[1]))[::-1])


def _thread_and_tasks(frames: list[FrameType]) -> Iterator[_Stack]:
    yield "thread", _places(frames)
    for loop in _running_loops(frames):
        for task in _tasks(loop):
            yield "asyncio task", _places(_task_frames(task, frames))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Go from a frame outwards, beginning with itself."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _running_loops(frames: Iterable[FrameType]) -> list[Any]:
    """Return the event loops that the frames of a thread run.

    Only frames of asyncio itself are asked for their variables: asking a frame keeps them alive. A loop
    written in C (uvloop) has no frame, but is found by that of the runner that runs it.
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
    except RuntimeError:  # they changed all the time while it looked
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
    """Go from a suspended coroutine or generator inwards, to the frame that waits."""
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


def _greenlets() -> Iterator[_Stack]:
    module = sys.modules.get("greenlet")
    if module is None:
        return
    for found in gc.get_objects():
        # By type(): isinstance() would ask the object, and a proxy does something when it is asked.
        if issubclass(type(found), module.greenlet) and found.gr_frame is not None:
            yield "greenlet", _places(list(_callers(found.gr_frame))[::-1])


def _places(frames: list[FrameType]) -> tuple[_Place, ...]:
    """Return where the frames are, without the middle of a stack that is too deep."""
    left_out = len(frames) - MAX_FRAMES
    if left_out > 0:
        return (
            *_places(frames[:_OUTER_FRAMES]),
            ("", left_out, ""),
            *_places(frames[_OUTER_FRAMES + left_out :]),
        )
    return tuple(
        (frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname) for frame in frames
    )


def _text(stack: _Stack) -> str:
    kind, places = stack
    lines = [
        f'  File "{file}", line {line}, in {function}' if file else f"  ({line} frames left out)"
        for file, line, function in places
    ]
    text = _ADDRESS.sub("0x...", "\n".join([kind, *lines]))
    return text.encode("utf-8", "backslashreplace").decode()
