"""A section: a lock with steps at its outermost level; no exception leaves it taken."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest


class Interruption(BaseException):
    """The exception that a signal handler raises."""


class Steps:
    """Records the calls of a section; ``at`` maps a call's name to the actions that it takes, one each time."""

    def __init__(self, shmstats: ModuleType) -> None:
        self.lock = threading.RLock()
        self.done: list[str] = []
        self.at: dict[str, list[Callable[[], object]]] = {}
        self.section = shmstats.core.Section(self.lock, *map(self._make, ("first", "last", "after")))

    def _make(self, name: str) -> Callable[[], None]:
        def call() -> None:
            self.done.append(name)
            assert self.held == (name != "after")
            for_now = self.at.get(name)
            if for_now:
                for_now.pop(0)()

        return call

    @property
    def held(self) -> bool:
        return self.lock._is_owned()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def steps(shmstats: ModuleType) -> Steps:
    return Steps(shmstats)


def interrupt() -> None:
    raise Interruption


def test_only_the_outermost_level_calls_the_steps(steps: Steps) -> None:
    for _ in range(2):
        steps.done.clear()
        with steps.section:
            assert steps.section._is_owned()
            with steps.section:
                pass
            assert steps.done == ["first"]
            assert steps.held
        assert steps.done == ["first", "last", "after"]
        assert not steps.section._is_owned()


def test_the_call_after_the_section_comes_when_the_lock_is_free(steps: Steps) -> None:
    with steps.lock, steps.section:
        pass
    assert steps.done == ["first", "last"]
    with steps.section:
        pass
    assert steps.done[2:] == ["first", "last", "after"]


def test_an_error_inside_is_raised(steps: Steps) -> None:
    with pytest.raises(Interruption), steps.section:
        interrupt()
    assert steps.done == ["first", "last", "after"]
    assert not steps.held


def test_if_the_first_step_fails_the_section_is_not_entered(steps: Steps) -> None:
    steps.at["first"] = [interrupt]
    with pytest.raises(Interruption), steps.section:
        steps.done.append("inside")
    assert steps.done == ["first", "last", "after"]
    assert not steps.held
    with steps.section:
        pass
    assert steps.done[3:] == ["first", "last", "after"]


def test_the_last_step_is_repeated_until_it_succeeds(steps: Steps) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    steps.at["last"] = [interrupt, fail, fail]
    with pytest.raises(Interruption), steps.section:
        pass
    assert steps.done == ["first", "last", "last", "last", "last", "after"]
    assert not steps.held


def test_a_last_step_that_always_fails_is_given_up(steps: Steps) -> None:
    steps.at["last"] = [interrupt] * 1000
    with pytest.raises(Interruption), steps.section:
        pass
    assert steps.done == ["first", *["last"] * 1000, "after"]
    assert not steps.held
    with steps.section:
        pass
    assert steps.done[1002:] == ["first", "last", "after"]


def test_the_call_after_the_section_may_raise(steps: Steps) -> None:
    steps.at["after"] = [interrupt]
    with pytest.raises(Interruption), steps.section:
        pass
    assert not steps.held


@pytest.mark.parametrize("error", [None, Interruption])
def test_a_signal_handler_may_enter_during_the_first_step(steps: Steps, error: type[BaseException] | None) -> None:
    """The handler takes the first step itself and leaves the last step to the interrupted code."""

    def handle() -> None:
        with steps.section:
            steps.done.append("handler")
        if error is not None:
            raise error

    steps.at["first"] = [handle]
    inside = ["inside"] if error is None else []
    try:
        with steps.section:
            steps.done.append("inside")
    except Interruption:
        assert error is not None
    assert steps.done == ["first", "first", "handler", *inside, "last", "after"]
    assert not steps.held


def test_a_signal_handler_may_enter_during_the_last_step(steps: Steps) -> None:
    def handle() -> None:
        with steps.section:
            steps.done.append("handler")

    steps.at["last"] = [handle]
    with steps.section:
        pass
    assert steps.done == ["first", "last", "first", "handler", "last", "after"]
    assert not steps.held


def test_a_section_may_be_inside_another_section(shmstats: ModuleType, steps: Steps) -> None:
    inner = shmstats.core.Section(steps.section, lambda: steps.done.append("second"))
    with inner:
        assert inner._is_owned()
    assert steps.done == ["first", "second", "last", "after"]
    steps.done.clear()
    refusing = shmstats.core.Section(steps.section, interrupt)
    with pytest.raises(Interruption), refusing:
        pass
    assert steps.done == ["first", "last", "after"]
    assert not steps.held


def test_an_exception_of_a_signal_handler_right_after_entering_leaves_the_section(
    shmstats: ModuleType, core: str
) -> None:
    """From Python 3.14 on that may come before the body of `with` begins."""
    if core != "C":
        pytest.skip("the twin is entered by functions in Python")
    lock, raised = threading.RLock(), 0
    section = shmstats.core.Section(lock)
    before = signal.signal(signal.SIGALRM, lambda *_: interrupt())
    try:
        while raised < 300:
            with suppress(Interruption):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.00002 + raised % 50 * 0.000004)
                    while True:
                        with section, section:
                            pass
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            raised += 1
            assert not lock._is_owned()  # type: ignore[attr-defined]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_leaving_a_section_that_was_not_entered_raises(steps: Steps) -> None:
    with pytest.raises(RuntimeError, match="not entered"):
        steps.section.__exit__(None, None, None)
    assert steps.done == []


def test_threads_take_turns(steps: Steps) -> None:
    def enter() -> None:
        for _ in range(200):
            with steps.section, steps.section:
                pass

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps.done.count("first") == steps.done.count("last") == 800


def test_a_section_needs_a_lock(shmstats: ModuleType) -> None:
    section = shmstats.core.Section
    for arguments in ((), (1,)):
        with pytest.raises((TypeError, AttributeError)):
            section(*arguments)


def test_a_section_leaks_no_objects(shmstats: ModuleType) -> None:
    """Hundreds of turns, good and bad, leave no object behind."""

    def call() -> None:
        pass

    lock = threading.RLock()
    section = shmstats.core.Section(lock, call, call, call)
    before = sys.getrefcount(lock), sys.getrefcount(call), sys.getrefcount(section)

    def turn() -> None:
        with section, section:
            pass
        for arguments in ((interrupt,), (None, None, interrupt)):
            with pytest.raises(Interruption), shmstats.core.Section(lock, *arguments):
                pass

    tracemalloc.start()
    try:
        sizes = []
        for _ in range(2):  # the first turns create objects that are kept
            for _ in range(1000):
                turn()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        assert sizes[1] - sizes[0] < 1000 * 16  # less than one object each time
    finally:
        tracemalloc.stop()
    assert (sys.getrefcount(lock), sys.getrefcount(call), sys.getrefcount(section)) == before


def test_a_section_releases_its_arguments_when_it_is_collected(shmstats: ModuleType) -> None:
    class Holder:
        section: Any

        def call(self) -> None:
            pass

    holder = Holder()
    holder.section = shmstats.core.Section(threading.RLock(), holder.call)
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None
