"""The examples of docs/prometheus_client.md, run."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from documents import examples
from real.servers import BOUND, Gunicorn, Load, wait_until

ROOT = Path(__file__).parents[2]
SITE, EXPORTER = examples("shmstats/docs/prometheus_client.md")


@contextmanager
def running(directory: Path, code: str) -> Iterator[None]:
    """Run code in a new interpreter, in a directory."""
    (directory / "exporter.py").write_text(code)
    process = subprocess.Popen([sys.executable, "exporter.py"], cwd=directory, env={"PYTHONPATH": str(ROOT)})
    try:
        yield
    finally:
        process.terminate()
        process.wait(BOUND)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def page_of(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=BOUND) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_the_examples_show_the_counts_of_all_workers(tmp_path: Path) -> None:
    assert len([line for line in SITE.splitlines() if line.endswith("# new")]) == 2
    port = free_port()
    with Gunicorn(tmp_path, "--workers", "4", site=SITE) as server:
        with Load(server, path="/") as load:
            load.more(200)
        assert load.failed == 0
        assert set(load.answered) == {"welcome\n"}
        pages = [server.get("/metrics")[1] for _ in range(4)]
        with running(tmp_path, EXPORTER.replace("9102", str(port))):
            pages.append(wait_until(lambda: page_of(port), "a page of the exporter"))
    for page in pages:
        assert "process_" not in page, "only of the worker that answered"
        assert f'visits_total{{page="index"}} {float(load.total)}\n' in page
        assert f"visit_duration_seconds_count {float(load.total)}\n" in page
