"""gunicorn's settings for all sites, including those required by the sites' libraries."""

from __future__ import annotations

import os
from typing import Any

accesslog = None
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
control_socket_disable = True


def child_exit(server: Any, worker: Any) -> None:
    """Tell prometheus_client that a worker has ended, as its exporter for Flask requires."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import multiprocess

        gone: Any = multiprocess.mark_process_dead
        gone(worker.pid)
