"""Which modules import what: counting, scraping, saving and restoring need neither numpy nor psutil."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import PythonRunner

pytestmark = pytest.mark.far_from_core

COUNT = """
    import logging  # which takes dataclasses, from Python 3.14 on
    import os
    import sys
    file = os.environ.pop("SHMSTATS_CONFIG")
    before = set(sys.modules)
    import shmstats
    from shmstats import stats

    if {configured!r} == "file":
        shmstats.init(file)
    else:
        sizes = {{"capacity": int(sys.argv[2]), "max_workers": int(sys.argv[3])}}
        shmstats.init({{"path": {{"data": sys.argv[1]}}, "stats": sizes}})
    imported = set(sys.modules)
    {use}
    shmstats.close()
    new = set(sys.modules) - before
    print(*sorted({{name.partition(".")[0] for name in new}} - sys.stdlib_module_names))
    print(*sorted({heavy} & new))
    print(*sorted(name for name in set(sys.modules) - imported if not name.startswith("encodings")))
"""

#: Large modules of the standard library that counting does not need.
HEAVY = {
    "asyncio", "bz2", "ctypes", "dataclasses", "difflib", "hmac", "http.client", "http.server", "inspect", "lzma",
    "multiprocessing", "pickle", "secrets", "shutil", "sqlite3", "ssl", "subprocess", "unicodedata", "unittest",
    "urllib.request", "uuid", "xml",
}  # fmt: skip

#: Modules that only the creator of the block imports: it makes the shared memory for all.
OF_THE_MAKER = {"hmac", "multiprocessing", "pickle", "secrets", "subprocess"}


@pytest.mark.parametrize(
    "use",
    [
        "pass",
        "stats.incr('a', 'b')",
        "stats.timing('a', 'b', 1); stats.snapshot()",
        "stats.incr('a', 'b', labels={'c': 'd'})",
    ],
)
def test_counting_and_reading_import_no_large_module_and_counting_none_later(
    use: str, stats: Any, data: Path, core: str, python: PythonRunner
) -> None:
    stats.incr("a", "there is a block")
    code = COUNT.format(use=use, heavy=HEAVY, configured="mapping")
    sizes = stats.settings.stats
    foreign, heavy, late = python.run(code, data, sizes.capacity, sizes.max_workers).splitlines()
    assert set(foreign.split()) - {"__mp_main__"} == {"shmstats"}
    assert set(heavy.split()) <= (set() if core == "C" else {"ctypes"})
    assert {name.partition(".")[0] for name in late.split()} <= ({"shmstats"} if "snapshot" in use else set())


def test_the_creator_of_a_block_imports_the_module_for_shared_memory(
    python: PythonRunner, tmp_path: Path, core: str
) -> None:
    code = COUNT.format(use="stats.incr('a', 'b')", heavy=HEAVY - {"ctypes"}, configured="mapping")
    foreign, heavy, _ = python.run(code, tmp_path, 256, 4).splitlines()
    assert set(foreign.split()) - {"__mp_main__"} == {"shmstats"}
    assert set(heavy.split()) <= OF_THE_MAKER


def test_without_the_module_for_shared_memory_counting_logs_and_does_not_fail(
    python: PythonRunner, tmp_path: Path
) -> None:
    code = """
        import os, sys
        from shmstats import stats
        sys.modules["multiprocessing.shared_memory"] = None  # as where its user cannot read Python's library
        stats.incr("a", "b")
        stats.incr("a", "b")
        print(stats.get("a", "b"))
    """
    worker = python.start(code)
    assert worker.finish(quiet=False) == "0\n"
    assert worker.stderr.count("nothing is counted: shared memory cannot be made: user ") == 1
    assert "let that user read Python's library" in worker.stderr
    assert "Traceback" not in worker.stderr


def test_without_the_modules_for_reading_a_process_counts_and_reading_raises(
    python: PythonRunner, tmp_path: Path
) -> None:
    code = """
        import sys, time
        sys.modules["shmstats.snapshot"] = sys.modules["shmstats.reading.reader"] = None
        from shmstats import BlockError, init, stats

        init({"path": {"data": sys.argv[1]}, "stats": {"snapshot_interval_ms": 100}})
        stats.incr("a", "b")
        header, end = stats.shared.attach().header, time.monotonic() + 20
        while not header.save_error and time.monotonic() < end:
            time.sleep(0.02)
        print(header.save_error)
        try:
            stats.snapshot()
        except BlockError as error:
            print(error)
        stats.incr("a", "b")
        print(stats.get("a", "b"))
        del sys.modules["shmstats.snapshot"], sys.modules["shmstats.reading.reader"]
    """
    worker = python.start(code, tmp_path)
    saving, reading, counted = worker.finish(quiet=False).splitlines()
    assert "cannot import shmstats." in saving
    assert "cannot import shmstats.reading.reader" in reading
    assert counted == "2"
    assert "the statistics cannot be saved in" in worker.stderr
    assert "Traceback" not in worker.stderr


@pytest.mark.parametrize(
    ("missing", "said", "counted"),
    [
        ("shmstats.sinks.statsd", "StatsD gets no operations: user ", 2),
        ("shmstats.config.file", "nothing is counted: user ", 0),
    ],
)
def test_a_first_count_that_cannot_import_what_the_configuration_needs_raises_nothing(
    python: PythonRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, said: str, counted: int
) -> None:
    code = """
        import os, sys
        import shmstats
        from shmstats import ConfigError, stats

        for name in (sys.argv[1], "difflib"):
            sys.modules[name] = None
        try:
            shmstats.init({"stats": {"persit": False}})
        except ConfigError as error:
            assert "stats.persit: found an unknown key" in str(error), error
        os.environ["SHMSTATS_CONFIG"] = sys.argv[2]
        for _ in range(2):
            stats.incr("a", "b")
        print(stats.get("a", "b"))
    """
    config = tmp_path / "statsd.yml"
    config.write_text(f"{{path: {{data: {tmp_path}/data}}, statsd: {{enabled: true}}, stats: {{persist: false}}}}")
    monkeypatch.delenv("SHMSTATS_CONFIG")
    worker = python.start(code, missing, config)
    assert worker.finish(quiet=False) == f"{counted}\n"
    assert worker.stderr.count(said) == 1
    assert "Traceback" not in worker.stderr


def test_a_signal_handler_during_a_late_import_counts_and_reads_nothing(python: PythonRunner, tmp_path: Path) -> None:
    code = """
        import signal, sys
        from shmstats import init, stats

        def count_and_read(*_):
            stats.incr("a", "b")
            seen.append(len(stats.snapshot()))

        class Interrupter:
            def find_spec(self, name, path=None, target=None):
                if name == "shmstats.reading.totals":
                    signal.raise_signal(signal.SIGUSR1)

        seen = []
        init({"path": {"data": sys.argv[1]}, "stats": {"persist": False}})
        stats.incr("a", "b")
        signal.signal(signal.SIGUSR1, count_and_read)
        sys.meta_path.insert(0, Interrupter())
        names = stats.snapshot()
        print(seen, len(names) > 0, stats.get("a", "b"))
    """
    assert python.run(code, tmp_path) == "[0] True 2\n"


def test_an_attached_process_imports_nothing_after_the_late_modules(python: PythonRunner, tmp_path: Path) -> None:
    code = """
        import importlib, os, sys, time
        from shmstats import init, stats
        from shmstats.attachment.asking import ask_workers
        from shmstats.attachment.late import LATE_MODULES

        def use(by_time, **options):
            init({"path": {"data": sys.argv[1]}, "stats": {"snapshot_interval_ms": 100, **options}})
            stats.declare("a", "by size", kind="histogram", unit="bytes", buckets=[1, 10 + by_time])
            for mode in ("min", "sum", "all", "mostrecent"):
                stats.declare("a", mode, kind="gauge", mode=mode)
                stats.gauge("a", mode, by_time)
            stats.declare("a", "state", kind="state", states=["on", "off"])
            stats.state("a", "state", "on")
            stats.info("a", "info", {"version": "1"})
            stats.incr("a", "b", labels={"c": "d"}, exemplar={"trace": "e"})
            stats.timing("a", "t", 3)
            stats.histogram("a", "by size").observe(5 + by_time)
            stats.absolute("a", "total", 5)
            stats.timestamp("a", "at")
            stats.flush()
            assert stats.get_timestamp("a", "at") and stats.get("a", "t").count and stats.snapshot()
            stats.remove("a", "t")
            stats.reset("a", "b")
            block, end = stats.shared.attach(), time.monotonic() + 20
            while not block.header.saved_ticket and time.monotonic() < end:
                time.sleep(0.01)
            worker = block.worker
            for question in ("stacks", "memory"):
                assert ask_workers(block.name, [worker], question) != [(worker, None)], question
            return block

        init({"path": {"data": sys.argv[1]}})
        missing = set(LATE_MODULES) - set(sys.modules)
        for module in missing:
            importlib.import_module(module)
        before = set(sys.modules)
        use(1)
        use(2, no_buffer=False, archive_interval_hours=1, expire_idle_seconds=60)
        block = use(3)
        os.unlink(block.identity.segment)
        (asked, ask), (told, tell) = os.pipe(), os.pipe()
        if (child := os.fork()) == 0:
            stats.incr("a", "in a new block")
            os.write(tell, b".")
            os.read(asked, 1)
            os._exit(0)
        os.read(told, 1)
        stats.close()
        moved = stats.get("a", "in a new block"), stats.get("a", "total")
        os.write(ask, b".")
        os.waitpid(child, 0)
        stats.close()
        print(*missing)
        print(*moved)
        print(*sorted(set(sys.modules) - before))
    """
    missing, moved, late = python.run(code, tmp_path, quiet=False).splitlines()
    assert "shmstats.snapshot.store" in missing.split()
    assert moved == "1 5"
    assert not late


def test_yaml_is_imported_with_a_configuration_file(stats: Any, python: PythonRunner, data: Path) -> None:
    stats.incr("a", "there is a block")
    foreign, *_ = python.run(COUNT.format(use="pass", heavy=HEAVY, configured="file"), data).splitlines()
    assert "yaml" in foreign.split()


@pytest.mark.parametrize("command", ["dump", "info"])
def test_commands_that_show_counters_import_no_large_package(
    stats: Any, data: Path, python: PythonRunner, command: str
) -> None:
    stats.incr("a", "b")
    code = """
        import sys
        from shmstats.cli import commands
        commands.main(sys.argv[1:], standalone_mode=False)
        assert not {"numpy", "flask", "gunicorn", "psutil", "werkzeug"} & set(sys.modules)
    """
    assert "\n" in python.run(code, command, "--data", data)


WORKER = """
    import sys, time
    import flask.testing  # which brings pdb, and that asyncio from Python 3.14 on
    before = set(sys.modules)
    import shmstats
    from shmstats import stats
    from shmstats.web import create_app

    stats.declare("a", "workers", kind="gauge", mode="sum")
    stats.incr("a", "b", labels={"c": "d"}), stats.timing("a", "t", 3)
    stats.gauge("a", "g", 2.5), stats.gauge("a", "workers", 1)
    page = create_app().test_client()
    formats = ["text/plain", "application/openmetrics-text", "application/vnd.google.protobuf;"
               " proto=io.prometheus.client.MetricFamily; encoding=delimited"]
    for accepted in formats:
        assert page.get("/stats/prometheus", headers={"Accept": accepted}).status_code == 200
    end = time.monotonic() + 20
    while not (stats.settings.path.data / "stats" / "history.ring").exists() and time.monotonic() < end:
        time.sleep(0.05)
    shmstats.close()
    shmstats.init()
    assert stats.get("a", "b", labels={"c": "d"}) == 1
    shmstats.close()
    print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} & {"numpy", "psutil", "asyncio"}))
    print(*sorted(name for name in sys.modules if name.startswith("multiprocessing.")))
    assert stats.array().shape == (0, 0) or "numpy" in sys.modules
"""


def test_a_worker_that_counts_serves_saves_and_restores_needs_neither_numpy_nor_psutil(python: PythonRunner) -> None:
    foreign, processes = python.run(WORKER).splitlines()
    assert not foreign
    needed = {"context", "process", "reduction", "resource_tracker", "shared_memory", "spawn", "util"}
    assert {name.partition(".")[2] for name in processes.split()} <= needed
