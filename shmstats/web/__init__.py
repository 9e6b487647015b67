"""The web application: statistics over HTTP.

`create_app` makes a Flask application with the endpoints, for ``gunicorn 'shmstats.web:create_app()'`` and
``shmstats serve``; `blueprint` is to be mounted into an application of one's own::

    app.register_blueprint(shmstats.web.blueprint)

The endpoints are in `statistics`, `debug` and `files`; who may use them is decided in `access`.
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
    history,
    live,
    statistics,
    targets,
)
from .access import without_data
from .blueprint import METHODS, blueprint
from .responses import error_response, keep_to_itself

__all__ = ["blueprint", "create_app"]


@without_data
def lead_to_live() -> BaseResponse:
    """Answer that what a person looks for is the live page."""
    return redirect(url_for(f"{blueprint.name}.live"))


def create_app(config: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> Flask:
    """Make a Flask application with the statistics endpoints, and ``/metrics``, which is ``/stats/prometheus``.

    Args:
        config: as for ``shmstats.init``; None leaves the default registry as it is configured already.

    Raises:
        ConfigError: the given configuration has an error.
        BlockError: there is a block for the data directory that must not be used.
        OSError: shared memory is full or not usable.
    """
    if config is not None:
        stats.init(config)
    elif stats.shared is not None:  # a configuration that was found and has an error is what the endpoints answer
        stats.shared.attach()
    app = Flask("shmstats", static_folder=None)
    app.url_map.merge_slashes = app.url_map.redirect_defaults = False
    app.register_blueprint(blueprint)
    app.add_url_rule("/metrics", endpoint="shmstats.exposition", methods=["GET"])
    app.add_url_rule("/", "shmstats.index", lead_to_live, methods=["GET"])
    others = [method for method in METHODS if method not in ("GET", "HEAD")]
    for path in ("/metrics", "/"):  # refused by the blueprint, to whom it may be told that there is something
        app.add_url_rule(path, endpoint="shmstats.nothing_public_here", methods=others, defaults={"path": ""})
    app.register_error_handler(HTTPException, error_response)
    app.after_request(keep_to_itself)
    return app
