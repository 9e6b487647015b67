"""Pids that are given out again, pid namespaces, and containers that are started again with the same pids.

That a worker is known by its pid and start time together, that a zombie is dead, and that a header of another
namespace is refused is shown in ``tests/block/test_workers.py`` and ``test_block.py``, by written numbers. Here the
kernel really does it: in namespaces of its own, if it lets us.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import PythonRunner, segment_file

#: Runs a command as a child of process 1 of a new pid namespace, which has a /proc of its own.
CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh"]


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def container(python: PythonRunner) -> Callable[..., list[Any]]:
    """Run code in a container of its own: ``container(code, arguments)``; returns what it wrote, as JSON."""
    if os.environ.get("CI") and shutil.which("unshare") is None:
        pytest.fail("unshare is missing, and CI must test with pid namespaces")
    if not can_unshare():
        pytest.skip("pid namespaces cannot be made here")

    def container(code: str, *arguments: object, status: int = 0) -> list[Any]:
        python.prefix = CONTAINER
        child = python.start(code, *arguments)
        python.prefix = []
        written = child.finish(quiet=False, status=status)
        return [json.loads(line) for line in written.splitlines()]

    return container


DIE = """
    import json, os, signal, sys
    from shmstats import stats
    stats.incr("c", "m", 5)
    block = stats.shared.attach()
    print(json.dumps([os.getpid(), block.worker.start_time, os.stat("/proc/self/ns/pid").st_ino]), flush=True)
    record = block.names.find(b"c\\0m")
    block.cells.hold(block.worker.row, record.cell, block.worker.word)
    os.kill(os.getpid(), signal.SIGKILL)
"""

#: With an argument it puts its own namespace into the header: the kernel may give the same number out again.
NEXT = """
    import json, os, signal, sys
    from shmstats import stats
    signal.alarm(30)
    if len(sys.argv) > 1:
        from shmstats.block.layout import HEADER, field_offset
        with open(sys.argv[1], "r+b") as file:
            file.seek(field_offset(HEADER, "namespace"))
            file.write(os.stat("/proc/self/ns/pid").st_ino.to_bytes(8, "little"))
    stats.incr("c", "m")
    live = [worker.pid for worker in stats.shared.attach().reader.workers.live()] if stats.get("c", "m") else []
    print(json.dumps([os.getpid(), stats.get("c", "m"), live]), flush=True)
"""


def test_a_block_of_another_namespace_is_refused_and_stays_as_it_is(
    container: Callable[..., list[Any]], stats: Any, data: Path, python: PythonRunner
) -> None:
    stats.incr("c", "m", 7)
    before = segment_file(data).read_bytes()
    code = """
        import json, logging
        from shmstats import stats
        logged = []
        logging.getLogger("shmstats").addFilter(lambda record: logged.append(record.getMessage()))
        for _ in range(3):
            stats.incr("c", "m")
        print(json.dumps(logged))
        print(json.dumps(stats.get("c", "m")))
    """
    logged, counted = container(code)
    assert len(logged) == 1
    assert "belongs to the pid namespace" in logged[0]
    assert counted == 0
    assert segment_file(data).read_bytes() == before
    assert stats.get("c", "m") == 7


def test_a_container_that_is_started_again_takes_no_dead_worker_for_a_live_one(
    container: Callable[..., list[Any]], data: Path
) -> None:
    """The same pid, and the same number of the namespace: only the start time tells them apart."""
    ((pid, _, namespace),) = container(DIE, status=137)
    ((again, counted, live),) = container(NEXT, segment_file(data))
    assert again == pid, "this container does not give the same pids"
    assert counted == 6
    assert live == [again]
    assert namespace


def test_a_container_that_is_started_again_in_another_namespace_is_refused_or_goes_on(
    container: Callable[..., list[Any]], data: Path
) -> None:
    """By whatever number the kernel gives the namespace; what the dead one counted is not touched or used whole."""
    container(DIE, status=137)
    before = segment_file(data).read_bytes()
    ((_, counted, live),) = container(NEXT)
    if counted == 0:
        assert segment_file(data).read_bytes() == before
        for file in segment_file(data).parent.glob(f"{segment_file(data).name}*"):
            file.unlink()
    else:
        assert counted == 6
        assert len(live) == 1


REUSE = """
    import json, os, signal, sys, time
    from shmstats import stats
    signal.alarm(60)
    stats.incr("c", "m")
    block = stats.shared.attach()
    record = block.names.find(b"c\\0m")
    row = block.worker.row

    read, write = os.pipe()
    victim = os.fork()
    if victim == 0:
        stats.incr("c", "m", 10)
        own = stats.shared.attach()
        own.cells.hold(row, record.cell, own.worker.word)
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    held = block.cells.holder(row, record.cell)
    started = block.reader.workers._read((held >> 20) - 1).start_time
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)

    # Another process gets that very pid, as soon as the clock that start times are told by has moved on.
    time.sleep(2 / os.sysconf("SC_CLK_TCK"))
    for _ in range(100):
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(victim - 1))
        heir = os.fork()
        if heir == 0:
            signal.pause()
        if heir == victim:
            break
        os.kill(heir, signal.SIGKILL)
        os.waitpid(heir, 0)
    lives = block.reader.workers.is_live(held)
    stats.incr("c", "m")
    found = stats.get("c", "m")
    os.kill(heir, signal.SIGKILL)
    os.waitpid(heir, 0)
    print(json.dumps([heir == victim, bool(held), lives, found, stats.get("shmstats", "locks_taken_over")]))
"""


def test_the_lock_of_a_dead_worker_is_not_its_who_has_the_pid_now(
    container: Callable[..., list[Any]], core: str
) -> None:
    """It is taken over although a process with that pid lives."""
    ((reused, held, lives, found, taken_over),) = container(REUSE)
    if not reused:
        pytest.skip("the kernel does not give the same pid out again")
    assert held
    assert lives is False
    assert found == 12
    assert taken_over == 1


def test_no_live_worker_is_taken_for_dead_while_others_with_other_pids_come_and_go(
    python: PythonRunner, stats: Any
) -> None:
    """Slots are given up for dead ones only: who lives has the same one all the time."""
    code = """
        import os, sys
        from shmstats import stats
        stats.incr("c", "m")
        block = stats.shared.attach()
        print(block.worker.slot, flush=True)
        for line in sys.stdin:
            stats.incr("c", "m")
            worker = next(each for each in block.reader.workers if each.slot == block.worker.slot)
            print(worker.pid == os.getpid() and worker.lives, flush=True)
    """
    stays = [python.start(code) for _ in range(3)]
    slots = {child.hear() for child in stays}
    assert len(slots) == 3
    python.run("""
        import os
        from shmstats import stats
        for _ in range(60):
            if (pid := os.fork()) == 0:
                stats.incr("c", "m")
                os._exit(0)
            os.waitpid(pid, 0)
    """)
    for child in stays:
        child.tell()
        assert child.hear() == "True"
    for child in stays:
        child.kill()
    assert stats.get("c", "m") == 66
