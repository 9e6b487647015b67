"""``/stats``: the statistics, as JSON or in Prometheus' formats."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from flask import Response, abort, request

from ..attachment.slow_path import SharedProvider
from ..debug.processes import pool_figures, system_figures
from ..export import View, negotiate, to_document
from ..files import StorageMeter
from ..registry import stats
from ..series import Snapshot
from .access import public
from .blueprint import attached, blueprint
from .responses import json_response

_FORMATS = ("json", "prometheus")


@blueprint.get("/stats")
@public
def statistics() -> Response:
    """Answer all statistics as JSON, or as ``?format=prometheus`` says."""
    wanted = request.args.get("format", "json")
    if wanted not in _FORMATS:
        abort(400, f"format must be one of {', '.join(_FORMATS)}, not {wanted!r:.80}")
    return exposition() if wanted == "prometheus" else json_response(_document(attached()))


@blueprint.get("/stats/prometheus")
@public
def exposition() -> Response:
    """Answer all statistics as Prometheus text, or as OpenMetrics if that is what the client prefers."""
    shared = attached()
    chosen = negotiate(request.headers.get("Accept"))
    body = chosen.format.render(_snapshot(shared), View(escaping=chosen.escaping))
    response = Response(body, content_type=chosen.content_type)
    response.vary.add("Accept")
    return response


def _snapshot(shared: SharedProvider) -> Snapshot:
    return replace(shared.read(), system=_system(shared))


def _system(shared: SharedProvider) -> dict[str, int | float]:
    reader = shared.attach().reader
    system = system_figures((worker.pid for worker in reader.workers.live()), reader.uptime)
    if stats.settings.stats.include_storage_stats_in_api:
        system["store"] = _meter(shared.directory).read().store
    return system


def _document(shared: SharedProvider) -> dict[str, Any]:
    document: dict[str, Any] = {
        "simple": to_document(_snapshot(shared)),
        "pool": pool_figures(shared.attach().reader),
    }
    if stats.settings.stats.include_storage_stats_in_api:
        storage = _meter(shared.directory).read()
        figures = ("all", "used", "free", "available")
        document["disk"] = {figure: getattr(storage, figure) for figure in figures}
        document["disk"]["age"] = round(storage.age, 1)
    return document


@cache
def _meter(directory: Path) -> StorageMeter:
    return StorageMeter(directory)
