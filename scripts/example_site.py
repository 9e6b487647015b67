"""A small site whose handlers count, with the statistics endpoints and the live page beside them.

An application needs `ShmStats` for its requests, and ``stats`` for everything else.
"""

import os
import random
import time

from flask import Flask, abort, redirect, request, url_for
from werkzeug.wrappers import Response

import shmstats
from shmstats import stats
from shmstats.integrations.flask import ShmStats


def create_app() -> Flask:
    """Make the site; its data directory is ``$EXAMPLE_SITE_DATA``, else ``data`` in the current one."""
    shmstats.init({"path": {"data": os.environ.get("EXAMPLE_SITE_DATA", "data")}})
    app = Flask(__name__)
    ShmStats(app)

    @app.get("/")
    def home() -> Response:
        """Redirect to the live page."""
        return redirect(url_for("shmstats.live"))

    @app.get("/login")
    def login() -> str:
        """Count a login."""
        stats.incr("user_actions", "login")
        return f"login number {stats.get('user_actions', 'login')}\n"

    @app.get("/work")
    def work() -> str:
        """Simulate work for a few milliseconds, and show the duration of the last work of any worker."""
        begun = time.monotonic()
        time.sleep(0.005)
        stats.incr("work", "done")
        stats.gauge("work", "last_seconds", time.monotonic() - begun)
        return "done\n"

    @app.get("/hit")
    def hit() -> str:
        """Count ``n`` hits, 1 by default."""
        n = request.args.get("n", "1")
        if not (n.isascii() and n.isdecimal() and len(n) < 7):
            abort(400, "n must be an integer from 0 to 999999")
        stats.incr("hits", "total", int(n))
        return f"{n} counted\n"

    @app.get("/items/<int:number>")
    def item(number: int) -> str:
        """Show one of 100 items."""
        stats.incr("items", "shown", labels={"shelf": str(number % 5)})
        with stats.timer("items", "query"):
            time.sleep(random.lognormvariate(-4.6, 0.6))
        if number >= 100:
            abort(404, "there is no such item")
        return f"item {number}\n"

    @app.get("/report")
    def report() -> str:
        """Take a second or two, like a report."""
        time.sleep(random.uniform(0.4, 2.0))
        stats.incr("reports", "made")
        return "a report\n"

    @app.post("/orders")
    def order() -> str:
        """Accept an order; one of twelve fails."""
        time.sleep(random.lognormvariate(-4.0, 0.5))
        if random.random() < 1 / 12:
            stats.incr("orders", "failed")
            abort(500, "the warehouse does not answer")
        stats.incr("orders", "taken")
        return "taken\n"

    return app
