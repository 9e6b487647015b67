"""The metrics of gunicorn's master: exits of workers, reloads, waiting connections."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from .. import registry as registries
from ._gunicorn_load import BacklogMeter
from ._gunicorn_metrics import CATEGORY, failures, made

#: Why a worker ended.
EXIT, SIGNAL, TIMEOUT = REASONS = ("exit", "signal", "timeout")

#: Values of the byte that a worker shares with the master.
RUNNING, LEFT, ABORTED = 0, 1, 2


class Master:
    """Counts for the master.

    Args:
        listeners: gunicorn's.

    Attributes:
        pid: of the master: its children inherit the object, but are not the master.
        count_reload: counts a reload.
    """

    def __init__(self, listeners: Iterable[Any]) -> None:
        self.pid = os.getpid()
        self._exits = made("counter", "gunicorn_worker_exits", "Ended workers, by reason.", ("reason",))
        for reason in REASONS:
            # Registered now: otherwise a worker that is stopped while it holds the table lock would stop the master
            # too, which must abort that worker.
            self._exits.labels(reason).incr(0)
        self.count_reload = made("counter", "gunicorn_reloads", "Reloads by SIGHUP.").incr
        self.count_reload(0)
        registries.stats.timestamp(CATEGORY, "gunicorn_start")
        backlog = made("gauge", "gunicorn_backlog", "Connections waiting for a worker.", mode="livemax")
        BacklogMeter(listeners, backlog.set, failures.tell).start()

    def count_exit(self, worker: Any) -> None:
        """Count the exit of a worker, by the reason in the byte that it shared."""
        shared = vars(worker).pop("_shmstats_byte", None)
        state = RUNNING if shared is None else shared[0]
        if getattr(worker, "aborted", False):
            reason = TIMEOUT
        elif state == LEFT:
            reason = EXIT
        else:
            reason = SIGNAL
        if shared is not None:
            shared.close()
        self._exits.labels(reason).incr()
