"""What the master of a gunicorn counts: the ends of its workers, reloads, connections that wait."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from .. import registry as registries
from ._gunicorn_load import BacklogMeter
from ._gunicorn_metrics import CATEGORY, failures, made

#: Why a worker ended.
EXIT, SIGNAL, TIMEOUT = REASONS = ("exit", "signal", "timeout")

#: What a worker writes into the byte that it shares with the master.
RUNNING, LEFT, ABORTED = 0, 1, 2


class Master:
    """What the master counts.

    Args:
        listeners: gunicorn's.

    Attributes:
        pid: its pid: its children inherit the object, but are not the master.
        count_reload: counts one.
    """

    def __init__(self, listeners: Iterable[Any]) -> None:
        self.pid = os.getpid()
        self._exits = made("counter", "gunicorn_worker_exits", "Ended workers, by reason.", ("reason",))
        for reason in REASONS:
            # Known to the block from now on: a worker that is stopped while it has the table lock can then not
            # stop the master, which is to abort it.
            self._exits.labels(reason).incr(0)
        self.count_reload = made("counter", "gunicorn_reloads", "Reloads by SIGHUP.").incr
        self.count_reload(0)
        registries.stats.timestamp(CATEGORY, "gunicorn_start")
        backlog = made("gauge", "gunicorn_backlog", "Connections waiting for a worker.", mode="livemax")
        BacklogMeter(listeners, backlog.set, failures.tell).start()

    def count_exit(self, worker: Any) -> None:
        """Count a worker that ended, by what it has left in the byte that it shared."""
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
