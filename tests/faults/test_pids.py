"""Reused pids, pid namespaces, and containers that are restarted with the same pids.

``tests/block/test_workers.py`` and ``test_block.py`` use written numbers to show that a worker is identified by pid and
start time, that a zombie counts as dead, and that a header of another namespace is refused. Here the kernel reuses
the numbers, in separate namespaces if they can be made.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import PythonRunner, segment_file, with_hold

from shmstats.block.layout import HEADER

pytestmark = pytest.mark.far_from_core

#: Runs a command as a child of process 1 of a new pid namespace with its own /proc.
CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh"]


def content(file: Path) -> bytes:
    """Read a file in another process: closing it in this one would drop its record locks."""
    return subprocess.run(["cat", file], capture_output=True, check=True).stdout


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def container(python: PythonRunner) -> Callable[..., list[Any]]:
    """Run code in a new container: ``container(code, arguments)``; returns its output, parsed as JSON."""
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
    hold(block, block.worker.row, record.cell, block.worker.word)
    os.kill(os.getpid(), signal.SIGKILL)
"""

#: With an argument it writes its namespace into the header: the kernel may reuse the number.
NEXT = """
    import json, os, signal, sys
    from shmstats import stats
    signal.alarm(30)
    if len(sys.argv) > 1:
        from shmstats.block.layout import HEADER
        with open(sys.argv[1], "r+b") as file:
            file.seek(HEADER.offset("namespace"))
            file.write(os.stat("/proc/self/ns/pid").st_ino.to_bytes(8, "little"))
    stats.incr("c", "m")
    live = [worker.pid for worker in stats.shared.attach().reader.workers.live()] if stats.get("c", "m") else []
    print(json.dumps([os.getpid(), stats.get("c", "m"), live]), flush=True)
"""


def test_a_block_of_another_pid_namespace_is_refused_and_not_changed(
    container: Callable[..., list[Any]], stats: Any, data: Path, configure: Callable[..., Any]
) -> None:
    configure(snapshot_interval_ms=3_600_000)  # so that its owner does not begin to save meanwhile
    stats.incr("c", "m", 7)
    before = content(segment_file(data))
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
    assert content(segment_file(data)) == before
    assert stats.get("c", "m") == 7


def test_a_restarted_container_takes_no_dead_worker_for_a_live_one(
    container: Callable[..., list[Any]], data: Path
) -> None:
    """The same pid and the same number of the namespace: only the kernel's locks distinguish them."""
    ((pid, _, namespace),) = container(with_hold(DIE), status=137)
    ((again, counted, live),) = container(NEXT, segment_file(data))
    assert again == pid, "this container does not give the same pids"
    assert counted == 6
    assert live == [again]
    assert namespace


def test_a_restarted_container_in_another_namespace_continues(container: Callable[..., list[Any]], data: Path) -> None:
    """Its /dev/shm outlives it; the kernel's locks show that no process of the former namespace lives."""
    ((_, _, former),) = container(with_hold(DIE), status=137)
    with segment_file(data).open("r+b") as file:  # in case the kernel reuses the number of the namespace
        file.seek(HEADER.offset("namespace"))
        assert int.from_bytes(file.read(8), "little") == former
        file.seek(HEADER.offset("namespace"))
        file.write((former + 1).to_bytes(8, "little"))
    ((again, counted, live),) = container(NEXT)
    assert counted == 6
    assert live == [again]


def test_a_process_that_attached_again_is_seen_from_another_namespace(
    container: Callable[..., list[Any]], stats: Any, shmstats: ModuleType
) -> None:
    """Until it has left finally, after any number of attaches and in any registry."""
    code = """
        import json, logging
        from shmstats import stats
        logging.disable()
        stats.incr("c", "m")
        print(json.dumps(stats.get("c", "m")))
    """
    other = shmstats.registry.Registry()
    other.incr("c", "m")
    stats.incr("c", "m")
    stats.close()
    assert container(code) == [0]
    stats.incr("c", "m")
    other.close()
    assert container(code) == [0]
    stats.close()
    assert container(code) == [4]


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
        hold(own, row, record.cell, own.worker.word)
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    held = holder(block, row, record.cell)
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


def test_a_process_that_reuses_a_pid_does_not_own_the_lock_of_the_dead_worker(
    container: Callable[..., list[Any]], core: str
) -> None:
    """The lock is taken over although a process with that pid lives."""
    ((reused, held, lives, found, taken_over),) = container(with_hold(REUSE))
    if not reused:
        pytest.skip("the kernel does not give the same pid out again")
    assert held
    assert lives is False
    assert found == 12
    assert taken_over == 1


def test_no_live_worker_is_taken_for_dead_while_others_come_and_go(python: PythonRunner, stats: Any) -> None:
    """Only slots of dead processes are reused: a live process keeps its slot."""
    code = """
        import os, sys
        from shmstats import stats
        stats.incr("c", "m")
        block = stats.shared.attach()
        print(block.worker.slot, flush=True)
        for line in sys.stdin:
            stats.incr("c", "m")
            worker = next(each for each in block.reader.workers if each.slot == block.worker.slot)
            print(worker.pid == os.getpid() and worker in block.workers.live(), flush=True)
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


EXECUTE_ANEW = """
    import json, os, sys
    from shmstats import stats
    left = int(sys.argv[1])
    stats.declare("g", "live", kind="gauge", mode="livesum")
    stats.gauge("g", "live", 10)
    stats.incr("c", "m")
    if left:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:-1], str(left - 1)])
    live = stats.shared.attach().reader.workers.live()
    print(json.dumps([len(live), live[0].row, stats.get("g", "live"), stats.get("c", "m")]))
"""


def test_a_process_that_calls_exec_leaves_no_used_slot(python: PythonRunner, data: Path) -> None:
    """Pid and start time stay the same over ``exec``, as for a worker that restarts itself."""
    assert json.loads(python.run(EXECUTE_ANEW, 9)) == [1, 1, 10, 10]
    assert not segment_file(data).exists(), "it was the last one to leave"
    assert (data / "stats" / "simple.json").exists()


#: A process that root started and that changed its user is hidden from other processes of that user.
HIDDEN = [*CONTAINER[:-2], 'mount -o remount,hidepid=2 proc /proc && "$@"; exit $?', "sh"]

UNSEEN = """
    import json, os, sys
    from shmstats import stats
    stats.init({"path": {"data": sys.argv[1] + "/root"}})
    stats.incr("c", "m")
    stats.snapshot()
    stats.close()
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    stats.init({"path": {"data": sys.argv[1] + "/nobody"}, "stats": {"max_workers": 4}})
    stats.incr("c", "m", 10)
    leave, end = os.pipe()
    for _ in range(2):
        there, tell = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(end)
            stats.incr("c", "m", 10)
            worker, *others = stats.shared.attach().worker, *stats.shared.attach().reader.workers.live()
            print(json.dumps([worker.slot, worker.row, len(others)]), flush=True)
            os.close(tell)
            os.read(leave, 1)
            os._exit(0)
        os.close(tell)
        os.read(there, 1)
    seen = os.path.exists(f"/proc/{pid}/stat")
    print(json.dumps([seen, stats.get("c", "m")]), flush=True)
    os.close(end)
    for _ in range(2):
        os.wait()
    stats.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a /proc")
def test_workers_hidden_in_proc_are_not_taken_for_dead(
    container: Callable[..., list[Any]], python: PythonRunner
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        python.prefix = HIDDEN
        child = python.start(UNSEEN, directory)
        python.prefix = []
        *workers, (seen, counted) = (json.loads(line) for line in child.finish(quiet=False).splitlines())
    assert not seen, "/proc shows them here"
    assert workers == [[1, 2, 2], [2, 3, 3]]
    assert counted == 30


WITHOUT_DESCRIPTORS = """
    import json, os, resource, signal
    from shmstats import stats
    signal.alarm(30)
    counter, gauge, histogram = stats.counter("c", "m"), stats.gauge("g", "m"), stats.timing("t", "m")
    counter.incr()
    gauge.set(1)
    histogram.observe(1)
    row = stats.shared.attach().worker.row
    if os.fork() == 0:
        own = stats.shared.attach()
        for key, row in ((b"c\\0m", row), (b"g\\0m", 0), (b"t\\0m", row)):
            hold(own, row, own.names.find(key).cell, own.worker.word)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.wait()[1] == signal.SIGKILL
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    counter.incr()
    stats.incr("c", "m")
    gauge.set(2)
    histogram.observe(1)
    stats.incr("c", "new")
    for each in taken:
        os.close(each)
    print(json.dumps([stats.get("c", "m"), stats.get("g", "m"), stats.get("t", "m").count]))
"""


def test_a_process_without_descriptors_takes_over_the_lock_of_a_dead_one(python: PythonRunner, core: str) -> None:
    """No descriptor is needed to find that the holder is dead, unless a process has its pid."""
    if core == "Python":
        pytest.skip("the kernel drops the locks of dead processes there")
    assert json.loads(python.run(with_hold(WITHOUT_DESCRIPTORS), quiet=False)) == [3, 2, 2]
