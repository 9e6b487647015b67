"""Our Flask extension, beside the same application without it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from .. import sites
from . import serving
from .flask_site import request_loop
from .serving import CallLoop, Loops, empty


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    place = tempfile.TemporaryDirectory(prefix="shmstats-bench-")
    os.environ["BENCH_DATA"] = f"{place.name}/data"
    bare, counted = request_loop(sites.bare()), request_loop(sites.counted())

    def extension() -> tuple[CallLoop, CallLoop]:
        return counted, bare

    def alone() -> tuple[CallLoop, CallLoop]:
        assert place.name
        return bare, empty

    def plain() -> tuple[CallLoop, CallLoop]:
        from shmstats.integrations.wsgi import ShmStatsMiddleware

        return request_loop(ShmStatsMiddleware(sites.plain)), request_loop(sites.plain)

    loops = Loops({"request": extension, "bare": alone, "wsgi": plain})
    return serving.versions_of("flask"), {**loops.operations}


if __name__ == "__main__":
    serving.serve(prepare)
