"""Background work is in threads of the system: under gevent and eventlet, and without descriptors or pipes at first."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
from helpers import PythonRunner

pytestmark = pytest.mark.far_from_core

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all(); from gevent import sleep, spawn",
    "eventlet": (
        "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch();"
        " from eventlet import sleep, spawn"
    ),
}


@pytest.mark.parametrize("library", PATCHES)
def test_counts_beside_a_patched_event_loop_are_saved_and_restored(python: PythonRunner, library: str) -> None:
    if not find_spec(library):
        pytest.skip(f"{library} is not installed")
    code = f"""
        {PATCHES[library]}
        import shmstats
        shmstats.init({{"path": {{"data": "data"}}}})
        shmstats.stats.incr('c', 'm')
        print(shmstats.stats.get('c', 'm'))
        shmstats.close()
        """
    assert [python.run(code) for _ in range(3)] == ["1\n", "2\n", "3\n"]


@pytest.mark.thorough
@pytest.mark.parametrize("library", PATCHES)
def test_a_save_to_a_slow_disk_does_not_stop_the_event_loop(
    configure: Callable[..., Any], python: PythonRunner, preload: Callable[[str], None], library: str
) -> None:
    if not find_spec(library):
        pytest.skip(f"{library} is not installed")
    configure(snapshot_interval_ms=100)
    preload("slow_fsync")
    said = python.start(
        f"""
        {PATCHES[library]}
        import os, time
        from shmstats import stats
        stats.incr('c', 'm')
        longest, begun, pages = 0, time.monotonic(), []
        spawn(lambda: pages.append(stats.shared.exposable()))
        while time.monotonic() - begun < 3.5:
            before = time.monotonic()
            stats.incr('c', 'm')
            sleep(0.01)
            longest = max(longest, time.monotonic() - before)
        print(longest < 0.7, os.path.exists('data/stats/simple.json'), len(pages))
        """
    ).finish(quiet=False)
    assert said == "True True 1\n"


@pytest.mark.parametrize("left", [0, 4, 6])
def test_background_work_starts_when_descriptors_become_free(
    configure: Callable[..., Any], python: PythonRunner, left: int
) -> None:
    configure(snapshot_interval_ms=100)
    said = python.start(
        """
        import os, resource, sys, time
        from shmstats import stats
        stats.settings
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        taken = []
        try:
            while True:
                taken.append(os.open('/dev/null', os.O_RDONLY))
        except OSError:
            pass
        for _ in range(int(sys.argv[1])):
            os.close(taken.pop())
        stats.incr('c', 'm', 10)
        for descriptor in taken:
            os.close(descriptor)
        time.sleep(1.2)
        stats.incr('c', 'm', 10)
        end = time.monotonic() + 20
        while not os.path.exists('data/stats/simple.json') and time.monotonic() < end:
            time.sleep(0.01)
        block = stats.shared.attach()
        while not os.path.exists(f'/dev/shm/{block.name}.{block.worker.slot}.sock') and time.monotonic() < end:
            time.sleep(0.01)
        print(stats.get('c', 'm'), stats.get('shmstats', 'operations_dropped'), time.monotonic() < end)
        """,
        left,
    ).finish(quiet=False)
    assert said in ("20 0 True\n", "10 1 True\n")


@pytest.mark.parametrize("later", [0, 1])
def test_a_process_works_normally_if_the_system_refuses_pipes(
    configure: Callable[..., Any], python: PythonRunner, preload: Callable[[str], None], later: int
) -> None:
    configure(snapshot_interval_ms=100)
    preload("no_pipes")
    said = python.run(
        """
        import os, sys, time
        import shmstats
        from shmstats import stats
        from shmstats.attachment.asking import ask_all
        from shmstats.attachment.peers import socket_path

        def pipes():
            entries = [f'/proc/self/fd/{n}' for n in range(100)]
            return sum(os.readlink(entry).startswith('pipe:') for entry in entries if os.path.exists(entry))

        try:
            os.pipe()
        except PermissionError:
            print('refused')
        stats.incr('c', 'm', 10)
        had, end = pipes(), time.monotonic() + 20
        if sys.argv[1] == '1':
            open('pipes', 'w').close()
        while pipes() < had + 2 * int(sys.argv[1]) or not os.path.exists('data/stats/simple.json'):
            assert time.monotonic() < end
            time.sleep(0.01)
        block = stats.shared.attach()
        pid = os.getpid()
        print(ask_all({pid: socket_path(block.name, block.worker.slot)}, 'memory', 20)[pid] is not None)
        child = os.fork()
        if not child:
            stats.incr('c', 'm', 1)
            shmstats.close()
            os._exit(0)
        os.waitpid(child, 0)
        print(stats.get('c', 'm'), stats.get('shmstats', 'operations_dropped'))
        begun = time.monotonic()
        shmstats.close()
        print(time.monotonic() - begun < 3)
        """,
        later,
    )
    assert said.splitlines() == ["refused", "True", "11 0", "True"]


def test_a_daemon_that_closes_all_descriptors_counts_and_saves_on(
    configure: Callable[..., Any], python: PythonRunner
) -> None:
    """The package opens its files again, and neither writes to nor closes files of the application."""
    configure(snapshot_interval_ms=100)
    said = python.run(
        """
        import os, time
        from pathlib import Path
        import shmstats
        from shmstats import core, stats
        stats.incr('c', 'm')
        slow = []
        find_or_add = stats.shared._find_or_add
        def slowly(block, series, *more):
            slow.append(series.metric)
            return find_or_add(block, series, *more)
        stats.shared._find_or_add = slowly
        os.closerange(3, 256)
        kept = [os.open('log', os.O_RDWR | os.O_CREAT) for _ in range(20)]
        for metric in ('one', 'two', 'three'):
            stats.incr('c', metric)
        print(slow if core.CORE == 'C' else ['one'])
        saved = Path('data/stats/simple.json')
        while not saved.exists() or 'three' not in saved.read_text():
            time.sleep(0.01)
        shmstats.close()
        print([fd for fd in kept if not os.path.samestat(os.fstat(fd), os.stat('log'))], os.path.getsize('log'))
        """
    )
    assert said.splitlines() == ["['one']", "[] 0"]


@pytest.mark.parametrize("moment", ["socket.bind", "os.chmod"])
def test_a_daemon_may_close_all_descriptors_just_while_the_socket_for_questions_is_made(
    python: PythonRunner, moment: str
) -> None:
    said = python.run(
        """
        import os, sys, threading, time
        import shmstats
        from shmstats import stats
        from shmstats.attachment.asking import ask_all
        from shmstats.attachment.peers import socket_path

        kept, done = [], threading.Event()

        def daemonize(event, arguments):
            if event == sys.argv[1] and not kept and threading.current_thread() is not threading.main_thread():
                os.closerange(3, 256)
                kept.extend(os.open('log', os.O_RDWR | os.O_CREAT) for _ in range(20))
                done.set()

        sys.addaudithook(daemonize)
        shmstats.init({'path': {'data': 'data'}})
        stats.incr('c', 'm')
        block = stats.shared.attach()
        asked = {os.getpid(): socket_path(block.name, block.worker.slot)}
        assert done.wait(20)
        end = time.monotonic() + 20
        while ask_all(asked, 'memory', 20)[os.getpid()] is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        shmstats.close()
        print([fd for fd in kept if not os.path.samestat(os.fstat(fd), os.stat('log'))], os.path.getsize('log'))
        """,
        moment,
    )
    assert said == "[] 0\n"


def test_background_work_takes_no_descriptor_of_a_closed_standard_stream(python: PythonRunner) -> None:
    said = python.run(
        """
        import os
        kept = os.dup(1)
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        import shmstats
        from shmstats import stats
        stats.incr('c', 'm')
        stats.shared._saver.save_or_tell()
        taken = [os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2) if os.path.exists(f'/proc/self/fd/{n}')]
        os.write(kept, (','.join(name for name in taken if '/dev/shm/' not in name) or 'none').encode())
        shmstats.close()
        os._exit(0)
        """
    )
    assert said == "none"
