"""The process that forks workers: forking is a hundred times as cheap as starting an interpreter.

`Nursery` starts it and talks to it. It has imported the package and attached nothing, so a fork of it
begins like a new process. A worker leads its own process group, and ends with the nursery, which also waits for
processes that a worker leaves behind.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Time limit in seconds of every wait. No wait should ever take a noticeable part of it.
BOUND = 60.0

SCRIPTS = Path(__file__).parents[1]

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36


class HangError(Exception):
    """Something did not happen within `BOUND`."""


class Worker:
    """A forked worker, and its process group.

    Attributes:
        pid: of the worker, and the number of its group.
        status: its exit status, negative for a signal; None while it lives.
    """

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid

    @property
    def status(self) -> int | None:
        """Its exit status, as in `subprocess`; None while it lives."""
        self._nursery.listen(0)
        return self._nursery.statuses.get(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the worker and its children, if they still exist."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, bound: float = BOUND) -> int:
        """Wait until it and its children have ended; returns its status."""
        end = time.monotonic() + bound
        while self.pid not in self._nursery.statuses or self._group_lives():
            self._nursery.listen(0.0005)
            if time.monotonic() > end:
                raise HangError(f"worker {self.pid} has not ended within {bound:.0f} s")
        return self._nursery.statuses[self.pid]

    def kill(self) -> int:
        """Kill it with its children, and wait for the end; returns its status."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def wait_for_state(self, states: str, bound: float = BOUND) -> str:
        """Wait until it is in one of some states, by their letters in proc_pid_stat(5); returns the state.

        A worker that has ended is in state Z, even if it no longer exists.
        """
        end = time.monotonic() + bound
        while (state := self.state) not in states:
            time.sleep(0.0005)
            if time.monotonic() > end:
                raise HangError(f"worker {self.pid} stayed in state {state}, and not {states}, for {bound:.0f} s")
        return state

    @property
    def state(self) -> str:
        """The state that it is in."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "Z"

    def _group_lives(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Nursery:
    """A process that forks workers, as a context manager.

    Args:
        pure: whether its workers use the pure Python core.
        cells: path of another build of the C core, to use instead of the package's.
        log: a file for the standard error of its workers; None: that of this process.
        environment: additions to the environment of the process.
        prefix: a command that starts the interpreter in some way.

    Attributes:
        statuses: exit statuses of ended processes, by pid.
        crashes: those that are neither 0 nor SIGKILL.
    """

    def __init__(
        self,
        pure: bool = False,
        cells: Path | None = None,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.statuses: dict[int, int] = {}
        self.crashes: list[str] = []
        self._started: list[int] = []
        self._heard = b""
        variables = os.environ | {"SHMSTATS_PURE": "1" if pure else "", **(environment or {})}
        variables["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS.parent), str(SCRIPTS)])
        variables.pop("SHMSTATS_CONFIG", None)
        command = [*prefix, sys.executable, "-X", "faulthandler", "-m", "tortures.nursery", str(cells or "")]
        errors = None if log is None else log.open("ab")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=variables,
            start_new_session=True,
        )
        if errors is not None:
            errors.close()

    def start(self, work: str, directory: Path, stats: Mapping[str, Any], **order: Any) -> Worker:
        """Fork a worker.

        Args:
            work: one of `works.WORKS`.
            directory: the data directory.
            stats: the section ``stats`` of its configuration.
            order: ``ledger``, ``place``, ``seed``, and what the work needs.
        """
        config = {"path": {"data": str(directory)}, "stats": dict(stats)}
        return self._fork({"work": work, "config": config, **order})

    def run(self, code: str, directory: Path, stats: Mapping[str, Any], **names: Any) -> Worker:
        """Fork a worker that runs some code.

        The code has ``shmstats`` and its ``stats``, configured but not attached, ``works`` and ``names``. The worker
        ends without leaving, unless the code closes.
        """
        config = {"path": {"data": str(directory)}, "stats": dict(stats)}
        return self._fork({"work": "", "code": code, "config": config, "names": names})

    def _fork(self, order: dict[str, Any]) -> Worker:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        end = time.monotonic() + BOUND
        while not self._started:
            self.listen(0.1)
            if time.monotonic() > end:
                raise HangError("the nursery does not fork")
        return Worker(self, self._started.pop())

    def listen(self, seconds: float) -> None:
        """Read the nursery's messages; wait up to this long for the first one."""
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        while select.select([stream], [], [], seconds)[0]:
            piece = os.read(stream, 65536)
            if not piece:
                raise HangError(f"the nursery has ended, with status {self._process.wait(BOUND)}")
            self._heard += piece
            seconds = 0
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            told, pid, status = line.split()
            if told == b"started":
                self.statuses.pop(int(pid), None)  # of a former process with that number
                self._started.append(int(pid))
            else:
                self.statuses[int(pid)] = int(status)
                if int(status) not in (0, -signal.SIGKILL):
                    self.crashes.append(f"process {pid.decode()} ended with status {status.decode()}")

    def close(self) -> None:
        """End the nursery, and everything that it forked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(BOUND)
        self._process.stdout.close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


# In the nursery itself ------------------------------------------------------------------------------------------------


def _control(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _use_cells(file: str) -> None:
    """Make the package use another build of the C core."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("shmstats.core._cells", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shmstats.core._cells"] = module
    spec.loader.exec_module(module)


def _work(order: dict[str, Any]) -> None:
    """Execute an order, in the worker."""
    import shmstats
    from shmstats.config import load

    from . import works
    from .ledger import Ledger

    if order["work"]:
        ledger = Ledger(Path(order.pop("ledger")), order.pop("places"))
        config = order.pop("config")
        works.do(shmstats, ledger, config, **order)
    else:
        shmstats.stats._use(load(order["config"]))
        names = {"shmstats": shmstats, "stats": shmstats.stats, "works": works, **order["names"]}
        exec(compile(order["code"], "<order>", "exec"), names)


def _child(order: dict[str, Any]) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        _control(_SET_PDEATHSIG, signal.SIGKILL)
        _work(order)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _reap() -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            _tell("ended", pid, os.waitstatus_to_exitcode(status))


def main() -> None:
    """Fork the workers that the lines of standard input order, until its end."""
    import gc

    if sys.argv[1]:
        _use_cells(sys.argv[1])
    import shmstats
    import shmstats.web

    from . import judge, works  # noqa: F401  (so that no worker has to import them)

    assert not shmstats.stats.configured
    _control(_SET_CHILD_SUBREAPER, 1)
    ended, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.freeze()
    heard = b""
    while True:
        ready = select.select([0, ended], [], [])[0]
        if ended in ready:
            with suppress(BlockingIOError):
                os.read(ended, 65536)
            _reap()
        if 0 in ready:
            piece = os.read(0, 65536)
            if not piece:
                break
            *lines, heard = (heard + piece).split(b"\n")
            for line in lines:
                _fork_child(json.loads(line), ended, wake)
    _end_all()


def _fork_child(order: dict[str, Any], *descriptors: int) -> None:
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in descriptors:
            os.close(each)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        _child(order)
    with suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)
    _tell("started", pid, 0)


def _end_all() -> None:
    """Kill all living workers, with their children, which become children of this process then."""
    with suppress(ChildProcessError):
        while True:
            for task in Path("/proc/self/task").iterdir():
                for child in (task / "children").read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


if __name__ == "__main__":
    main()
