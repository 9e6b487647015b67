"""``shmstats top`` and ``stacks``: right while workers are stopped or stuck, in a terminal and in a script."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import Child, PythonRunner, process_state, wait_until

from shmstats.cli import commands

pytestmark = pytest.mark.far_from_core

WORKER = """
import sys, time
import shmstats
from shmstats import stats
shmstats.init({"path": {"data": sys.argv[1]}, "stats": {"capacity": 1024, "max_workers": 4}})
stats.incr("shop", "orders", 3)
stats.gauge("shop", "<b>\\x1b[2J", 1.5)
stats.shared.attach().requests.begin("GET", sys.argv[2])
print("serves", flush=True)
def wait_for_the_bank():
    sys.stdin.readline()
wait_for_the_bank()
stats.close()
"""


@pytest.fixture
def workers(core: str, python: PythonRunner, data: Path) -> Iterator[list[Child]]:
    """Two workers that serve a request each; the second one is stopped."""
    found = [python.start(WORKER, data, path) for path in ("/slow", "/stopped")]
    for worker in found:
        worker.hear()
    found[1].signal(signal.SIGSTOP)
    wait_until(lambda: process_state(found[1].pid) == "T")
    yield found
    found[1].signal(signal.SIGCONT)
    for worker in found:
        worker.tell()
        worker.finish(quiet=False)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(commands, arguments, prog_name="shmstats")
    assert result.exit_code == 0, result.output
    return result.output


def test_the_requests_of_stopped_and_waiting_workers_are_shown(workers: list[Child], data: Path) -> None:
    shown = run("top", "--once", "--data", str(data))
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "busy 2 of 2" in shown
    assert re.search(rf"{workers[0].pid} +busy .* GET /slow", shown)
    assert re.search(rf"{workers[1].pid} +stopped .* GET /stopped", shown)


FORKING = """
import os, subprocess, sys
import shmstats
from shmstats import stats
shmstats.init({"path": {"data": sys.argv[1]}, "stats": {"capacity": 1024, "max_workers": 4}})
other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
children = []
for counts in (True, False):
    said, told = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        if counts:
            stats.incr("shop", "orders")
        os.write(said[1], b"-")
        os.read(told[0], 1)
        stats.close()
        os._exit(0)
    os.read(said[0], 1)
    children.append((child, told[1]))
print(*(child for child, _ in children), other.pid, flush=True)
sys.stdin.readline()
for child, told in children:
    os.write(told, b"-")
    os.waitpid(child, 0)
other.communicate(b"\\n")
"""


def test_a_worker_that_has_not_counted_yet_is_shown_beside_one_that_has(
    core: str, python: PythonRunner, data: Path
) -> None:
    master = python.start(FORKING, data)
    counting, idle, other = master.hear().split()
    shown = run("top", "--once", "--data", str(data))
    assert "busy 0 of 2" in shown
    for pid in (counting, idle):
        assert re.search(rf"^ *{pid} +idle ", shown, re.M)
    assert not re.search(rf"^ *{other} ", shown, re.M)
    master.tell()
    master.finish()


def test_metrics_are_shown_without_control_characters(workers: list[Child], data: Path) -> None:
    shown = run("top", "--once", "--pane", "metrics", "--data", str(data))
    assert re.search(r" 6 +0/s +shop\.orders", shown)
    assert "\x1b" not in shown


def test_without_an_integration_the_routes_view_says_how_to_enable_it(workers: list[Child], data: Path) -> None:
    assert "ShmStats" in run("top", "--once", "--pane", "routes", "--data", str(data))


def test_stacks_are_shown_with_the_request_or_the_reason_for_none(workers: list[Child], data: Path) -> None:
    shown = run("stacks", "--data", str(data))
    slow, stopped = (shown[shown.index(f"process {worker.pid}") :] for worker in workers)
    assert re.search(
        r"serves GET /slow for .*\n  thread\n    wait_for_the_bank  \S+:\d+\n    <module>  \S+:\d+\n", slow
    )
    assert re.search(r"serves GET /stopped.*\n.*no answer: the worker is stopped", stopped)
    assert "shmstats-agent" not in shown
    only = run("stacks", str(workers[0].pid), "--data", str(data))
    assert "/slow" in only
    assert "/stopped" not in only


def test_a_process_that_does_not_count_has_no_stacks(workers: list[Child], data: Path) -> None:
    result = CliRunner().invoke(commands, ["stacks", "1", "--data", str(data)], prog_name="shmstats")
    assert result.exit_code == 1
    assert result.stderr.startswith("shmstats stacks: no process 1 counts into the block of")
    assert str(workers[0].pid) in result.stderr


@pytest.mark.parametrize("command", [["top"], ["stacks"]])
def test_without_a_block_top_and_stacks_report_that(tmp_path: Path, command: list[str]) -> None:
    result = CliRunner().invoke(commands, [*command, "--data", str(tmp_path)], prog_name="shmstats")
    assert result.exit_code == 1
    assert "there is no live block for the data directory" in result.stderr


class Terminal:
    """A program in a terminal of 80 columns."""

    def __init__(self, *command: str) -> None:
        self._master, slave = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "LINES": "24", "COLUMNS": "80"}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.seen = ""

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            ready, _, _ = select.select([self._master], [], [], 1)
            if ready:
                self.seen += os.read(self._master, 65536).decode(errors="replace")

    def close(self) -> int:
        try:
            status = self.process.wait(60)
        finally:
            self.process.kill()
        os.close(self._master)
        return status


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    """Run ``shmstats`` with arguments in a terminal."""
    opened: list[Terminal] = []

    def open_terminal(*arguments: str) -> Terminal:
        opened.append(Terminal(sys.executable, "-m", "shmstats", *arguments))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        terminal.process.kill()
        terminal.process.wait()


def test_keys_choose_the_view_of_a_terminal(
    workers: list[Child], data: Path, open_terminal: Callable[..., Terminal]
) -> None:
    terminal = open_terminal("top", "--data", str(data))
    terminal.wait_for("GET /stopped")
    for key, text in (("m", "shop.orders"), ("r", "No integration"), ("s", "wait_for_the_bank"), ("p", "(paused)")):
        terminal.press(key)
        terminal.wait_for(text)
    terminal.press("q")
    assert terminal.close() == 0


def test_top_waits_for_an_application_that_ends_and_starts_again(
    data: Path, attach: Callable[..., Any], open_terminal: Callable[..., Terminal]
) -> None:
    block = attach()
    terminal = open_terminal("top", "--data", str(data))
    terminal.wait_for("serves now")
    block.leave()
    terminal.wait_for("there is no live block")
    attach()
    terminal.seen = ""
    terminal.press("m")
    terminal.wait_for("metric")
    terminal.press("q")
    assert terminal.close() == 0
