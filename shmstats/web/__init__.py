"""The web application: statistics over HTTP.

`create_app` makes a Flask application with the endpoints, for ``gunicorn 'shmstats.web:create_app()'`` and
``shmstats serve``; other applications mount `blueprint`: ``app.register_blueprint(shmstats.web.blueprint)``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from flask import Flask, redirect, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from ..registry import stats
from . import (  # noqa: F401 - importing a module puts its endpoints on the blueprint
    debug,
    files,
    live,
    statistics,
)
from .access import without_data
from .blueprint import METHODS, blueprint, error_response, keep_to_itself

__all__ = ["blueprint", "create_app"]


@without_data
def lead_to_live() -> BaseResponse:
    """Redirect a person to the live page."""
    return redirect(url_for(f"{blueprint.name}.live"))


def create_app(config: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> Flask:
    """Make a Flask application with the statistics endpoints, and ``/metrics``, which is ``/stats/prometheus``.

    Args:
        config: as for ``shmstats.init``; None keeps the configuration of the default registry.

    Raises:
        ConfigError: the given configuration has an error.
        BlockError: the data directory has a block that must not be used.
        OSError: shared memory is full or not usable.
    """
    if config is not None:
        stats.init(config)
    elif stats.shared is not None:  # otherwise the endpoints answer with the error of the configuration
        stats.shared.attach()
    app = Flask("shmstats", static_folder=None)
    app.url_map.merge_slashes = app.url_map.redirect_defaults = False
    app.register_blueprint(blueprint)
    app.add_url_rule("/metrics", endpoint="shmstats.exposition", methods=["GET"])
    app.add_url_rule("/", "shmstats.index", lead_to_live, methods=["GET"])
    others = [method for method in METHODS if method not in ("GET", "HEAD")]
    for path in ("/metrics", "/"):  # others are refused by the blueprint, which knows who may see that they exist
        app.add_url_rule(path, endpoint="shmstats.nothing_public_here", methods=others, defaults={"path": ""})
    app.register_error_handler(HTTPException, error_response)
    app.after_request(keep_to_itself)
    return app
