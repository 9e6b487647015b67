"""``/stats/targets``: the known machines, in the form of ``http_sd_configs`` of Prometheus and vmagent."""

from __future__ import annotations

from flask import Response

from ..registry import stats
from .access import public
from .blueprint import blueprint
from .responses import json_response


@blueprint.get("/stats/targets")
@public
def targets() -> Response:
    """Answer with ``api.peers`` as one group of targets; without peers, with no group."""
    peers = stats.settings.api.peers
    return json_response([{"targets": list(peers)}] if peers else [])
