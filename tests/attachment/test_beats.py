"""A background thread that makes no progress: others log it once and count it as missing."""

from __future__ import annotations

import importlib
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import process_state, segment_file, wait_until

pytestmark = pytest.mark.far_from_core

COUNT = "from shmstats import stats; stats.incr('c', 'm'); print(flush=True); input()"


def test_a_stopped_agent_is_logged_once_and_counted_as_missing_until_it_continues(
    shmstats: Any, python: Any, data: Path, configure: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Its socket is made to look as if it had not been touched for long, which takes 15 seconds otherwise."""

    def missing() -> int:
        block = shmstats.stats.shared.attach()
        found = importlib.import_module("shmstats.attachment.health").health(block.reader, block.name)
        return int(found["agents_missing"])

    configure(snapshot_interval_ms=100)
    shmstats.stats.incr("c", "m")
    child = python.start(COUNT)
    child.hear()
    wait_until(lambda: missing() == 0)
    child.signal(signal.SIGSTOP)
    wait_until(lambda: process_state(child.pid) == "T")
    with caplog.at_level(logging.ERROR, "shmstats"):
        os.utime(f"{segment_file(data)}.1.sock", ns=(1, 1))
        wait_until(lambda: caplog.messages)
        assert missing() == 1
        os.utime(f"{segment_file(data)}.1.sock", ns=(2, 2))
        seen = shmstats.stats.shared.attach().header.saver_heartbeat
        wait_until(lambda: shmstats.stats.shared.attach().header.saver_heartbeat != seen)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"the background thread of process {child.pid} has made no progress for ")
    child.signal(signal.SIGCONT)
    wait_until(lambda: missing() == 0)
    child.tell()
    child.finish()


def test_a_worker_answers_new_peers_after_its_directory_was_recreated_twice(
    shmstats: Any, python: Any, data: Path, configure: Callable[..., Any]
) -> None:
    configure(snapshot_interval_ms=200)
    shmstats.init()
    shmstats.stats.incr("c", "m")
    health = importlib.import_module("shmstats.attachment.health").health
    kept = []
    for _ in range(2):
        kept.append(data.rename(data.with_name(f"kept{len(kept)}")))  # so that the next one has another inode
        data.mkdir(mode=0o700)
        block = shmstats.stats.shared.attach()
        wait_until(lambda block=block: os.path.exists(f"{segment_file(data)}.{block.worker.slot}.sock"))
    child = python.start(COUNT)
    child.hear()
    wait_until(lambda: (found := health(block.reader, block.name))["agents"] == 2 and not found["agents_missing"])
    assert shmstats.stats.get("c", "m") == 2
    child.tell("")
    child.finish()
