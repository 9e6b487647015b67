"""Measures the cost of a hanging push target: ``python tests/fleet/hang.py [SECONDS]``.

A process counts as fast as it can and saves every 100 ms without a push, with a push to a server that answers, and
with a push to one that accepts connections but never answers. Prints increments per second, the longest increment and
the saves; the longest must be at most 1.2 times that without a push. On a busy machine run it under ``chrt --fifo
10``.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress

TURNS = 5
LIMIT = 1.2

CODE = """
import json, sys, time
import shmstats
from shmstats import stats
config, seconds = json.loads(sys.argv[1]), float(sys.argv[2])
shmstats.init(config)
for i in range(1000):
    stats.incr("web", "requests", labels={"route": str(i)})
handle = stats.counter("web", "hits")
handle.incr()
block = stats.shared.attach()
time.sleep(2)
saved, clock, longest, counted = block.header.saved_count, time.perf_counter, [], 0
began = last = clock()
while last - began < seconds:
    handle.incr()
    now = clock()
    longest.append(now - last)
    last = now
    counted += 1
    if len(longest) == 100000:
        longest = sorted(longest)[-1000:]
longest = sorted(longest)
saves = block.header.saved_count - saved
print(counted / seconds, longest[-1] * 1e3, longest[-100] * 1e3, saves, block.header.push_error)
"""


def answer(listening: socket.socket) -> None:
    """Answer every request."""
    with suppress(OSError):
        while True:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.settimeout(0.2)
                with suppress(TimeoutError):
                    while connection.recv(1 << 20):
                        pass
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def measure(name: str, url: str | None, seconds: float) -> tuple[float, float]:
    """Print a line; returns the longest increment and the hundredth longest, in ms."""
    with tempfile.TemporaryDirectory() as top:
        config = {
            "path": {"data": top},
            "stats": {"snapshot_interval_ms": 100},
            "push": {"url": url, "interval_seconds": 1, "timeout_seconds": 300},
        }
        done = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps(config), str(seconds)], capture_output=True, text=True, check=True
        )
    rate, longest, hundredth, saves, *error = done.stdout.split(maxsplit=4)
    print(
        f"{name:<20} {float(rate):>12,.0f} increments/s, longest {float(longest):.2f} ms, 100th longest"
        f" {float(hundredth):.3f} ms, {saves} saves {' '.join(error)}"
    )
    return float(longest), float(hundredth)


def main(seconds: float) -> int:
    """Measure in turns; return 1 if the median of the longest increments is above the limit with a hanging server."""
    with socket.create_server(("127.0.0.1", 0)) as good, socket.create_server(("127.0.0.1", 0)) as hanging:
        threading.Thread(target=answer, args=(good,), daemon=True).start()
        addresses = {
            "without a push": None,
            "to an answering server": f"http://127.0.0.1:{good.getsockname()[1]}/",
            "to a hanging server": f"http://127.0.0.1:{hanging.getsockname()[1]}/",
        }
        found = [[measure(name, url, seconds) for name, url in addresses.items()] for _ in range(TURNS)]
    medians = [[statistics.median(each) for each in zip(*way, strict=True)] for way in zip(*found, strict=True)]
    (alone, alone_100th), _, (beside, beside_100th) = medians
    ratio = beside / alone
    print(
        f"with a hanging server / without, medians of {TURNS}: longest increment {ratio:.2f} (limit {LIMIT}),"
        f" 100th longest {beside_100th / alone_100th:.2f}"
    )
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0))
