"""Machines and engines for tests: network, mount, host name and pid namespaces on one computer, for root only.

All networks are namespaces: nothing here listens on an address of the computer itself. A machine has a /dev/shm and a
clock of its own, and keeps its disk when it loses power.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from servers import children, wait_until

BOUND = 60.0
HUB = "10.77.0.1"
ENGINE_PORT = 9090
SITE_PORT = 8000
_CLONE_NEWNET = 0x40000000

_Result = TypeVar("_Result")

#: Moves the clock of a machine's processes by the seconds in a file.
_CLOCK = """
import os, time
_time_ns, _file = time.time_ns, os.environ["MACHINE_CLOCK"]
def time_ns():
    try:
        with open(_file) as file:
            return _time_ns() + int(file.read() or 0) * 10**9
    except OSError:
        return _time_ns()
time.time_ns = time_ns
time.time = lambda: time_ns() / 1e9
"""

SITE = """
import os, signal
from flask import Flask
from shmstats import stats
from shmstats.reading.reader import read_only
from shmstats.web import blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)
LEVEL = os.environ["LEVEL_KIND"]
stats.declare("shop", "level", kind=LEVEL, help="A level, of a kind that changes.")


@app.get("/hit")
def hit():
    stats.incr("shop", "hits")
    stats.incr("shop", "level") if LEVEL == "counter" else stats.gauge("shop", "level", 7)
    return "hit"


@app.get("/kill-saver")
def kill_saver():
    with read_only(stats.settings.path.data) as reader:
        os.kill(reader.header.number("saver_pid"), signal.SIGKILL)
    return "killed"
"""


def require() -> None:
    """Skip the test if namespaces are not available or a program is missing."""
    missing = [name for name in ("ip", "unshare", "prometheus", "victoria-metrics") if shutil.which(name) is None]
    able = os.geteuid() == 0 and not missing
    if able:
        able = subprocess.run(["ip", "netns", "list"], capture_output=True).returncode == 0
    if not able:
        if os.environ.get("CI"):
            pytest.fail(f"machines are namespaces, which need root and: {missing or 'ip netns'}")
        pytest.skip(f"machines are namespaces, which need root and: {missing or 'ip netns'}")


class Lab:
    """A network of machines around a hub, where the engines run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._prefix = f"shm{os.getpid()}"
        self.hub = f"{self._prefix}hub"
        self._namespaces: list[str] = []
        self._clock = directory / "clock"
        self._clock.mkdir()
        (self._clock / "sitecustomize.py").write_text(_CLOCK)

    def __enter__(self) -> Lab:
        self._add(self.hub)
        self._ip("link", "add", "br0", "type", "bridge", namespace=self.hub)
        self._ip("addr", "add", f"{HUB}/24", "dev", "br0", namespace=self.hub)
        self._ip("link", "set", "br0", "up", namespace=self.hub)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "del", namespace], check=False)

    def _add(self, namespace: str) -> None:
        self._ip("netns", "add", namespace)
        self._namespaces.append(namespace)
        self._ip("link", "set", "lo", "up", namespace=namespace)

    @staticmethod
    def _ip(*arguments: str, namespace: str | None = None) -> None:
        place = ["-n", namespace] if namespace else []
        subprocess.run(["ip", *place, *arguments], check=True, timeout=BOUND)

    def machine(self, number: int, push: dict[str, Any] | None) -> Machine:
        """Create a machine that is switched off."""
        namespace, cable = f"{self._prefix}m{number}", f"cable{number}"
        self._add(namespace)
        self._ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace, namespace=self.hub)
        self._ip("link", "set", cable, "master", "br0", "up", namespace=self.hub)
        address = f"10.77.0.{10 + number}"
        self._ip("addr", "add", f"{address}/24", "dev", "eth0", namespace=namespace)
        self._ip("link", "set", "eth0", "up", namespace=namespace)
        return Machine(self, namespace, f"machine-{number}", address, push)

    def within(self, work: Callable[[], _Result]) -> _Result:
        """Call a function in a thread that is in the network of the hub."""
        results: list[_Result] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                self.enter_hub()
                results.append(work())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def enter_hub(self) -> None:
        """Move the calling thread, which is not the main one, into the network of the hub."""
        with open(f"/run/netns/{self.hub}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def get(self, host: str, port: int, path: str, timeout: float = 10.0) -> tuple[int, str]:
        """Send a GET request from the hub."""
        return self.within(lambda: ask(host, port, path, timeout))

    def clock(self) -> str:
        """The directory that gives Python processes a separate clock."""
        return str(self._clock)


def ask(host: str, port: int, path: str, timeout: float = 10.0) -> tuple[int, str]:
    """Return status and body of an answer; 0 if there was none."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


class Machine:
    """A machine that runs gunicorn; its directory is its disk."""

    def __init__(self, lab: Lab, namespace: str, name: str, address: str, push: dict[str, Any] | None) -> None:
        self.name, self.address, self.push = name, address, push
        self._lab, self._namespace = lab, namespace
        self.disk = lab.directory / name
        self.disk.mkdir()
        (self.disk / "site_of_machine.py").write_text(SITE)
        self._offset = self.disk / "clock-offset"
        self.set_clock(0)
        config = {
            "path": {"data": str(self.disk / "data")},
            "stats": {"snapshot_interval_ms": 1000, "capacity": 2048, "max_workers": 8},
            "push": push or {},
            "api": {"token": "t"},
        }
        (self.disk / "shmstats.yml").write_text(json.dumps(config))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.disk / "log").read_text()

    def set_clock(self, seconds: int) -> None:
        """Set the machine's clock wrong by this many seconds."""
        self._offset.write_text(str(seconds))

    def start(self, level_kind: str = "gauge") -> None:
        """Switch it on, and wait until it answers."""
        script = 'hostname "$0" && mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
        gunicorn = [
            str(Path(sys.executable).with_name("gunicorn")), "--bind", f"0.0.0.0:{SITE_PORT}", "--workers", "2",
            "--no-control-socket", "--graceful-timeout", "5", "site_of_machine:app",
        ]  # fmt: skip
        command = [
            "ip", "netns", "exec", self._namespace, "unshare", "--mount", "--uts", "--pid", "--fork",
            "--kill-child=SIGKILL", "--mount-proc", "sh", "-c", script, self.name, *gunicorn,
        ]  # fmt: skip
        path = os.pathsep.join([self._lab.clock(), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {
            "PYTHONPATH": path,
            "MACHINE_CLOCK": str(self._offset),
            "LEVEL_KIND": level_kind,
            "SHMSTATS_CONFIG": str(self.disk / "shmstats.yml"),
        }
        with (self.disk / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.disk, env=environment, stdout=log, stderr=log)
        wait_until(lambda: self.alive() and self.total() is not None, f"{self.name}, which says {self.log}", BOUND)

    def alive(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return True

    def total(self) -> int | None:
        """The number of hits in its statistics; None without an answer."""
        status, body = self._lab.get(self.address, SITE_PORT, "/stats")
        if status != 200:
            return None
        value: int = json.loads(body)["simple"].get("shop", {}).get("hits", 0)
        return value

    def kill_saver(self) -> None:
        """Kill -9 the process that saves and pushes."""
        self._lab.get(self.address, SITE_PORT, "/kill-saver")

    def cut_power(self) -> None:
        """Kill all its processes at once; its /dev/shm is lost."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(BOUND)
        self._process = None

    def stop(self) -> None:
        """Shut it down in an orderly way."""
        assert self._process is not None
        for pid in children(self._process.pid):
            os.kill(pid, signal.SIGTERM)
        self._process.wait(BOUND)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.cut_power()


class Engine:
    """An engine in the hub.

    Args:
        lab: whose hub.
        program: Prometheus or VictoriaMetrics, by its path.
        targets: addresses that Prometheus scrapes.
    """

    def __init__(self, lab: Lab, program: str, targets: list[str]) -> None:
        self._lab = lab
        self.disk = lab.directory / "engine"
        self.disk.mkdir(exist_ok=True)
        if Path(program).name == "prometheus":
            scrape = {
                "job_name": "pull",
                "metrics_path": "/stats/prometheus",
                "static_configs": [{"targets": [f"{each}:{SITE_PORT}" for each in targets]}],
            }
            every = {"scrape_interval": "1s", "scrape_timeout": "1s"}
            (self.disk / "prometheus.yml").write_text(
                json.dumps({"global": every, "scrape_configs": [scrape] if targets else []})
            )
            options = [
                f"--config.file={self.disk}/prometheus.yml", f"--storage.tsdb.path={self.disk}/data",
                f"--web.listen-address={HUB}:{ENGINE_PORT}", "--web.enable-remote-write-receiver",
            ]  # fmt: skip
        else:
            options = [
                f"-httpListenAddr={HUB}:{ENGINE_PORT}", f"-storageDataPath={self.disk}/data",
                "-search.latencyOffset=0s", "-search.disableCache", "-inmemoryDataFlushInterval=1s",
            ]  # fmt: skip
            if not _knows(program, "inmemoryDataFlushInterval"):
                options.pop()
        self._command = ["ip", "netns", "exec", lab.hub, program, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.disk / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_until(lambda: self._lab.get(HUB, ENGINE_PORT, "/-/ready")[0] == 200, "the engine", BOUND)

    def stop(self) -> None:
        """Stop it in an orderly way; its data stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(BOUND)
            self._process = None

    def value(self, expression: str) -> float | None:
        """The single value of a query; None without a result."""
        query = urllib.parse.urlencode({"query": expression})
        status, body = self._lab.get(HUB, ENGINE_PORT, f"/api/v1/query?{query}")
        if status != 200:
            return None
        result = json.loads(body)["data"]["result"]
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None


def _knows(program: str, flag: str) -> bool:
    return flag in subprocess.run([program, "-help"], capture_output=True, text=True).stdout


class Visitors:
    """Sends requests from the hub to all machines until stopped; counts ``answered`` and ``failed`` by machine."""

    def __init__(self, lab: Lab, machines: list[Machine]) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._lab, self._machines = lab, machines
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(each,)) for each in machines]

    def _visit(self, machine: Machine) -> None:
        self._lab.enter_hub()
        while not self._stopping.is_set():
            status, _ = ask(machine.address, SITE_PORT, "/hit", 5.0)
            (self.answered if status == 200 else self.failed)[machine.name] += 1
            time.sleep(0.01)

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(BOUND)
