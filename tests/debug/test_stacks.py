"""The stacks of a process: its threads, asyncio tasks and greenlets."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import BOUND, wait_until

from shmstats.debug import stacks as module
from shmstats.debug.stacks import grouped, stacks


def functions(stack: str) -> list[str]:
    """The names of the functions of a stack, the outermost first."""
    return [line.rpartition(", in ")[2] for line in stack.splitlines()[1:]]


def counts(kind: str, function: str) -> dict[str, int]:
    """The stacks of a kind that contain a function, with their counts."""
    return {
        entry["goroutine"]: entry["count"]
        for entry in stacks()
        if entry["goroutine"].startswith(kind + "\n") and function in functions(entry["goroutine"])
    }


@contextmanager
def threads(*targets: Callable[[], object]) -> Iterator[None]:
    started = [threading.Thread(target=target) for target in targets]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        for thread in started:
            thread.join(BOUND)


@contextmanager
def loop_running(main: Callable[[], Any]) -> Iterator[asyncio.AbstractEventLoop]:
    """Run ``asyncio.run(main())`` in a thread, until the end of the block cancels it."""
    loops: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()

    async def outermost() -> None:
        loops.set_result(asyncio.get_running_loop())
        await main()

    def run() -> None:
        try:
            asyncio.run(outermost())
        except asyncio.CancelledError:
            return

    with threads(run):
        loop = loops.result(BOUND)
        try:
            yield loop
        finally:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])


#: More threads than earlier tests may have left waiting at one place.
CROWD = 50


def wait_for_gate(gate: threading.Event) -> None:
    gate.wait(BOUND)


def test_threads_with_the_same_stack_are_counted_together() -> None:
    gate = threading.Event()
    with threads(*[lambda: wait_for_gate(gate)] * 5):
        try:
            wait_until(lambda: list(counts("thread", "wait_for_gate").values()) == [5])
            (stack,) = counts("thread", "wait_for_gate")
        finally:
            gate.set()
    assert functions(stack)[0] == "Thread._bootstrap"
    assert functions(stack)[-1] == "Condition.wait"
    line = wait_for_gate.__code__.co_firstlineno + 1
    assert f'  File "{__file__}", line {line}, in wait_for_gate\n' in stack


def test_the_calling_thread_is_included() -> None:
    (stack,) = counts("thread", "test_the_calling_thread_is_included")
    assert functions(stack)[-1].startswith("_")


def test_the_most_frequent_stack_comes_first() -> None:
    gate = threading.Event()
    with threads(*[lambda: wait_for_gate(gate)] * CROWD):
        try:
            wait_until(lambda: list(counts("thread", "wait_for_gate").values()) == [CROWD])
            told = stacks()
        finally:
            gate.set()
    assert "wait_for_gate" in told[0]["goroutine"]
    assert [entry["count"] for entry in told] == sorted((entry["count"] for entry in told), reverse=True)


def test_a_stack_holds_no_address() -> None:
    gate = threading.Event()
    namespace: dict[str, Any] = {}
    for address in ("0x7f0012345678", "0x7fABCDEF0000"):
        exec(compile("def made(gate): gate.wait(60)", f"<made at {address}>", "exec"), namespace)
        namespace[address] = namespace["made"]
    with threads(*[lambda made=namespace[key]: made(gate) for key in namespace if key.startswith("0x")]):
        try:
            wait_until(lambda: list(counts("thread", "made").values()) == [2])
            (stack,) = counts("thread", "made")
        finally:
            gate.set()
    assert '"<made at 0x...>", line 1, in made' in stack


def test_a_file_name_with_invalid_bytes_is_shown() -> None:
    namespace: dict[str, Any] = {"stacks": stacks}
    exec(compile("def strange(): return stacks()", os.fsdecode(b"/a\xff"), "exec"), namespace)
    told = [entry["goroutine"] for entry in namespace["strange"]() if "in strange" in entry["goroutine"]]
    assert '"/a\\udcff", line 1' in told[0]
    assert told[0].encode()


def test_a_deep_stack_is_shown_without_its_middle() -> None:
    def descend(depth: int) -> list[dict[str, Any]]:
        return descend(depth - 1) if depth else stacks()

    told = [entry["goroutine"] for entry in descend(300) if "descend" in entry["goroutine"]]
    lines = told[0].splitlines()
    assert len(lines) == module.MAX_FRAMES + 2
    assert sum("frames left out)" in line for line in lines) == 1
    assert "descend" in lines[-10]


def test_very_many_stacks_are_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STACKS", 1)
    gate = threading.Event()
    with threads(*[lambda: wait_for_gate(gate)] * CROWD):
        try:
            wait_until(lambda: stacks()[0]["count"] == CROWD)
            told = stacks()
        finally:
            gate.set()
    left = len(sys._current_frames())  # not threading.active_count(): pytest-xdist has threads that are unknown to it
    assert told[1:] == [{"goroutine": "left out: stacks beyond the first 1", "count": left}]


def test_taking_stacks_keeps_no_object_alive() -> None:
    class Thing:
        pass

    def ask() -> weakref.ref[Thing]:
        thing = Thing()
        stacks()
        return weakref.ref(thing)

    gc.collect()
    gc.disable()
    try:
        assert ask()() is None
    finally:
        gc.enable()


async def sleep_long() -> None:
    await asyncio.sleep(BOUND)


def test_tasks_of_loops_in_any_thread_are_shown_with_everything_they_await() -> None:
    async def main() -> None:
        await asyncio.gather(*[middle() for _ in range(4)])

    async def middle() -> None:
        await sleep_long()

    with loop_running(main):
        wait_until(lambda: list(counts("asyncio task", "sleep_long").values()) == [4])
        (stack,) = counts("asyncio task", "sleep_long")
        outermost = counts("asyncio task", f"{loop_running.__wrapped__.__qualname__}.<locals>.outermost")
    assert [name.rpartition(".")[2] for name in functions(stack)] == ["middle", "sleep_long", "sleep"]
    assert [name.rpartition(".")[2] for name in functions(*outermost)] == ["outermost", "main"]


def test_loops_in_several_threads_are_shown() -> None:
    with loop_running(sleep_long), loop_running(sleep_long):
        wait_until(lambda: list(counts("asyncio task", "sleep_long").values()) == [2])


def test_a_task_is_followed_through_asynchronous_generators() -> None:
    async def inner() -> AsyncIterator[int]:
        yield 1
        await sleep_long()

    async def outer() -> AsyncIterator[int]:
        async for each in inner():
            yield each

    async def main() -> None:
        async for _ in outer():
            pass

    with loop_running(main):
        wait_until(lambda: counts("asyncio task", "sleep_long"))
        (stack,) = counts("asyncio task", "sleep_long")
    names = [name.rpartition(".")[2] for name in functions(stack)]
    assert names == ["outermost", "main", "outer", "inner", "sleep_long", "sleep"]


def test_a_task_is_followed_through_other_awaitables() -> None:
    class ByGenerator:
        def __await__(self) -> Any:
            return (yield from sleep_long().__await__())

    async def main() -> None:
        await ByGenerator()

    with loop_running(main):
        wait_until(lambda: counts("asyncio task", "sleep_long"))
        (stack,) = counts("asyncio task", "sleep_long")
    names = [name.rpartition(".")[2] for name in functions(stack)]
    assert names == ["outermost", "main", "__await__", "sleep_long", "sleep"]


def test_a_task_that_blocks_its_loop_is_shown_with_its_current_frames() -> None:
    gate = threading.Event()

    async def main() -> None:
        await blocking()

    async def blocking() -> None:
        wait_for_gate(gate)

    with loop_running(main):
        try:
            wait_until(lambda: counts("asyncio task", "wait_for_gate"))
            (task,) = counts("asyncio task", "wait_for_gate")
            (thread,) = counts("thread", "wait_for_gate")
        finally:
            gate.set()
    names = [name.rpartition(".")[2] for name in functions(task)]
    assert names[:4] == ["outermost", "main", "blocking", "wait_for_gate"]
    assert functions(thread)[-len(names) :] == functions(task)


def test_tasks_of_the_calling_loop_are_shown() -> None:
    async def main() -> dict[str, int]:
        waiting = asyncio.create_task(sleep_long())
        await asyncio.sleep(0)
        told = counts("asyncio task", "sleep_long") | counts("asyncio task", f"{here}.<locals>.main")
        waiting.cancel()
        return told

    here = "test_tasks_of_the_calling_loop_are_shown"
    waiting, asking = sorted(asyncio.run(main()), key=functions)
    assert functions(waiting) == ["sleep_long", "sleep"]
    assert functions(asking)[:2] == [f"{here}.<locals>.main", "counts"]


def test_tasks_that_change_all_the_time_raise_no_error() -> None:
    async def main() -> None:
        while True:
            await asyncio.gather(*[asyncio.sleep(0) for _ in range(20)])

    def change() -> None:
        while not stop.is_set():
            counts("thread", "nothing")

    stop = threading.Event()
    with loop_running(main), threads(change, change):
        for _ in range(300):
            assert stacks()
        stop.set()


def test_taking_stacks_does_not_import_asyncio() -> None:
    code = "import sys; from shmstats.debug.stacks import stacks; stacks(); sys.exit('asyncio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=BOUND)


def test_a_loop_in_c_is_found() -> None:
    uvloop = pytest.importorskip("uvloop")
    started = threading.Event()

    async def main() -> None:
        waiting = [asyncio.create_task(sleep_long()) for _ in range(3)]
        asyncio.get_running_loop().call_later(0, started.set)
        await stop.wait()
        for task in waiting:
            task.cancel()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            loops.append(runner.get_loop())
            runner.run(main())

    loops: list[asyncio.AbstractEventLoop] = []
    stop = asyncio.Event()
    with threads(run):
        try:
            assert started.wait(BOUND)
            assert list(counts("asyncio task", "sleep_long").values()) == [3]
        finally:
            loops[0].call_soon_threadsafe(stop.set)


def test_suspended_greenlets_are_shown() -> None:
    greenlet = pytest.importorskip("greenlet")

    def outer() -> None:
        inner()

    def inner() -> None:
        greenlet.getcurrent().parent.switch()

    suspended = [greenlet.greenlet(outer) for _ in range(3)]
    not_started = greenlet.greenlet(outer)
    for each in suspended:
        each.switch()
    here = "test_suspended_greenlets_are_shown.<locals>"
    ((stack, count),) = counts("greenlet", f"{here}.inner").items()
    assert count == 3
    assert functions(stack) == [f"{here}.outer", f"{here}.inner"]
    for each in suspended:
        each.switch()
    assert not counts("greenlet", f"{here}.inner")
    assert not not_started


def test_greenlets_of_gevent_are_shown() -> None:
    gevent = pytest.importorskip("gevent")

    def sleep_green() -> None:
        gevent.sleep(BOUND)

    spawned = [gevent.spawn(sleep_green) for _ in range(4)]
    gevent.sleep(0)
    try:
        name = "test_greenlets_of_gevent_are_shown.<locals>.sleep_green"
        assert list(counts("greenlet", name).values()) == [4]
    finally:
        gevent.killall(spawned)


def test_stacks_of_several_workers_are_merged() -> None:
    answers = {
        30: [{"goroutine": "a", "count": 2}, {"goroutine": "b", "count": 1}],
        10: [{"goroutine": "c", "count": 1}, {"goroutine": "a", "count": 1}],
    }
    assert grouped(answers) == [
        {"goroutine": "a", "count": 3, "pids": [10, 30]},
        {"goroutine": "b", "count": 1, "pids": [30]},
        {"goroutine": "c", "count": 1, "pids": [10]},
    ]


def test_the_order_of_workers_does_not_matter() -> None:
    one, two = [{"goroutine": "x", "count": 1}], [{"goroutine": "y", "count": 1}]
    assert grouped({1: one, 2: two}) == grouped({2: two, 1: one})


def test_a_silent_worker_is_listed_as_not_answering(sleeper: int) -> None:
    (entry,) = grouped({sleeper: None})
    assert entry["goroutine"].startswith("no answer in time: ")
    assert entry["pids"] == [sleeper]


def test_a_worker_that_has_ended_is_listed_as_ended() -> None:
    process = subprocess.Popen(["true"])
    process.wait(BOUND)
    expected = "no answer: the worker has ended"
    assert grouped({process.pid: None}) == [{"goroutine": expected, "count": 1, "pids": [process.pid]}]
