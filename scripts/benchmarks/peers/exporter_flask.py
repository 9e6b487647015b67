"""prometheus_flask_exporter in multiprocess mode, beside the same application without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import sites
from . import serving
from .flask_site import request_loop
from .serving import CallLoop, Loops


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    bare, exported = request_loop(sites.bare()), request_loop(sites.exported())

    def extension() -> tuple[CallLoop, CallLoop]:
        return exported, bare

    loops = Loops({"request": extension})
    return serving.versions_of("flask", "prometheus-flask-exporter"), {**loops.operations}


if __name__ == "__main__":
    serving.serve(prepare)
