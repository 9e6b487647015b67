"""A small site whose handlers count, with the statistics endpoints beside them.

Everything that an application needs: import ``stats``, call it, mount the blueprint.
"""

import os
import time

from flask import Flask, abort, request

import shmstats
from shmstats import stats
from shmstats.web import blueprint


def create_app() -> Flask:
    """Make the site; its data directory is ``$EXAMPLE_SITE_DATA``, else ``data`` in the current one."""
    shmstats.init({"path": {"data": os.environ.get("EXAMPLE_SITE_DATA", "data")}})
    app = Flask(__name__)
    app.register_blueprint(blueprint)

    @app.before_request
    def count_site_requests() -> None:
        # By endpoint, not by path: paths are the visitors' to invent, and each would be a new name.
        if request.blueprint != blueprint.name:
            stats.incr("requests", request.endpoint or "not_found")

    @app.get("/")
    def home() -> str:
        """Greet."""
        return "Try /login, /work, /hit?n=5, then /stats and /stats/prometheus.\n"

    @app.get("/login")
    def login() -> str:
        """Count a login."""
        stats.incr("user_actions", "login")
        return f"login number {stats.get('user_actions', 'login')}\n"

    @app.get("/work")
    def work() -> str:
        """Pretend to work for a few milliseconds, and show how long the last work of any worker took."""
        begun = time.monotonic()
        time.sleep(0.005)
        stats.incr("work", "done")
        stats.gauge("work", "last_seconds", time.monotonic() - begun)
        return "done\n"

    @app.get("/hit")
    def hit() -> str:
        """Count ``n`` hits, 1 if it is not given."""
        n = request.args.get("n", "1")
        if not (n.isascii() and n.isdecimal() and len(n) < 7):
            abort(400, "n must be an integer from 0 to 999999")
        stats.incr("hits", "total", int(n))
        return f"{n} counted\n"

    return app
