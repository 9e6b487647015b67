"""The cost of a push: ``python tests/fleet/costs.py [SERIES]`` prints bytes and ms of processor time of each
format, beside two peers.

The values of all series change between two pushes. The peers are fed by their own counters: OpenTelemetry's SDK with
its OTLP exporter, and the push gateway client of prometheus_client; both up to the body that they would send.
"""

from __future__ import annotations

import gzip
import statistics
import sys
import time
from collections.abc import Callable

from shmstats.export import View, render
from shmstats.series import Kind, Name, Snapshot
from shmstats.sinks.push import remote_write
from shmstats.sinks.push.encoder import Stale
from shmstats.sinks.push.otlp import Otlp
from shmstats.sinks.push.remote_write import RemoteWrite
from shmstats.sinks.push.text import TextImport

TURNS = 7
VIEW = View(labels=(("job", "web"), ("instance", "2d32a76b-dfab-4ec2-9bde-c7c2c797d86f")))


def labels(i: int) -> tuple[tuple[str, str], ...]:
    return (("method", "GET"), ("route", f"/api/v1/things/{i}"), ("status", "200"))


def measure(name: str, body: Callable[[int], bytes]) -> None:
    """Print the first body's time, and the median of those after it."""
    times: list[float] = []
    size = 0
    for turn in range(TURNS + 1):
        began = time.process_time()
        size = len(body(turn))
        times.append((time.process_time() - began) * 1000)
    print(f"{name:<44} {size:>9,} bytes {statistics.median(times[1:]):>8.1f} ms  (first {times[0]:.0f} ms)")


def ours(series: int) -> None:
    names = [Name("web", "requests", Kind.COUNTER, labels(i), True) for i in range(series)]
    began = int(time.time() * 1000)

    def snapshot(turn: int) -> Snapshot:
        return Snapshot(names, [i * 7 + turn for i in range(series)])

    remote, literal, text = (kind(VIEW, {}) for kind in (RemoteWrite, RemoteWrite, TextImport))
    otlp = Otlp(VIEW, {}, 1)
    for name, encoder in (
        ("remote write, snappy", remote),
        ("remote write, without cramjam", literal),
        ("text import, gzip", text),
        ("otlp, gzip", otlp),
    ):
        installed = remote_write.cramjam
        if encoder is literal:
            remote_write.cramjam = None
        measure(name, lambda turn, encoder=encoder: encoder.encode(snapshot(turn), began + turn, Stale.NONE))
        remote_write.cramjam = installed
    measure("the scraped page, for comparison", lambda turn: render(snapshot(turn)))
    measure("the scraped page, gzip", lambda turn: gzip.compress(render(snapshot(turn)), 6))


def opentelemetry(series: int) -> None:
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
    from opentelemetry.sdk.metrics import Counter, MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    # By default the SDK keeps 2,000 label sets and drops the others.
    reader = InMemoryMetricReader(cardinality_limits={Counter: 10**6})
    provider = MeterProvider(metric_readers=[reader])
    counter = provider.get_meter("web").create_counter("requests")

    def body(turn: int) -> bytes:
        return gzip.compress(encode_metrics(reader.get_metrics_data()).SerializeToString(), 1)

    for i in range(series):
        counter.add(i + 1, dict(labels(i)))
    measure("OpenTelemetry SDK, OTLP exporter, gzip", body)
    provider.shutdown()


def push_gateway(series: int) -> None:
    from prometheus_client import CollectorRegistry, Counter, generate_latest

    registry = CollectorRegistry()
    counter = Counter("requests", "Requests.", ["method", "route", "status"], registry=registry)
    for i in range(series):
        counter.labels(*(value for _, value in labels(i))).inc(i + 1)
    measure("prometheus_client, push gateway", lambda turn: generate_latest(registry))


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(f"{number:,} counters of three labels, Python {sys.version.split()[0]}")
    ours(number)
    for peer in (opentelemetry, push_gateway):
        try:
            peer(number)
        except ImportError as error:
            print(f"{peer.__name__}: not installed ({error})")
