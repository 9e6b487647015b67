"""The background thread: what ends it for good, and what becomes of it where there can be none."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import wait_until

from shmstats import agent as agents
from shmstats.agent import Agent, Task

#: Set when the task was run.
ran = threading.Event()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent that runs."""
    agent = Agent([Task(0.001, ran.set)], str(tmp_path / "socket"), {})
    ran.clear()
    agent.start()
    yield agent
    agent.stop()
    assert threads() == 0


def threads() -> int:
    return sum(thread.name == "shmstats-agent" for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_it_runs_its_tasks_until_it_is_stopped(agent: Agent) -> None:
    assert ran.wait(30)
    agent.stop()
    wait_until(lambda: threads() == 0)
    agent.start()
    assert threads() == 0


def test_it_stays_stopped_if_that_was_in_the_middle_of_a_fork(agent: Agent) -> None:
    agents._before_fork()
    assert threads() == 0
    agent.stop()
    agents._after_fork_in_parent()
    assert threads() == 0


def test_where_no_thread_can_be_started_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    before = descriptors()
    agent = Agent([], str(tmp_path / "socket"), {})
    agent.start()
    agent.stop()
    assert descriptors() == before
    ((_, level, text),) = caplog.record_tuples
    assert level == logging.WARNING
    assert "can't start new thread" in text


def test_a_fork_leaves_it_running_in_the_parent_even_if_another_cannot_be_started_again(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Agent([], str(tmp_path / "other"), {})
    other.start()
    agents._before_fork()
    agents._paused.sort(key=lambda paused: paused is agent)
    start, started = threading.Thread.start, []

    def start_all_but_the_first(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_all_but_the_first)
    agents._after_fork_in_parent()
    assert threads() == 1
    other.stop()
