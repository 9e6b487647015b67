"""``/stats/live``: the live page, and the figures that it requests.

Page, script and style are static files beside this module: they contain no data, so everybody may read them.
The page gets its data from ``/stats/live/data``, ``/stats/history`` and ``/debug/requests``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Response, abort, request

from ...registry import stats
from ..access import public, without_data
from ..blueprint import attached, blueprint, compressed, json_response, mark_unseen

if TYPE_CHECKING:
    from ...dashboard.totals import Dashboard

#: The files of the page. uPlot's are those of its release 1.6.32 on npm.
_STATIC = Path(__file__).parent / "static"

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}

#: No inline code, and nothing from other sites.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_SEARCH_LIMIT = 200


@blueprint.get("/stats/live", defaults={"name": "page.html"})
@blueprint.get("/stats/live/<any('figures.js', 'charts.js', 'script.js', 'style.css', 'uPlot.js', 'uPlot.css'):name>")
@without_data
def live(name: str) -> Response:
    """Answer with the page, or a file of it."""
    mark_unseen()
    response = Response(_content(name), mimetype=_TYPES[Path(name).suffix])
    response.headers["Content-Security-Policy"] = _POLICY
    return _tagged(response)


@blueprint.get("/stats/live/data")
@public
def live_data() -> Response:
    """Answer with totals, and the metrics with ``q`` in their names; 304 if nothing has changed since then."""
    mark_unseen()
    search = request.args.get("q", "")
    if len(search) > _SEARCH_LIMIT:
        abort(400, f"q must have at most {_SEARCH_LIMIT} characters, not {len(search)}")
    shared, block = attached()
    document = _dashboard().document(block.reader, shared.read(), search)
    document["history"] = stats.settings.stats.persist and stats.settings.history.enabled
    return _tagged(compressed(json_response(document)))


def _tagged(response: Response) -> Response:
    """Give a response an ETag; a client that already has it gets a 304."""
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]


@cache
def _content(file: str) -> bytes:
    return (_STATIC / file).read_bytes()


@cache
def _dashboard() -> Dashboard:
    from ...dashboard.totals import Dashboard  # only here: it imports numpy, which a scrape does not need

    return Dashboard()
