"""`shmstats push`, which a batch job runs at its end, and `shmstats kit`, which an operator runs once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from helpers import wait_until
from test_push_formats import is_stale, read_body

JOB = "import shmstats; shmstats.init(%r); shmstats.stats.incr('job', 'done', 5); shmstats.close()"


class Receiver(ThreadingHTTPServer):
    """Accepts every push; ``bodies`` has them. ``answer``: status, content type and body."""

    answer = (204, "", b"")

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/api/v1/write"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        status, content_type, body = self.server.answer
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def shmstats(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shmstats", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def job(data: Path) -> None:
    """Run a batch job that counts five times."""
    subprocess.run([sys.executable, "-c", JOB % {"path": {"data": str(data)}}], check=True, timeout=60)


def test_totals_continue_over_the_runs_of_a_job_until_they_are_removed(tmp_path: Path, receiver: Receiver) -> None:
    data = tmp_path / "data"
    instances, values, times = set(), [], []
    for _ in range(3):
        job(data)
        done = shmstats("push", "--data", data, "--to", receiver.url)
        assert (done.returncode, done.stderr) == (0, "")
        [(series, value, time)] = [each for each in read_body(receiver.bodies[-1]) if each[0][0] == "done_total"]
        instances.add(dict(series[1])["instance"])
        values.append(value)
        times.append(time)
    assert values == [5, 10, 15]
    assert times == sorted(set(times))
    assert instances == {json.loads((data / "stats/identity.json").read_text())["uuid"]}
    assert shmstats("push", "--data", data, "--to", receiver.url, "--forget").returncode == 0
    assert all(is_stale(value) for _, value, _ in read_body(receiver.bodies[-1]))


def test_a_snapshot_file_is_pushed_under_the_identity_of_the_data_directory(tmp_path: Path, receiver: Receiver) -> None:
    job(tmp_path / "data")
    saved = tmp_path / "data/stats/simple.json"
    moved = saved.rename(tmp_path / "copy.json")
    config = tmp_path / "shmstats.yml"
    config.write_text(json.dumps({"path": {"data": str(tmp_path / "data")}, "push": {"url": receiver.url}}))
    assert shmstats("push", "--config", config, "--from", moved).returncode == 0
    assert ("done_total", 5.0) in {(name, value) for (name, _), value, _ in read_body(receiver.bodies[-1])}
    without = shmstats("push", "--config", config)
    assert (without.returncode, len(without.stderr.splitlines())) == (1, 1)
    assert "neither a live block nor a saved snapshot" in without.stderr


@pytest.mark.slow
def test_a_snapshot_file_is_pushed_again_when_it_is_replaced(tmp_path: Path, receiver: Receiver) -> None:
    job(tmp_path / "data")
    file = tmp_path / "data/stats/simple.json"
    asked = ("push", "--data", tmp_path / "data", "--from", file, "--watch", "0.2", "--to", receiver.url)
    watching = subprocess.Popen([sys.executable, "-m", "shmstats", *map(str, asked)], stderr=subprocess.PIPE)

    def pushed() -> set[float]:
        return {value for body in receiver.bodies for (name, _), value, _ in read_body(body) if name == "done_total"}

    try:
        wait_until(lambda: pushed() == {5})
        job(tmp_path / "data")
        wait_until(lambda: pushed() == {5, 10})
    finally:
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=60)
    assert (watching.returncode, said) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "nowhere to push to"),
        (("--to", "http://127.0.0.1:1/", "--watch", "1", "--forget"), 2, "does not go with --watch"),
        (("--to", "http://127.0.0.1:1/", "--format", "import", "--forget"), 2, "no way to end series"),
        (("--to", "ftp://h/"), 2, "allowed:"),
        (("--to", "http://127.0.0.1:1/"), 1, "Connection refused"),
    ],
)
def test_a_failed_push_is_an_error_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    job(tmp_path / "data")
    done = shmstats("push", "--data", tmp_path / "data", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("form", "content_type", "body", "said"),
    [
        ("import", "text/html", b"<p>Welcome", "with text/html: no engine answers so"),
        ("otlp", "application/x-protobuf", b"\n\x08\x08\x02\x12\x04late", "2 data points were rejected: late"),
    ],
)
def test_a_successful_status_without_success_is_reported_in_one_sentence(
    tmp_path: Path, receiver: Receiver, form: str, content_type: str, body: bytes, said: str
) -> None:
    if form == "otlp":
        pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    job(tmp_path / "data")
    receiver.answer = (200, content_type, body)
    done = shmstats("push", "--data", tmp_path / "data", "--to", receiver.url + "?key=secret", "--format", form)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert f"{receiver.url} answered 200" in done.stderr
    assert said in done.stderr
    assert "secret" not in done.stderr


def test_the_kit_is_written_once(tmp_path: Path) -> None:
    done = shmstats("kit", tmp_path / "kit")
    assert done.returncode == 0
    assert (tmp_path / "kit/prometheus/rules/shmstats.yml").exists()
    assert shmstats("kit", tmp_path / "kit").stdout == "everything is there already\n"
    (tmp_path / "kit/README.md").write_text("mine")
    again = shmstats("kit", tmp_path / "kit")
    assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
