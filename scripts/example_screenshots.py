"""The command behind ``scripts/screenshots``: pictures of the real live page and of ``shmstats top``."""

from __future__ import annotations

import html
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from webdriver import Browser, browser

HERE = Path(__file__).parent
IMAGES = HERE.parent / "shmstats" / "docs" / "images"

#: Name of a picture, width, height, colour scheme.
PICTURES = (
    ("live-page.png", 1280, 1180, "light"),
    ("live-page-dark.png", 1280, 1180, "dark"),
    ("live-page-phone.png", 360, 900, "light"),
)

#: Most lines of one pane, and how often a worker that serves a request is looked for.
_LINES, _TRIES = 26, 20

TERMINAL = """<!DOCTYPE html><meta charset="utf-8"><style>
body { margin: 0; background: #14181d; color: #e6e9ec; font: 15px/1.35 monospace } pre { margin: 0; padding: 16px 20px }
</style><pre>"""


def main() -> None:
    """Start the site, wait, and make the pictures."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="shmstats-pictures-") as data:
        command = [sys.executable, str(HERE / "example_server.py"), "--port", str(port), "--data", data, "--load"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            time.sleep(seconds * 0.6)
            os.kill(_a_worker(server.pid), signal.SIGKILL)
            time.sleep(seconds * 0.4)
            with browser() as opened:
                for name, width, height, scheme in PICTURES:
                    opened.emulate(width, height, scheme)
                    opened.open(f"http://127.0.0.1:{port}/stats/live")
                    time.sleep(14)
                    (IMAGES / name).write_bytes(opened.screenshot())
                (IMAGES / "top.png").write_bytes(_terminal(opened, data))
        finally:
            server.terminate()
            server.wait(60)
    for picture in sorted(IMAGES.glob("*.png")):
        print(f"{picture} {picture.stat().st_size} bytes")


def _wait_for(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/login")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.2)
    raise TimeoutError(f"the example site does not answer on port {port}")


def _a_worker(master: int) -> int:
    """Return the pid of a worker: a child that is not a visitor."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return next(int(pid) for pid in children[::-1] if b"example_load" not in Path(f"/proc/{pid}/cmdline").read_bytes())


def _terminal(opened: Browser, data: str) -> bytes:
    """Return a picture of the output of ``shmstats top``, with the beginning of the stacks."""
    shown = ""
    for pane in ("workers", "routes", "stacks"):
        command = [sys.executable, "-m", "shmstats", "top", "--once", "--pane", pane, "--data", data]
        for _ in range(_TRIES):
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            lines = done.stdout.splitlines()[:_LINES]
            while pane == "stacks" and lines[-1]:  # only whole processes
                lines.pop()
            if pane == "routes" or any("GET" in line or "POST" in line for line in lines):
                break
        shown += f"$ shmstats top --once --pane {pane}\n" + "\n".join(lines) + "\n\n"
    shown = shown.replace(data, "/srv/shop/data").replace(str(HERE), "/srv/shop").rstrip()
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as page:
        page.write(f"{TERMINAL}{html.escape(shown)}</pre>")
        page.flush()
        opened.emulate(800, round(20.25 * (shown.count("\n") + 1)) + 34)
        opened.open(f"file://{page.name}")
        return opened.screenshot()


if __name__ == "__main__":
    main()
