"""The background thread: its start, its end, and forks during its work."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import BOUND, PythonRunner, wait_until

from shmstats import lifecycle
from shmstats.attachment import agent as agents
from shmstats.attachment.agent import Agent, Task
from shmstats.attachment.peers import Listener

#: Set when the task was run.
ran = threading.Event()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent that runs."""
    agent = Agent([Task(0.001, ran.set)], str(tmp_path / "socket"), os.geteuid(), {})
    ran.clear()
    agent.start()
    yield agent
    agent.stop()
    assert threads() == 0


def threads() -> int:
    return sum(thread.name == "shmstats-agent" for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_an_agent_runs_its_tasks_until_it_is_stopped(agent: Agent) -> None:
    assert ran.wait(30)
    agent.stop()
    wait_until(lambda: threads() == 0)
    agent.start()
    assert threads() == 0


def test_an_agent_that_is_stopped_during_a_fork_stays_stopped(agent: Agent) -> None:
    lifecycle.before()
    assert threads() == 0
    agent.stop()
    lifecycle.after_in_parent()
    assert threads() == 0


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Agent, Callable[[int], None]]]:
    """An agent in a task for which no fork waits, and a function that lets it begin its next tasks."""
    begun, may_end = threading.Semaphore(0), threading.Semaphore(0)
    monkeypatch.setattr(agents, "_FORK_SECONDS", 0.01)

    def task() -> None:
        begun.release()
        assert may_end.acquire(timeout=BOUND)

    def proceed(tasks: int) -> None:
        for _ in range(tasks):
            may_end.release()
            assert begun.acquire(timeout=BOUND)

    agent = Agent([Task(0.0, task)], str(tmp_path / "socket"), os.geteuid(), {})
    agent.start()
    assert begun.acquire(timeout=BOUND)
    yield agent, proceed
    may_end.release(1000)
    agent.stop()
    wait_until(lambda: threads() == 0)


def test_a_thread_busy_during_a_fork_continues_and_no_second_one_starts(
    busy: tuple[Agent, Callable[[int], None]],
) -> None:
    _, proceed = busy
    for _ in range(3):
        lifecycle.before()
        lifecycle.after_in_parent()
        assert threads() == 1
    proceed(3)
    assert threads() == 1
    lifecycle.before()
    lifecycle.after_in_parent()
    proceed(3)


def test_a_thread_that_is_busy_during_a_fork_and_stopped_ends(
    busy: tuple[Agent, Callable[[int], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = busy
    monkeypatch.setattr(agents, "_STOP_SECONDS", 0.01)
    lifecycle.before()
    agent.stop()
    lifecycle.after_in_parent()
    # The fixture lets the task end, and waits for the end of the thread.


def test_a_child_forked_during_a_task_keeps_no_descriptor_of_the_thread(
    busy: tuple[Agent, Callable[[int], None]],
) -> None:
    agent, proceed = busy
    kept = agent._run
    assert kept is not None
    child = os.fork()
    if not child:
        closed = not os.path.exists(f"/proc/self/fd/{kept.told}")
        os._exit(0 if closed and agent._run is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    proceed(2)


def test_a_thread_that_cannot_be_started_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    before = descriptors()
    agent = Agent([], str(tmp_path / "socket"), os.geteuid(), {})
    agent.start()
    agent.stop()
    assert descriptors() == before
    ((_, level, text),) = caplog.record_tuples
    assert level == logging.WARNING
    assert "can't start new thread" in text


def test_after_a_fork_an_agent_runs_in_the_parent_though_another_cannot_start(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Agent([], str(tmp_path / "other"), os.geteuid(), {})
    other.start()
    lifecycle.before()
    lifecycle._paused[0].sort(key=lambda paused: paused is agent)
    start, started = threading.Thread.start, []

    def start_all_but_the_first(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_all_but_the_first)
    lifecycle.after_in_parent()
    assert threads() == 1
    other.stop()


def test_an_agent_can_be_stopped_during_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler does this, in the thread that starts the agent."""
    socket = tmp_path / "socket"
    agent = Agent([Task(0.001, ran.set)], str(socket), os.geteuid(), {})
    listener = agents.Listener

    def interrupted(path: str, owner: int) -> Listener:
        agent.stop()
        return listener(path, owner)

    monkeypatch.setattr(agents, "Listener", interrupted)
    starting = threading.Thread(target=agent.start, daemon=True)
    starting.start()
    starting.join(BOUND)
    assert not starting.is_alive()
    wait_until(lambda: threads() == 0)
    assert not socket.exists()


def test_there_is_one_agent_after_concurrent_forks(python: PythonRunner) -> None:
    code = """
        import os, sys, threading
        from shmstats import stats
        sys.setswitchinterval(0.00001)
        stats.incr("c", "m")
        def fork():
            for _ in range(100):
                if (pid := os.fork()) == 0:
                    os._exit(0)
                os.waitpid(pid, 0)
        threads = [threading.Thread(target=fork) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sum(thread.name == "shmstats-agent" for thread in threading.enumerate()))
    """
    assert python.run(code) == "1\n"
