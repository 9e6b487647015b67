"""``/stats/live``: a page to look at, and the figures that it asks for.

Page, script and style are files beside this one, served as they are: they hold no data, so anybody may have them.
What the page shows comes from ``/stats/live/data``, ``/stats/history`` and ``/debug/requests``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Response, abort, request

from ...hashing import blake2b
from ...registry import stats
from ..access import public, without_data
from ..blueprint import attached, blueprint, mark_unseen
from ..responses import compressed, json_response

if TYPE_CHECKING:
    from ...dashboard.totals import Dashboard

#: The files of the page. uPlot's are its release 1.6.32 as npm has it.
_STATIC = Path(__file__).parent / "static"

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

#: Nothing inline, nothing from elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_SEARCH_LIMIT = 200


@blueprint.get("/stats/live")
@without_data
def live() -> Response:
    """Answer the page."""
    mark_unseen()
    response = Response(_content("page.html"), mimetype="text/html")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


@blueprint.get("/stats/live/<any('figures.js', 'charts.js', 'script.js', 'style.css', 'uPlot.js', 'uPlot.css'):name>")
@without_data
def live_file(name: str) -> Response:
    """Answer a file that the page is made of."""
    mark_unseen()
    return _tagged(Response(_content(name), content_type=_TYPES[Path(name).suffix]))


@blueprint.get("/stats/live/data")
@public
def live_data() -> Response:
    """Answer totals, of the metrics those that have ``q`` in their names; 304 if nothing has changed since the last."""
    mark_unseen()
    search = request.args.get("q", "")
    if len(search) > _SEARCH_LIMIT:
        abort(400, f"q must have at most {_SEARCH_LIMIT} characters, not {len(search)}")
    shared, block = attached()
    document = _dashboard().document(block.reader, shared.read(), search)
    document["history"] = stats.settings.stats.persist and stats.settings.history.enabled
    return _tagged(compressed(json_response(document)))


def _tagged(response: Response) -> Response:
    """Give a response an ETag; the client that has it already gets a 304."""
    response.set_etag(blake2b(response.get_data(), digest_size=12).hexdigest())
    return response.make_conditional(request)  # type: ignore[return-value]


@cache
def _content(file: str) -> bytes:
    return (_STATIC / file).read_bytes()


@cache
def _dashboard() -> Dashboard:
    from ...dashboard.totals import Dashboard  # only here: it takes numpy, which a scrape does without

    return Dashboard()
