"""Many machines at one engine: ``python tests/fleet/pushers.py [PUSHERS] [SERIES] [SECONDS]``.

Each pusher is the sender of a data directory of its own, which pushes to a VictoriaMetrics on loopback every 15 s. At
the end the engine must have the sum of all counts. Prints the costs of both sides.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import psutil

from shmstats.config import load
from shmstats.series import Kind, Name, Snapshot
from shmstats.sinks.push.sender import PushError, Sender

INTERVAL = 15.0
PORT = 18430
THREADS = 8


class Pusher:
    """A machine: its names, its counts, and its sender."""

    def __init__(self, directory: Path, number: int, series: int) -> None:
        push = {"url": f"http://127.0.0.1:{PORT}/api/v1/write", "labels": {"job": "simulated"}}
        self._sender = Sender(load({"path": {"data": str(directory / str(number))}, "push": push}))
        labels = ((("route", f"/things/{i}"), ("status", "200")) for i in range(series))
        self._names = [Name("web", "requests", Kind.COUNTER, each, True) for each in labels]
        self.round = 0
        self._number = number
        self.failed = 0
        self.total = 0

    def push(self) -> None:
        """Count a little, and push."""
        self.round += 1
        values = [self.round * (i + self._number) for i in range(len(self._names))]
        self.total = sum(values)
        try:
            self._sender.push(Snapshot(self._names, values), self._sender.draw_time())
        except PushError as error:
            self.failed += 1
            if self.failed == 1:
                print(error)


def run(pushers: list[Pusher], began: float, until: float) -> None:
    """Push each of them every 15 s, spread over the time."""
    turn = 0
    while True:
        for place, pusher in enumerate(pushers):
            due = began + (turn + place / len(pushers)) * INTERVAL
            if due >= until:
                return
            time.sleep(max(0.0, due - time.monotonic()))
            pusher.push()
        turn += 1


def query(expression: str) -> float:
    url = f"http://127.0.0.1:{PORT}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        answer = urllib.request.urlopen(url, timeout=300)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"the engine does not answer {expression}: {error.read().decode()}") from error
    with answer:
        result = json.load(answer)["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def simulate(pushers: list[Pusher], seconds: float) -> float:
    """Let all push for that long; return the processor time used."""
    used, began = time.process_time(), time.monotonic()
    shares = [pushers[i::THREADS] for i in range(THREADS)]
    threads = [threading.Thread(target=run, args=(share, began, began + seconds)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.process_time() - used


def judge(pushers: list[Pusher]) -> bool:
    """Return whether the engine has all counts after a short time."""
    expected = sum(pusher.total for pusher in pushers)
    end = time.monotonic() + 60
    while query("sum(requests_total)") != expected and time.monotonic() < end:
        time.sleep(1)
    found, resets = query("sum(requests_total)"), query("sum(resets(requests_total[1h]))")
    print(f"sum in the engine {found:.0f}, counted {expected}, resets {resets:.0f}")
    return found == expected


def main(number: int = 200, series: int = 1000, seconds: int = 300) -> int:
    """Simulate and report; return 1 if counts are missing in the engine."""
    with tempfile.TemporaryDirectory() as top:
        options = [f"-httpListenAddr=127.0.0.1:{PORT}", "-search.latencyOffset=0s", "-search.disableCache"]
        options += ["-search.maxUniqueTimeseries=10000000", "-search.maxQueryDuration=300s"]
        with open(f"{top}/log", "wb") as log:
            engine = subprocess.Popen(
                ["victoria-metrics", *options, f"-storageDataPath={top}/engine"], stdout=log, stderr=log
            )
        try:
            time.sleep(3)
            if engine.poll() is not None:
                raise SystemExit(Path(top, "log").read_text())
            pushers = [Pusher(Path(top), i, series) for i in range(number)]
            used = simulate(pushers, seconds)
            pushes, failed = sum(each.round for each in pushers), sum(each.failed for each in pushers)
            print(f"{number} pushers of {series} series for {seconds} s: {pushes} pushes, {failed} failed")
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / number
            print(f"pushers: {used / pushes * 1000:.1f} ms of processor time a push, {memory:.1f} MiB of memory each")
            process = psutil.Process(engine.pid)
            times = process.cpu_times()
            share = (times.user + times.system) / seconds
            disk = sum(file.stat().st_size for file in Path(top, "engine").rglob("*") if file.is_file())
            print(
                f"engine: {pushes * series / seconds:,.0f} samples/s, {share:.1%} of a processor,"
                f" {process.memory_info().rss / 2**20:.0f} MiB of memory, {disk / 2**20:.1f} MiB of disk"
            )
            return 0 if judge(pushers) else 1
        finally:
            engine.terminate()
            engine.wait(60)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
