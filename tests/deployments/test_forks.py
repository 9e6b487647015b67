"""Forks that Python does not report, and forks in the middle of a first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers import PythonRunner


@pytest.mark.parametrize("buffered", [False, True])
def test_children_forked_in_c_count_by_themselves(
    stats: Any, configure: Callable[..., Any], python: PythonRunner, buffered: bool
) -> None:
    """UWSGI forks in this way: it calls Python's fork functions only if it is configured to."""
    configure(no_buffer=not buffered)
    python.run(
        """
        import ctypes, os
        import shmstats
        from shmstats import stats
        stats.incr('c', 'm')
        rows = set()
        children = []
        for _ in range(3):
            child = ctypes.PyDLL(None).fork()
            if not child:
                for _ in range(500):
                    stats.incr('c', 'm')
                    stats.timing('c', 't', 1.5)
                right = stats.get('c', 'm') >= 500 and stats.shared.attach().worker.pid == os.getpid()
                shmstats.close()
                os._exit(0 if right else 1)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        assert stats.get('c', 'm') == 1501, stats.get('c', 'm')
        assert stats.get('c', 't').count == 1500
        """
    )
    assert stats.get("c", "m") == 1501


def test_a_child_forked_during_the_first_use_can_count(stats: Any, python: PythonRunner) -> None:
    python.run(
        """
        import os, sys, threading
        from shmstats import stats
        if os.fork() == 0:  # root imports what comes late before its first fork
            os._exit(0)
        os.wait()
        sys.setswitchinterval(0.00001)
        before = set(sys.modules)
        thread = threading.Thread(target=lambda: [stats.incr('c', 'm') for _ in range(10)])
        children = []
        thread.start()
        for _ in range(12):
            child = os.fork()
            if not child:
                stats.incr('c', 'm')
                os._exit(0)
            children.append(child)
        thread.join()
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        imported = {name for name in set(sys.modules) - before if not name.startswith('encodings')}
        assert not [name for name in imported if name.partition('.')[0] in ('yaml', 'shmstats')], imported
        """
    )
    assert stats.get("c", "m") == 22


def test_a_child_forked_while_a_thread_reads_the_configuration_can_count(stats: Any, python: PythonRunner) -> None:
    python.run(
        """
        import os, signal, sys, threading, time
        file = os.environ.pop('SHMSTATS_CONFIG')
        import shmstats
        from shmstats import stats
        assert 'yaml' not in sys.modules  # it is imported with the first file
        os.environ['SHMSTATS_CONFIG'] = file

        class TakeTime:
            def find_spec(name, path=None, target=None):
                if name == 'yaml.scanner':
                    importing.set()
                    time.sleep(0.2)

        importing = threading.Event()
        sys.meta_path.insert(0, TakeTime)
        thread = threading.Thread(target=stats.incr, args=('c', 'm'))
        thread.start()
        importing.wait(10)
        child = os.fork()
        signal.alarm(10)
        stats.incr('c', 'm')
        if not child:
            os._exit(0)
        thread.join()
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert stats.get("c", "m") == 3


def test_after_init_in_one_thread_the_counts_of_others_go_to_the_new_block(
    shmstats: Any, configure: Callable[..., Any], python: PythonRunner
) -> None:
    configure()
    python.run(
        """
        import sys, threading
        import shmstats
        from shmstats import stats
        sys.setswitchinterval(0.00005)
        counted, done = [0, 0], threading.Event()
        def count(number):
            while not done.is_set():
                stats.incr('c', 'm')
                stats.incr('c', f'n{counted[number] % 7}', labels={'l': str(number)})
                counted[number] += 1
        threads = [threading.Thread(target=count, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for n in range(40):
            shmstats.init()
            assert len(stats.shared.attach().reader.workers.live()) == 1
        done.set()
        for thread in threads:
            thread.join()
        assert stats.get('c', 'm') == sum(counted), (stats.get('c', 'm'), counted)
        labelled = sum(
            stats.get('c', f'n{n}', labels={'l': str(number)}) for n in range(7) for number in range(2)
        )
        assert labelled == sum(counted), (labelled, counted)
        assert stats.get('shmstats', 'operations_dropped') == 0
        """
    )


def test_counts_go_to_another_directory_as_soon_as_init_returns(
    shmstats: Any, configure: Callable[..., Any], python: PythonRunner, tmp_path: Any
) -> None:
    configure()
    python.run(
        """
        import sys, threading
        import shmstats
        from shmstats import stats
        sys.setswitchinterval(0.00005)
        counted, done = [0], threading.Event()
        def count():
            while not done.is_set():
                stats.incr('c', 'm')
                counted[0] += 1
        thread = threading.Thread(target=count)
        thread.start()
        totals = []
        for n in range(6):
            shmstats.init({'path': {'data': f'{sys.argv[1]}/{n}'}})
        after = counted[0]
        done.wait(0.05)
        done.set()
        thread.join()
        last = stats.get('c', 'm')
        for n in range(5):
            shmstats.init({'path': {'data': f'{sys.argv[1]}/{n}'}})
            totals.append(stats.get('c', 'm'))
        assert last >= counted[0] - after > 0, (last, counted, after)
        shmstats.init()
        assert stats.get('c', 'm') + sum(totals) + last == counted[0], (totals, last, counted)
        """,
        tmp_path,
    )


def test_two_registries_used_in_each_others_signal_handlers_do_not_deadlock(
    python: PythonRunner, tmp_path: Any
) -> None:
    counted = python.run(
        """
        import signal, sys, threading, time
        import shmstats
        one, two = shmstats.Registry(), shmstats.Registry()
        for registry, name in ((one, 'one'), (two, 'two')):
            registry.init({'path': {'data': f'{sys.argv[1]}/{name}'}})
        handled = [0]
        def handle(*_):
            handled[0] += 1
            two.incr('c', f'h{handled[0] % 50}')
            two.remove('c', f'h{(handled[0] + 25) % 50}')
            if not done.is_set():
                signal.setitimer(signal.ITIMER_REAL, 0.0005)  # one by one: a slow machine would nest them
        signal.signal(signal.SIGALRM, handle)
        done = threading.Event()
        def crosswise():
            n = 0
            while not done.is_set():
                n += 1
                two.incr('c', f'n{n % 50}')
                two.remove('c', f'n{(n + 25) % 50}')
        thread = threading.Thread(target=crosswise)
        thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        end, n = time.monotonic() + 1.5, 0
        while time.monotonic() < end:
            n += 1
            one.incr('c', f'n{n % 50}')
            one.remove('c', f'n{(n + 25) % 50}')
        done.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        thread.join()
        one.close(), two.close()
        print(handled[0] > 20)
        """,
        tmp_path,
    )
    assert counted == "True\n"
