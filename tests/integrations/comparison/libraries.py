"""The use of each library in several workers, by its documentation.

A library gives prometheus_client's classes, or its own of the same names, and a page that any worker serves. A missing
feature is None, and the result of an experiment with it is "no".
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

METRICS = ("Counter", "Gauge", "Histogram", "Summary", "Info", "Enum")
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


class Library:
    """The common part; each library overrides its differences.

    Attributes:
        module: has the classes of metrics.
        distributions: the library's own first.
        modules: further modules.
        name: of the library.
        newest: where the newest prometheus_client is.
    """

    module = "prometheus_client"
    distributions: tuple[str, ...] = ("prometheus_client",)
    modules: tuple[str, ...] = ()
    name = ""
    newest = ""

    def load(self) -> None:
        """Import the modules, once for all sites."""
        for name in ("flask", self.module, *self.modules):
            importlib.import_module(name)

    def prepare(self, directory: Path) -> None:
        """Runs before a site's first process starts."""

    def configure(self, **sections: Any) -> None:
        """Set parameters of shmstats; the other libraries have none."""

    def install(self) -> None:
        """Runs in each process before it makes metrics."""

    def __getattr__(self, name: str) -> Any:
        if name in METRICS:
            return getattr(importlib.import_module(self.module), name, None)
        raise AttributeError(name)

    def page(self, names: list[str] | None = None, in_openmetrics: bool = False) -> str:
        """The page of a worker, or a page of some names only."""
        return _text(self.registry(), names, in_openmetrics)

    def registry(self) -> CollectorRegistry:
        """The registry of that page."""
        return importlib.import_module("prometheus_client").REGISTRY

    def set_info_at_start(self, name: str, **values: str) -> None:
        """Set an Info before the workers start, if the library supports only that."""

    def page_beside(self) -> str:
        """The page of a process that makes no metrics and is not a worker."""
        self.install()
        return self.page()

    def page_with(self, collector: Any) -> str:
        """A page with a custom collector, if the library leaves it out of a registry's ordinary pages."""
        return ""

    def page_of(self, registry: CollectorRegistry) -> str:
        """The page of one registry."""
        return _text(registry)

    def died(self, pid: int) -> None:
        """Runs in the server's hook after a worker's end."""

    def before_start(self, directory: Path) -> None:
        """Runs before the site is started again."""

    def as_json(self) -> Any:
        """The values as JSON; None if the library does not answer with JSON on request."""
        from prometheus_client import make_wsgi_app

        answer = make_wsgi_app(self.registry())(
            {
                "REQUEST_METHOD": "GET",
                "PATH_INFO": "/metrics",
                "QUERY_STRING": "",
                "HTTP_ACCEPT": "application/json",
            },
            lambda *_: None,
        )
        return _parsed(b"".join(answer).decode())

    def flask(self, app: Any) -> bool:
        """Count the requests of a Flask application; return false if the library cannot."""
        return importlib.util.find_spec(f"{self.module}.flask") is not None

    def requests_of(self, app: Any) -> float:
        """The number of requests of a Flask application that the page shows."""
        raise NotImplementedError

    def command(self) -> list[str] | None:
        """A command that shows the values; None if the library has no command."""
        distribution = importlib.metadata.distribution(self.distributions[0])
        commands = [entry.name for entry in distribution.entry_points if entry.group == "console_scripts"]
        commands += [str(file) for file in distribution.files or () if file.name == "__main__.py"]
        assert not commands, f"the library has commands now, try them: {commands}"
        return None

    def sends_to_statsd(self, port: int) -> bool:
        """Send the values to a port of this machine; return false if the library cannot."""
        files = importlib.metadata.distribution(self.distributions[0]).files or ()
        found = [str(file) for file in files if "statsd" in str(file).lower()]
        assert not found, f"the library supports StatsD now, try it: {found}"
        return False

    def storage(self, directory: Path) -> int:
        """The bytes used for the values."""
        raise NotImplementedError

    def leave(self) -> None:
        """Runs at the normal end of a process."""

    def check_nothing_left(self, directory: Path) -> None:
        """Runs after the end of a site."""

    def versions(self) -> dict[str, str]:
        """The versions of the library's distributions."""
        return {name: importlib.metadata.version(name) for name in self.distributions}


class ShmStats(Library):
    """prometheus_client's metrics on the block, and the package's own ways of reading and sending it."""

    distributions = ("shmstats", "prometheus_client")
    modules = ("shmstats.integrations.flask", "shmstats.integrations.prometheus_client")

    def prepare(self, directory: Path) -> None:
        os.environ.pop("SHMSTATS_CONFIG", None)
        self.configure()

    def configure(self, **sections: Any) -> None:
        stats = {"capacity": 4096, "max_workers": 8} | sections.pop("stats", {})
        Path("shmstats.yml").write_text(json.dumps({"path": {"data": "data"}, "stats": stats, **sections}))

    def install(self) -> None:
        from shmstats.integrations import prometheus_client as shared_metrics

        shared_metrics.install()

    def page_beside(self) -> str:
        from shmstats.integrations import prometheus_client as shared_metrics

        self.install()
        registry = CollectorRegistry()
        shared_metrics.collector(registry)
        return _text(registry)

    def as_json(self) -> Any:
        from flask import Flask

        from shmstats.web import blueprint

        app = Flask("site")
        app.register_blueprint(blueprint)
        return app.test_client().get("/stats").json

    def flask(self, app: Any) -> bool:
        from shmstats.integrations.flask import ShmStats as Extension

        Extension(app)
        return True

    def requests_of(self, app: Any) -> float:
        return total(app.test_client().get("/stats/prometheus").text, "http_requests_total")

    def command(self) -> list[str] | None:
        return [sys.executable, "-m", "shmstats", "dump", "--format", "table"]

    def sends_to_statsd(self, port: int) -> bool:
        self.configure(statsd={"enabled": True, "host": "127.0.0.1", "port": port})
        return True

    def storage(self, directory: Path) -> int:
        from helpers import segment_file

        return segment_file(directory / "data").stat().st_blocks * 512

    def leave(self) -> None:
        import shmstats

        shmstats.close()

    def check_nothing_left(self, directory: Path) -> None:
        from helpers import segment_file

        file = segment_file(directory / "data")
        if file.exists():
            file.unlink()
            raise AssertionError(f"left: {file}")

    def versions(self) -> dict[str, str]:
        return {"prometheus_client": importlib.metadata.version("prometheus_client")}


class Multiprocess(Library):
    """prometheus_client in multiprocess mode. Its directory must be in the environment when it is imported."""

    modules = ("prometheus_client.multiprocess",)

    @property
    def files(self) -> Path:
        return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])

    def prepare(self, directory: Path) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory / "files")
        self.files.mkdir()

    def registry(self) -> CollectorRegistry:
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry(support_collectors_without_names=True)
        MultiProcessCollector(registry)
        return registry

    def page_with(self, collector: Any) -> str:
        registry = self.registry()
        registry.register(collector)
        return _text(registry)

    def page_of(self, registry: CollectorRegistry) -> str:
        from prometheus_client.multiprocess import MultiProcessCollector

        MultiProcessCollector(registry)
        return _text(registry)

    def died(self, pid: int) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)

    def before_start(self, directory: Path) -> None:
        for file in self.files.iterdir():
            file.unlink()

    def storage(self, directory: Path) -> int:
        return sum(file.stat().st_blocks * 512 for file in self.files.iterdir())


class FlaskExporter(Multiprocess):
    """prometheus_flask_exporter, its page in the application itself, and prometheus_client's metrics beside its own."""

    distributions = ("prometheus_flask_exporter", "prometheus_client")
    modules = ("prometheus_flask_exporter.multiprocess",)

    def install(self) -> None:
        from flask import Flask

        self.app = Flask("site")
        self.flask(self.app)

    def flask(self, app: Any) -> bool:
        from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

        self.metrics = GunicornInternalPrometheusMetrics(app)
        return True

    def set_info_at_start(self, name: str, **values: str) -> None:
        self.metrics.info(f"{name}_info", "Set.", **values)

    def page(self, names: list[str] | None = None, in_openmetrics: bool = False) -> str:
        answer = self.app.test_client().get(
            "/metrics", query_string={"name[]": names or []}, headers=OPENMETRICS if in_openmetrics else {}
        )
        return answer.text if answer.status_code == 200 else ""

    def page_beside(self) -> str:
        """The page of the server that its other class starts in gunicorn's master."""
        return self._served()

    def page_with(self, collector: Any) -> str:
        return self._served(collector)

    def page_of(self, registry: CollectorRegistry) -> str:
        return self._served(registry=registry)

    def _served(self, *collectors: Any, registry: CollectorRegistry | None = None) -> str:
        from prometheus_flask_exporter.multiprocess import GunicornPrometheusMetrics

        registry = registry or CollectorRegistry()
        for each in collectors:
            registry.register(each)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        GunicornPrometheusMetrics(registry=registry).start_http_server(port, "127.0.0.1")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return answer.read().decode()

    def as_json(self) -> Any:
        answer = self.app.test_client().get("/metrics", headers={"Accept": "application/json"})
        return _parsed(answer.text)

    def requests_of(self, app: Any) -> float:
        return total(app.test_client().get("/metrics").text, "flask_http_request_total")

    def died(self, pid: int) -> None:
        from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

        GunicornInternalPrometheusMetrics.mark_process_dead_on_child_exit(pid)


class Mpmetrics(Library):
    """mpmetrics: metrics in memory that the children of a fork share."""

    module = "mpmetrics"
    distributions = ("mpmetrics", "prometheus_client")

    def set_info_at_start(self, name: str, **values: str) -> None:
        """By prometheus_client's own Info, as the documentation advises."""
        from prometheus_client import Info

        Info(name, "Set.").info(values)

    def flask(self, app: Any) -> bool:
        from mpmetrics.flask import PrometheusMetrics

        self.metrics = PrometheusMetrics(app)
        return True

    def requests_of(self, app: Any) -> float:
        return total(app.test_client().get("/metrics").text, "flask_http_request_total")

    def storage(self, directory: Path) -> int:
        from mpmetrics.metrics import CollectorFactory

        return os.fstat(CollectorFactory.heap._fd).st_size


LIBRARIES = {
    "shmstats": ShmStats,
    "prometheus_client": Multiprocess,
    "mpmetrics": Mpmetrics,
    "prometheus_flask_exporter": FlaskExporter,
}


def _text(registry: CollectorRegistry, names: list[str] | None = None, in_openmetrics: bool = False) -> str:
    shown: Any = registry if names is None else registry.restricted_registry(names)
    return (openmetrics.generate_latest if in_openmetrics else generate_latest)(shown).decode()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def samples(page: str) -> dict[str, float]:
    """The samples of a page, ``name{label="value"}`` to value, without those about processes and Python."""
    found = {}
    for line in page.splitlines():
        if line and not line.startswith(("#", "process_", "python_")):
            key, value = line.rpartition(" ")[::2]
            assert key not in found, f"twice: {key}"
            found[key] = float(value)
    return found


def total(page: str, name: str) -> float:
    """The sum of all samples of a name."""
    return sum(value for key, value in samples(page).items() if key.partition("{")[0] == name)
