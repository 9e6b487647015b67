"""The beginning of the programs that test prometheus_client on the block.

They run in separate interpreters, because `install` changes prometheus_client permanently.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from helpers import PythonRunner

PRELUDE = r'''
import os, select, signal, sys, time
import prometheus_client as pc
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, REGISTRY, Summary
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from shmstats import stats
from shmstats.integrations import prometheus_client as shared_metrics


class Worker:
    """A forked process that calls functions of its own, one after the other, and stays until it is ended."""

    def __init__(self, *functions):
        self._calls, calls = os.pipe()
        results, self._results = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(self._calls), os.close(self._results)
            self._calls, self._results = calls, results
            return
        os.close(calls), os.close(results)
        try:
            for function in functions:
                assert os.read(self._calls, 1) == b"c"
                value = function()
                value = value if isinstance(value, (dict, int, float)) else None
                os.write(self._results, repr(value).encode() + b"\n")
            os.read(self._calls, 1)
            stats.close()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)

    def call(self):
        """Have it call its next function; returns what that gives."""
        os.write(self._calls, b"c")
        assert select.select([self._results], [], [], 30)[0], "no answer"
        return eval(os.read(self._results, 2**20))

    def end(self):
        os.write(self._calls, b"e")
        assert os.waitpid(self.pid, 0)[1] == 0

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def run(*functions):
    """Have each function called in a worker of its own, which ends then."""
    workers = [Worker(function) for function in functions]
    for worker in workers:
        worker.call()
    for worker in workers:
        worker.end()


def scrape(registry=REGISTRY, prefix=""):
    """The samples of a registry by name and labels, as the text has them; none may be there twice.

    Without those that tell of the process alone, unless they are what the prefix asks for.
    """
    of_process = () if prefix else ("process_", "python_")
    samples = {}
    for family in parse_text(pc.generate_latest(registry).decode()):
        for sample in family.samples:
            if sample.name.startswith(prefix) and not (of_process and sample.name.startswith(of_process)):
                key = sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items()))
                assert key not in samples, key
                samples[key] = sample.value
    return samples
'''

#: With this the metrics are on the block at once, and have no creation times.
INSTALLED = (
    PRELUDE
    + """
pc.disable_created_metrics()
shared_metrics.install()
"""
)

Program = Callable[..., str]


def program_on_block(python: PythonRunner, configure: Callable[..., Any]) -> Program:
    """Return a function that runs a program with all metrics on the block, which must end with status 0."""
    configure(durable_exposition=False)  # a test requests many pages a second

    def run(code: str, *arguments: object, prelude: str = INSTALLED, quiet: bool = True) -> str:
        return python.run(prelude + textwrap.dedent(code), *arguments, quiet=quiet)

    return run
