"""Calling providers that raise, hang, count and are interrupted."""

from __future__ import annotations

import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers import BOUND, PythonRunner, wait_until

from shmstats.sinks.guarded import CUT_OFF, FAILURES, OPERATIONS_DROPPED, GuardedProvider

NOON = datetime(2024, 1, 31, 12, tzinfo=UTC)


class Recording:
    """Records its calls, with arguments and thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: list[int] = []

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        self.threads.append(threading.get_ident())

    def incr(self, *arguments: Any) -> None:
        self._note("incr", *arguments)

    def decr(self, *arguments: Any) -> None:
        self._note("decr", *arguments)

    def gauge(self, *arguments: Any) -> None:
        self._note("gauge", *arguments)

    def absolute(self, *arguments: Any) -> None:
        self._note("absolute", *arguments)

    def timing(self, *arguments: Any) -> None:
        self._note("timing", *arguments)

    def timestamp(self, *arguments: Any) -> None:
        self._note("timestamp", *arguments)


class Raising(Recording):
    """Raises a given exception, a given number of times."""

    def __init__(self, error: BaseException, times: int = 1_000_000) -> None:
        super().__init__()
        self.error = error
        self.times = times

    def _note(self, *call: Any) -> None:
        super()._note(*call)
        if self.times > 0:
            self.times -= 1
            raise self.error


class Hanging(Recording):
    """Hangs in every call until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.entered = threading.Event()

    def _note(self, *call: Any) -> None:
        self.entered.set()
        assert self.go_on.wait(BOUND)
        super()._note(*call)


Guard = Callable[..., GuardedProvider]


@pytest.fixture
def reported() -> Counter[str]:
    return Counter()


@pytest.fixture
def guard(reported: Counter[str]) -> Iterator[Guard]:
    """Guard a provider; it is released and closed at the end."""
    guards: list[GuardedProvider] = []

    def guard(provider: Any, **more: Any) -> GuardedProvider:
        def report(metric: str) -> None:
            reported[metric] += 1

        guards.append(GuardedProvider(provider, report))
        for name, value in ({"budget": BOUND} | more).items():
            setattr(guards[-1], name, value)
        return guards[-1]

    yield guard
    for each in guards:
        if isinstance(each.provider, Hanging):
            each.provider.go_on.set()
        each.close(BOUND)
        wait_until(lambda each=each: not each._courier.running)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[PythonRunner]:
    runner = PythonRunner(tmp_path, Path(__file__).parents[2])
    yield runner
    runner.kill_all()


def operate(guarded: Any) -> list[tuple[Any, ...]]:
    """Call one operation of each kind; return the calls that the provider should have got."""
    guarded.deliver("incr", "a", "b", 1)
    guarded.deliver("decr", "a", "c", 2)
    guarded.deliver("gauge", "a", "d", 1.5)
    guarded.deliver("absolute", "a", "e", -3)
    guarded.deliver("timing", "a", "f", 12.5)
    guarded.deliver("timestamp", "a", "g", NOON)
    return [
        ("incr", "a", "b", 1),
        ("decr", "a", "c", 2),
        ("gauge", "a", "d", 1.5),
        ("absolute", "a", "e", -3),
        ("timing", "a", "f", 12.5),
        ("timestamp", "a", "g", NOON),
    ]


@pytest.mark.parametrize("nonblocking", [False, True])
def test_every_operation_is_passed_on_in_order_before_the_caller_continues(
    guard: Guard, reported: Counter[str], nonblocking: bool
) -> None:
    provider = Recording()
    provider.nonblocking = nonblocking  # type: ignore[attr-defined]
    assert operate(guard(provider)) == provider.calls
    assert not reported


def test_only_a_nonblocking_provider_is_called_in_the_thread_of_the_caller(
    guard: Guard,
) -> None:
    direct, other = Recording(), Recording()
    direct.nonblocking = True  # type: ignore[attr-defined]
    operate(guard(direct))
    operate(guard(other))
    assert set(direct.threads) == {threading.get_ident()}
    assert len(set(other.threads)) == 1
    assert other.threads[0] != threading.get_ident()


@pytest.mark.parametrize("nonblocking", [False, True])
def test_a_provider_that_raises_three_times_in_a_row_is_cut_off_and_that_is_logged_once(
    guard: Guard, reported: Counter[str], caplog: pytest.LogCaptureFixture, nonblocking: bool
) -> None:
    provider = Raising(OSError("no route"))
    provider.nonblocking = nonblocking  # type: ignore[attr-defined]
    provider.name = "the sink"  # type: ignore[attr-defined]
    guarded = guard(provider)
    for _ in range(10):
        guarded.deliver("incr", "a", "b", 1)
    assert guarded.cut_off
    assert len(provider.calls) == 3
    assert reported == {FAILURES: 3, CUT_OFF: 1, OPERATIONS_DROPPED: 7}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.name for record in errors] == ["shmstats"]
    assert "the sink is cut off after 3 failures in a row" in errors[0].message
    assert "incr raised OSError: no route" in errors[0].message
    assert len(caplog.records) == 2  # the first failure, and that the provider was given up


def test_a_success_resets_the_count_of_failures(guard: Guard, reported: Counter[str]) -> None:
    provider = Raising(OSError("now and then"), 0)
    guarded = guard(provider)
    for _ in range(5):
        provider.times = 2
        for _ in range(3):
            guarded.deliver("incr", "a", "b", 1)
    assert not guarded.cut_off
    assert reported == {FAILURES: 10}


def test_no_exception_ends_the_thread_of_a_provider_or_is_printed(
    run: PythonRunner,
) -> None:
    out = run.run(
        """
        import asyncio, logging
        from shmstats.sinks.guarded import GuardedProvider

        logging.getLogger("shmstats").addHandler(logging.NullHandler())

        class Odd(BaseException):
            def __str__(self):
                raise RuntimeError("not even that")

        class Provider:
            def incr(self, category, metric, n):
                raise error

        reported = []
        guarded = GuardedProvider(Provider(), reported.append)
        guarded.budget = 60
        guarded.strikes_allowed = 100
        for error in (Odd(), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()):
            guarded.deliver("incr", "a", "b", 1)
        print(reported == ["provider_failures"] * 5, guarded.close(60))
        """
    )
    assert out == "True True\n"


def test_an_exception_for_the_thread_of_the_caller_reaches_it(guard: Guard, reported: Counter[str]) -> None:
    provider = Raising(KeyboardInterrupt(), 1)
    provider.nonblocking = True  # type: ignore[attr-defined]
    guarded = guard(provider)
    with pytest.raises(KeyboardInterrupt):
        guarded.deliver("incr", "a", "b", 1)
    guarded.deliver("incr", "a", "b", 1)
    assert len(provider.calls) == 2
    assert not reported


def test_a_provider_that_hangs_is_cut_off_and_never_called_again(
    guard: Guard, reported: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    provider = Hanging()
    guarded = guard(provider, budget=0.02)
    for n in range(10):
        guarded.deliver("incr", "a", "b", n)
    assert guarded.cut_off
    assert reported == {FAILURES: 3, CUT_OFF: 1, OPERATIONS_DROPPED: 9}  # 2 waited, 7 came later
    assert "took longer than 0.02 s" in caplog.records[-1].message
    provider.go_on.set()
    wait_until(lambda: not guarded._courier.running)
    assert provider.calls == [("incr", "a", "b", 0)]
    assert not guarded.flush(BOUND)


def test_an_operation_over_the_budget_is_passed_on_later_and_in_order(guard: Guard, reported: Counter[str]) -> None:
    provider = Hanging()
    guarded = guard(provider, budget=0.02)
    guarded.deliver("incr", "a", "b", 1)
    guarded.deliver("incr", "a", "b", 2)
    provider.go_on.set()
    guarded.budget = BOUND
    guarded.deliver("incr", "a", "b", 3)
    assert [call[-1] for call in provider.calls] == [1, 2, 3]
    assert reported == {FAILURES: 2}
    assert not guarded.cut_off


def test_operations_beyond_the_capacity_are_dropped_and_counted(guard: Guard, reported: Counter[str]) -> None:
    provider = Hanging()
    guarded = guard(provider, budget=0.001, capacity=4, strikes_allowed=1_000)
    guarded.deliver("incr", "a", "b", 0)
    assert provider.entered.wait(BOUND)
    for n in range(1, 20):
        guarded.deliver("incr", "a", "b", n)
    assert reported == {FAILURES: 5, OPERATIONS_DROPPED: 15}
    provider.go_on.set()
    assert guarded.flush(BOUND)
    assert [call[-1] for call in provider.calls] == [0, 1, 2, 3, 4]


def test_a_delay_that_affects_many_threads_is_one_failure(guard: Guard, reported: Counter[str]) -> None:
    provider = Hanging()
    guarded = guard(provider, budget=0.5)
    threads = [threading.Thread(target=guarded.deliver, args=("incr", "a", "b", 1)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert reported[FAILURES] == 8
    assert not guarded.cut_off
    provider.go_on.set()
    assert guarded.flush(BOUND)
    assert len(provider.calls) == 8


@pytest.mark.parametrize("nonblocking", [False, True])
def test_counts_of_a_provider_do_not_reach_guarded_providers(
    guard: Guard, reported: Counter[str], nonblocking: bool
) -> None:
    guards: list[GuardedProvider] = []

    class Counting(Recording):
        def incr(self, *arguments: Any) -> None:
            super().incr(*arguments)
            for each in guards:
                each.deliver("incr", "providers", "calls", 1)

    first, second = Counting(), Counting()
    first.nonblocking = nonblocking  # type: ignore[attr-defined]
    guards += [guard(first), guard(second)]
    for each in guards:
        each.deliver("incr", "a", "b", 1)
    assert first.calls == second.calls == [("incr", "a", "b", 1)]
    assert reported == {OPERATIONS_DROPPED: 4}


def test_a_reentrant_provider_gets_the_counts_of_other_providers(guard: Guard, reported: Counter[str]) -> None:
    quiet = Recording()
    quiet.nonblocking = quiet.reentrant = True  # type: ignore[attr-defined]
    reentrant = guard(quiet)

    class Counting(Recording):
        def incr(self, *arguments: Any) -> None:
            reentrant.deliver("incr", "providers", "calls", 1)

    guard(Counting()).deliver("incr", "a", "b", 1)
    assert quiet.calls == [("incr", "providers", "calls", 1)]
    assert not reported


def test_a_signal_handler_may_count_while_its_thread_waits_for_the_provider(
    guard: Guard, reported: Counter[str]
) -> None:
    class Interrupting(Recording):
        def incr(self, *arguments: Any) -> None:
            super().incr(*arguments)
            if arguments[1] == "interrupted":
                # Python misses a signal that arrives just before it waits for a lock: then another one is needed.
                wait_until(lambda: signal.pthread_kill(main, signal.SIGUSR1) or handled.wait(0.5))

    main, handled = threading.get_ident(), threading.Event()
    provider = Interrupting()
    guarded = guard(provider)

    def handle(number: int, frame: object) -> None:
        if not handled.is_set():
            handled.set()
            guarded.deliver("incr", "a", "handler", 1)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        guarded.deliver("incr", "a", "interrupted", 1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [call[2] for call in provider.calls] == ["interrupted", "handler"]
    assert not reported


@pytest.mark.parametrize("nonblocking", [False, True])
def test_signal_handlers_that_count_at_any_moment_never_deadlock(
    guard: Guard, reported: Counter[str], nonblocking: bool
) -> None:
    provider = Recording()
    provider.nonblocking = provider.reentrant = nonblocking  # type: ignore[attr-defined]
    guarded = guard(provider)
    handled = 0

    def handle(number: int, frame: object) -> None:
        nonlocal handled
        handled += 1
        guarded.deliver("incr", "a", "b", 1)

    counted = 0
    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while handled < 200:
            guarded.deliver("incr", "a", "b", 1)
            counted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert guarded.flush(BOUND)
    assert len(provider.calls) == counted + handled
    assert not reported


def test_a_forked_child_starts_with_an_empty_queue_and_its_own_thread(run: PythonRunner) -> None:
    out = run.run(
        """
        import logging, os, threading
        from shmstats.sinks.guarded import GuardedProvider

        logging.getLogger("shmstats").addHandler(logging.NullHandler())
        go_on, calls = threading.Event(), []

        class Provider:
            def incr(self, category, metric, n):
                assert go_on.wait(60)
                calls.append(n)

        guarded = GuardedProvider(Provider(), lambda metric: None)
        guarded.budget = 0.02
        guarded.strikes_allowed = 10
        for n in range(3):
            guarded.deliver("incr", "a", "b", n)
        guarded.budget = 60
        child = os.fork()
        go_on = threading.Event()
        go_on.set()
        if child == 0:
            guarded.deliver("incr", "a", "b", 100)
            print("child", calls, guarded.close(60), flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print("parent", calls, flush=True)
        os._exit(0)
        """
    )
    assert out == "child [100] True\nparent []\n"


def test_forks_while_other_threads_count_never_deadlock_the_child(run: PythonRunner) -> None:
    out = run.run(
        """
        import os, signal, threading
        from shmstats.sinks.guarded import GuardedProvider

        class Provider:
            calls = 0
            def incr(self, category, metric, n):
                self.calls += n

        provider, reported = Provider(), []
        guarded = GuardedProvider(provider, reported.append)
        guarded.budget = 60
        stop = threading.Event()

        def count():
            while not stop.is_set():
                guarded.deliver("incr", "a", "b", 1)

        threads = [threading.Thread(target=count) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(30):
            child = os.fork()
            if child == 0:
                signal.alarm(60)  # a deadlock ends here
                before = provider.calls
                for _ in range(5):
                    guarded.deliver("incr", "a", "b", 1)
                os._exit(0 if provider.calls == before + 5 and guarded.close(60) else 1)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        print(reported, guarded.close(60))
        """
    )
    assert out == "[] True\n"


def test_flush_and_close_come_after_the_waiting_operations(guard: Guard) -> None:
    class Flushing(Hanging):
        def flush(self) -> None:
            self.calls.append(("flush",))

        def close(self) -> None:
            self.calls.append(("close",))

    provider = Flushing()
    guarded = guard(provider, budget=0.01)
    guarded.deliver("incr", "a", "b", 1)
    assert not guarded.flush(0.01)
    provider.go_on.set()
    assert guarded.flush(BOUND)
    assert guarded.close(BOUND)
    assert provider.calls == [("incr", "a", "b", 1), ("flush",), ("flush",), ("close",)]


def test_flush_and_close_of_a_provider_that_hangs_return_in_time_and_do_not_cut_it_off(
    guard: Guard, reported: Counter[str]
) -> None:
    class Stuck(Recording):
        def flush(self) -> None:
            assert go_on.wait(BOUND)

        close = flush

    go_on = threading.Event()
    guarded = guard(Stuck())
    for _ in range(5):
        assert not guarded.flush(0.01)
    assert not guarded.close(0.01)
    assert reported == {FAILURES: 6}
    assert not guarded.cut_off
    go_on.set()
    wait_until(lambda: not guarded._courier.running)


def test_an_exception_in_flush_is_a_failure(guard: Guard, reported: Counter[str]) -> None:
    class Failing(Recording):
        def flush(self) -> None:
            raise OSError("disk full")

    guarded = guard(Failing())
    assert not guarded.flush(BOUND)
    assert reported == {FAILURES: 1}


def test_a_flush_that_returns_false_is_not_a_failure(guard: Guard, reported: Counter[str]) -> None:
    class Holding(Recording):
        def flush(self) -> bool:
            return False

    assert not guard(Holding()).flush(BOUND)
    assert not reported


def test_a_provider_without_flush_is_flushed_when_all_operations_are_passed_on(guard: Guard) -> None:
    provider = Recording()
    guarded = guard(provider)
    assert guarded.flush()
    guarded.deliver("incr", "a", "b", 1)
    assert guarded.flush(BOUND)
    assert guarded.close(BOUND)
    assert len(provider.calls) == 1


def test_an_operation_after_close_is_passed_on(guard: Guard) -> None:
    provider = Recording()
    guarded = guard(provider)
    for _ in range(50):
        guarded.deliver("incr", "a", "b", 1)
        assert guarded.close(BOUND)
    assert len(provider.calls) == 50


def test_a_provider_that_hangs_does_not_delay_the_end_of_the_process(run: PythonRunner) -> None:
    run.run(
        """
        import atexit, logging, threading
        from shmstats.sinks.guarded import GuardedProvider

        logging.getLogger("shmstats").addHandler(logging.NullHandler())

        class Provider:
            def incr(self, category, metric, n):
                threading.Event().wait()
            flush = close = incr

        guarded = GuardedProvider(Provider(), lambda metric: None)
        atexit.register(guarded.close, 0.1)
        guarded.deliver("incr", "a", "b", 1)
        """
    )
