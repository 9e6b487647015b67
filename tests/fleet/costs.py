"""The cost of a push: ``python tests/fleet/costs.py [SERIES]`` prints bytes and ms of processor time of each
format, beside two peers.

The values of all series change between two pushes, and the last push of ours has a new name. The peers are fed by
their own counters: OpenTelemetry's SDK with its OTLP exporter, and the push gateway client of prometheus_client; both
up to the body that they would send.
"""

from __future__ import annotations

import gzip
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shmstats.export import View, protobuf, render
from shmstats.registry import Registry
from shmstats.series import Snapshot
from shmstats.sinks.push import remote_write
from shmstats.sinks.push.encoder import Stale
from shmstats.sinks.push.otlp import Otlp
from shmstats.sinks.push.remote_write import RemoteWrite
from shmstats.sinks.push.text import TextImport

LAST = 8
VIEW = View(labels=(("job", "web"), ("instance", "2d32a76b-dfab-4ec2-9bde-c7c2c797d86f")))


def labels(i: int) -> tuple[tuple[str, str], ...]:
    return (("method", "GET"), ("route", f"/api/v1/things/{i}"), ("status", "200"))


def measure(name: str, body: Callable[[Any], bytes], turns: Iterable[Any] = range(LAST + 1)) -> None:
    """Print the times of the first body and of the last one, and the median of those between them."""
    times: list[float] = []
    size = 0
    for turn in turns:
        began = time.process_time()
        size = len(body(turn))
        times.append((time.process_time() - began) * 1000)
    usual = statistics.median(times[1:-1])
    print(f"{name:<44} {size:>9,} bytes {usual:>8.1f} ms  (first {times[0]:.0f}, last {times[-1]:.0f} ms)")


def ours(series: int, stats: Registry) -> None:
    counter = stats.counter("web", "requests", labelnames=[name for name, _ in labels(0)])
    added = itertools.count(series)

    def snapshots() -> Iterator[tuple[int, Snapshot]]:
        for turn in range(LAST + 1):
            if turn == LAST:
                counter.labels(*dict(labels(next(added))).values()).incr()
            for i in range(series):
                counter.labels(*dict(labels(i)).values()).incr(i * 7 + turn)
            yield int(time.time() * 1000) + turn, stats.read()

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
        measure(name, lambda turn, encoder=encoder: encoder.encode(turn[1], turn[0], Stale.NONE), snapshots())
        remote_write.cramjam = installed
    for form, page in {"text": render, "protobuf": protobuf.render}.items():
        measure(f"the scraped page, {form}, gzip", lambda turn, page=page: gzip.compress(page(turn[1]), 6), snapshots())


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
    with tempfile.TemporaryDirectory() as directory:
        registry = Registry()
        settings = {"max_series_per_metric": 2 * number, "capacity": 4 * number, "persist": False}
        registry.init({"path": {"data": directory}, "stats": settings})
        ours(number, registry)
        registry.close()
    for peer in (opentelemetry, push_gateway):
        try:
            peer(number)
        except ImportError as error:
            print(f"{peer.__name__}: not installed ({error})")
