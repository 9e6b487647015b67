"""``/stats/targets``: the machines that are known here, as ``http_sd_configs`` of Prometheus and vmagent read them."""

from __future__ import annotations

from flask import Response

from ..registry import stats
from .access import public
from .blueprint import blueprint
from .responses import json_response


@blueprint.get("/stats/targets")
@public
def targets() -> Response:
    """Answer ``api.peers`` as one group of targets; no group where there are none."""
    peers = stats.settings.api.peers
    return json_response([{"targets": list(peers)}] if peers else [])
