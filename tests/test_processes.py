"""Many real processes: exact sums, kills at random, and every way to start a child."""

from __future__ import annotations

import random
import signal
import struct
from pathlib import Path
from typing import Any

import pytest
from helpers import process_state, segment_file, wait_until

INCREMENTS = {"C": 1_000_000, "Python": 2_000}


@pytest.mark.parametrize("rows", [8, 2])
def test_eight_processes_count_exactly_on_three_names(
    stats: Any, python: Any, configure: Any, core: str, rows: int
) -> None:
    configure(max_workers=rows)
    code = """
        import sys
        from shmstats import stats
        rounds, number = map(int, sys.argv[1:])
        handle = stats.counter("requests", "handle")
        stats.incr("requests", "mixed", 0)
        print(stats.shared.attach().worker.row, flush=True)
        input()
        for _ in range(rounds // 2):
            handle.incr()
            stats.incr("requests", "total", 1)
            stats.incr("requests", "mixed", 3)
            stats.decr("requests", "mixed")
            handle.incr()
            stats.incr("requests", "total")
    """
    rounds = INCREMENTS[core] // 3
    children = [python.start(code, rounds, number) for number in range(8)]
    used = [int(child.hear()) for child in children]
    assert sorted(set(used)) == list(range(1, rows + 1))
    for child in children:
        child.tell()
    stats.get("requests", "total")
    for child in children:
        child.finish()
    half = rounds // 2
    assert stats.snapshot() == {"requests": {"handle": 16 * half, "total": 16 * half, "mixed": 16 * half}}


@pytest.mark.far_from_core
def test_a_million_increments_by_each_of_eight_processes_are_exact(stats: Any, python: Any, core: str) -> None:
    code = """
        import sys
        from shmstats import stats
        rounds = int(sys.argv[1])
        def count():
            incr, names = stats.incr, ("a", "b", "c")
            for number in range(rounds // 10):
                name = names[number % 3]
                incr("c", name); incr("c", name); incr("c", name); incr("c", name); incr("c", name)
                incr("c", name); incr("c", name); incr("c", name); incr("c", name); incr("c", name)
        count()
    """
    rounds = INCREMENTS[core]
    children = [python.start(code, rounds) for _ in range(8)]
    for child in children:
        child.finish()
    values = stats.snapshot()["c"]
    assert sum(values.values()) == 8 * rounds
    assert max(values.values()) - min(values.values()) <= 80


@pytest.mark.parametrize("seed", range(2))
def test_the_counts_of_killed_processes_are_kept_once(
    stats: Any, python: Any, core: str, tmp_path: Path, configure: Any, seed: int
) -> None:
    """Each process writes an increment to a separate file before it and after it."""
    configure(max_workers=3)
    code = """
        import mmap, sys
        from shmstats import stats
        file, name = sys.argv[1:]
        with open(file, "r+b") as opened:
            # One store of 8 bytes each; struct's pack_into would write a zero first.
            notes = memoryview(mmap.mmap(opened.fileno(), 4096)).cast("Q")
        handle = stats.counter("own", name)
        number = 0
        while True:
            number += 1
            notes[0] = number
            if number % 3:
                handle.incr()
            else:
                stats.incr("own", name)
            notes[1] = number
            notes[2] = number
            stats.incr("all", "together")
            notes[3] = number
            if number % 50 == 0:
                stats.incr("names", f"{name} {number % 1000}")
    """
    chance = random.Random(seed)
    files = []
    running = []

    def start() -> None:
        number = len(files)
        file = tmp_path / f"notes {number}"
        file.write_bytes(bytes(4096))
        files.append(file)
        running.append((python.start(code, file, f"process {number}"), file))

    def started(file: Path) -> int:
        return int(struct.unpack_from("<Q", file.read_bytes(), 8)[0])

    for _ in range(4):
        start()
    for _ in range(6):
        child, file = running.pop(chance.randrange(len(running)))
        wait_until(lambda file=file: started(file) > chance.randrange(50, 400))
        child.signal(signal.SIGKILL)
        child.finish(status=-signal.SIGKILL)
        start()
    for child, file in running:
        wait_until(lambda file=file: started(file) > 20)
        child.signal(signal.SIGKILL)
    for child, _ in running:
        child.finish(status=-signal.SIGKILL)
    values = stats.snapshot()
    least = most = 0
    for number, file in enumerate(files):
        before, after, before_all, after_all = struct.unpack_from("<4Q", file.read_bytes())
        assert after <= values["own"][f"process {number}"] <= before
        least, most = least + after_all, most + before_all
    assert least <= values["all"]["together"] <= most
    assert stats.shared.attach().reader.header.number("slots") <= 5
    stats.incr("all", "together")
    assert stats.get("shmstats", "operations_dropped") == 0


def test_stopped_processes_do_not_block_others_and_lose_nothing(
    stats: Any, python: Any, core: str, configure: Any
) -> None:
    configure(max_workers=1)
    code = """
        from shmstats import stats
        handle = stats.counter("c", "m")
        handle.incr(0)
        print("ready", flush=True)
        number = 0
        while number < {rounds}:
            handle.incr()
            number += 1
        print(number, flush=True)
    """
    rounds = 300_000 if core == "C" else 2000
    children = [python.start(code.format(rounds=rounds)) for _ in range(3)]
    for child in children:
        child.hear()
    chance = random.Random(7)
    for _ in range(10):
        child = chance.choice(children)
        child.signal(signal.SIGSTOP)
        wait_until(lambda child=child: child.ended or process_state(child.pid) in "TZ")
        child.signal(signal.SIGCONT)
    for child in children:
        child.finish()
    assert stats.get("c", "m") == 3 * rounds
    assert stats.get("shmstats", "locks_taken_over") == 0


# Ways to start a child ------------------------------------------------------------------------------------------

POOL = """
    import multiprocessing, os, sys

    def count(number):
        from shmstats import stats
        stats.incr("pool", "tasks")
        stats.counter("pool", f"name {number % 5}").incr()
        return os.getpid()

    if __name__ == "__main__":
        from shmstats import stats
        method, way = sys.argv[1:]
        context = multiprocessing.get_context(method)
        stats.incr("parent", "m")
        if way == "terminate":
            with context.Pool(3) as pool:
                pids = set(pool.map(count, range(60), chunksize=1))
        else:
            pool = context.Pool(3, maxtasksperchild=7)
            pids = set(pool.map(count, range(60), chunksize=1))
            pool.close()
            pool.join()
        assert os.getpid() not in pids
        stats.incr("parent", "m")
"""


@pytest.mark.far_from_core
@pytest.mark.parametrize("way", ["terminate", "join"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_count_exactly_and_leave_nothing(stats: Any, python: Any, data: Path, method: str, way: str) -> None:
    python.run(POOL, method, way)
    assert not segment_file(data).exists()
    values = stats.snapshot()
    assert values["parent"] == {"m": 2}
    assert values["pool"].pop("tasks") == 60
    assert values["pool"] == {f"name {number}": 12 for number in range(5)}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_leave_the_block_when_they_end(
    python: Any, data: Path, stats: Any, method: str
) -> None:
    """Such children end without the functions of atexit; here only they count."""
    code = """
        import multiprocessing, sys

        def count():
            from shmstats import stats
            stats.incr("c", "m")

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            for _ in range(2):
                child = context.Process(target=count)
                child.start()
                child.join()
    """
    python.run(code, method)
    assert not segment_file(data).exists()
    assert stats.get("c", "m") == 2


@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_forked_children_claim_rows_of_their_own(stats: Any, python: Any, data: Path, ending: str) -> None:
    """As with ``--preload``: the parent has a row, handles and bindings before it forks."""
    code = """
        import os, signal, sys
        from shmstats import stats
        handle = stats.counter("c", "handle")
        handle.incr()
        stats.incr("c", "m")
        row = stats.shared.attach().worker.row
        pids = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                handle.incr()
                stats.incr("c", "m")
                stats.incr("c", f"child {{number}}")
                assert stats.shared.attach().worker.row != row or stats.shared.attach().layout.max_workers < 4
                assert stats.shared.attach().worker.pid == os.getpid()
                {ending}
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        handle.incr()
        assert stats.get("c", "handle") == handle.value == 5, handle.value
        assert stats.shared.attach().worker.row == row
    """
    python.run(code.format(ending=ending))
    assert not segment_file(data).exists()
    assert stats.snapshot()["c"] == {"handle": 5, "m": 4, "child 0": 1, "child 1": 1, "child 2": 1}


def test_a_child_that_never_counts_never_attaches(stats: Any, python: Any) -> None:
    code = """
        import os
        from shmstats import stats
        stats.incr("c", "m")
        pid = os.fork()
        if pid == 0:
            raise SystemExit(0)
        os.waitpid(pid, 0)
        print(stats.shared.attach().reader.header.number("slots"))
    """
    assert python.run(code) == "1\n"


def test_children_of_children_count(stats: Any, python: Any) -> None:
    code = """
        import os
        from shmstats import stats
        handle = stats.counter("c", "m")
        def descend(depth):
            handle.incr()
            if depth == 0:
                return
            for _ in range(2):
                pid = os.fork()
                if pid == 0:
                    descend(depth - 1)
                    stats.close()
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        descend(3)
    """
    python.run(code)
    assert stats.get("c", "m") == 15


def test_a_child_forked_by_a_thread_while_others_count_counts_exactly(stats: Any, python: Any, core: str) -> None:
    code = """
        import os, sys, threading
        from shmstats import stats
        rounds = int(sys.argv[1])
        handle = stats.counter("c", "handle")
        stop = threading.Event()
        counted = [0, 0]

        def count(index):
            while not stop.is_set():
                handle.incr()
                counted[index] += 1
                stats.incr("names", f"{index} {counted[index] % 400}")

        def fork():
            for _ in range(rounds):
                pid = os.fork()
                if pid == 0:
                    stats.incr("c", "child")
                    handle.incr()
                    stats.incr("c", f"child's {os.getpid() % 3}")
                    stats.get("c", "child")
                    stats.close()
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

        threads = [threading.Thread(target=count, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        forking = threading.Thread(target=fork)
        forking.start()
        forking.join()
        stop.set()
        for thread in threads:
            thread.join()
        print(sum(counted))
    """
    rounds = 25
    counted = int(python.start(code, rounds).finish())
    values = stats.snapshot()
    assert values["c"].pop("handle") == counted + rounds
    assert values["c"].pop("child") == rounds
    assert sum(values["c"].values()) == rounds
    assert sum(values["names"].values()) == counted


def test_a_child_forked_by_a_signal_handler_during_a_count_counts_exactly(stats: Any, python: Any) -> None:
    """The child continues at the interrupted instruction of the parent, and then ends."""
    code = """
        import os, signal, sys
        from shmstats import stats
        handle = stats.counter("c", "m")
        handle.incr()
        main, forks, busy, pids = os.getpid(), 0, False, []

        def fork(*_):
            global forks, busy
            if busy or forks == 20:
                return
            busy = True
            forks += 1
            pid = os.fork()
            if pid == 0:
                signal.setitimer(signal.ITIMER_REAL, 0)
                handle.incr()
                stats.incr("c", "child")
                return
            # Not waited for here: this may be inside the table lock, which the child has to wait for.
            pids.append(pid)
            busy = False

        signal.signal(signal.SIGALRM, fork)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        number = 0
        while forks < 20 and os.getpid() == main:
            stats.incr("names", f"name {number % 300}")
            handle.incr()
            number += 1
        if os.getpid() == main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for pid in pids:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            print(number, flush=True)
    """
    number = int(python.start(code).finish())
    values = stats.snapshot()
    assert values["c"].pop("child") == 20
    # A child may repeat the interrupted operation, and the rest of that turn of the loop.
    assert number + 21 <= values["c"].pop("m") <= number + 41
    assert number <= sum(values["names"].values()) <= number + 20


def test_a_fork_just_before_a_lock_is_taken_raises_nothing_in_the_child(core: str, stats: Any, python: Any) -> None:
    if core == "C":
        pytest.skip("nothing of Python runs in the middle of a count")
    code = """
        import os
        from shmstats import stats
        from shmstats.block.lock import RecordLocks
        handle = stats.counter("c", "m")
        handle.incr()
        find, main, pids = RecordLocks.descriptor, os.getpid(), []

        def find_after_fork(self):
            if not pids:
                pids.append(None)
                pids.append(os.fork())
            return find(self)

        RecordLocks.descriptor = find_after_fork
        handle.incr()
        if os.getpid() != main:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[1], 0)[1]) == 0
        print(stats.get("c", "m"), flush=True)
    """
    # The child may repeat the count that the fork interrupted.
    assert int(python.start(code).finish()) in (2, 3)


@pytest.mark.parametrize("way", ["subprocess", "posix_spawn", "system", "vfork"])
def test_programs_started_by_a_worker_do_not_affect_it(stats: Any, python: Any, way: str) -> None:
    code = """
        import os, subprocess, sys
        from shmstats import stats
        handle = stats.counter("c", "m")
        handle.incr()
        for _ in range(3):
            if sys.argv[1] == "subprocess":
                subprocess.run(["true"], check=True, preexec_fn=lambda: None)
            elif sys.argv[1] == "vfork":
                subprocess.run(["true"], check=True, close_fds=False)
            elif sys.argv[1] == "system":
                assert os.system("true") == 0
            else:
                pid = os.posix_spawn("/bin/true", ["true"], os.environ)
                os.waitpid(pid, 0)
            assert handle._bound
            handle.incr()
        assert stats.get("c", "m") == 4
    """
    python.run(code, way)
    assert stats.get("c", "m") == 4


def test_descriptors_are_not_inherited_by_programs(python: Any, data: Path) -> None:
    code = """
        import os, subprocess
        from shmstats import stats
        stats.incr("c", "m")
        listing = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True)
        assert "shmstats_" not in listing.stdout, listing.stdout
    """
    python.run(code)


def test_a_daemonised_worker_counts_on(stats: Any, python: Any, tmp_path: Path) -> None:
    code = """
        import os, sys, time
        from shmstats import stats
        stats.incr("c", "m")
        first = os.getpid()
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)
        stats.incr("c", "m", 10)
        while os.path.exists(f"/proc/{first}/exe"):  # who leaves while it lives is not the last
            time.sleep(0.01)
        open(sys.argv[1], "w").close()
    """
    done = tmp_path / "done"
    python.start(code, done).finish()
    wait_until(done.exists)
    wait_until(lambda: not segment_file(tmp_path / "data").exists())
    assert stats.get("c", "m") == 11


def test_counts_are_exact_while_workers_read_write_and_remove_at_once(stats: Any, python: Any, core: str) -> None:
    """Names that are not removed are exact, and nothing is counted into a name that reuses cells."""
    code = """
        import sys
        from shmstats import stats
        number, rounds = map(int, sys.argv[1:])
        handle = stats.counter("stays", "handle")
        for i in range(rounds):
            handle.incr()
            stats.incr("stays", f"name {i % 7}")
            stats.incr("goes", f"name {i % 11}", 1_000_000)
            stats.gauge("gauges", f"name {i % 3}", i)
            if i % 20 == number:
                stats.remove("goes")
            if i % 50 == number:
                values = stats.snapshot()
                assert all(value < 1_000_000 for value in values["stays"].values()), values
                stats.reset("gauges")
    """
    rounds = 1500 if core == "C" else 500
    children = [python.start(code, number, rounds) for number in range(4)]
    for child in children:
        child.finish()
    values = stats.snapshot()
    assert values["stays"].pop("handle") == 4 * rounds
    assert values["stays"] == {f"name {i}": 4 * len(range(i, rounds, 7)) for i in range(7)}
    assert all(value % 1_000_000 == 0 for value in values.get("goes", {}).values())
