"""The blueprint, and the common behaviour of all its endpoints.

An endpoint is a view in one of the modules beside this one, registered on `blueprint`, and protected by default (see
`shmstats.web.access`). All answers have the headers that browsers need, and errors are JSON, also for other paths below
``/stats``, ``/_local`` and ``/debug``, which `nothing_here` claims.
"""

from __future__ import annotations

import gzip
import math
from typing import Any, NoReturn

from flask import Blueprint, Response, abort, current_app, g, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException, MethodNotAllowed, ServiceUnavailable, default_exceptions
from werkzeug.routing import BaseConverter

from ..attachment.slow_path import SharedProvider
from ..block import BlockError
from ..config import Settings
from ..export.printable import json_text
from ..frozen import NamedTuple
from ..reading.attached import AttachedBlock
from ..reading.requests import UNSEEN
from ..registry import stats
from .access import check_access, public

#: Shorter answers are not compressed, because that would not make them much shorter.
_WORTH_COMPRESSING = 1000

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")

blueprint = Blueprint("shmstats", __name__)


class BelowConverter(BaseConverter):
    """The rest of a path with its leading slash, or nothing, in any spelling.

    werkzeug's own converter for paths leaves some spellings to the application, or redirects.
    """

    regex = r"(?:/[\s\S]*)?"
    part_isolating = False
    weight = 1000


@blueprint.record
def _know_converter(state: BlueprintSetupState) -> None:
    state.app.url_map.converters["shmstats_below"] = BelowConverter


def json_response(document: Any, status: int = 200) -> Response:
    """Answer with a JSON document."""
    body = json_text(document) + "\n"
    return Response(body.encode(errors="backslashreplace"), status, mimetype="application/json")


def compressed(response: Response) -> Response:
    """Compress an answer, if its client accepts that."""
    response.vary.add("Accept-Encoding")
    if request.accept_encodings["gzip"] > 0 and len(response.data) >= _WORTH_COMPRESSING:
        # Level 1 compresses a page to a tenth; higher levels take several times as long for little gain.
        response.data = gzip.compress(response.data, compresslevel=1, mtime=0)
        response.content_encoding = "gzip"
    return response


def error_response(error: HTTPException) -> Response:
    """Answer an error with ``{"error": …}`` and its status, and keep its headers (Allow, for example)."""
    response = json_response({"error": error.description or error.name}, error.code or 500)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


@blueprint.after_request
def keep_to_itself(response: Response) -> Response:
    """Forbid browsers to guess the type of an answer, or to run, frame, embed or store it."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


# Registered by code as well, because an application's own handler of a code would come first.
for code in default_exceptions:
    blueprint.register_error_handler(code, error_response)
blueprint.register_error_handler(HTTPException, error_response)


class Guarded(NamedTuple):
    """What `guard` has found, for the view of the same request.

    Attributes:
        shared: the provider of the block.
        settings: the current ones.
    """

    shared: SharedProvider
    settings: Settings


@blueprint.before_request
def guard() -> None:
    """Let a request pass if statistics are configured and enabled, and its sender may use the endpoint."""
    shared = stats.shared
    if stats.config_error:
        raise ServiceUnavailable(f"nothing is counted, because the configuration has an error: {stats.config_error}")
    settings = stats.settings
    check_access(settings.api, settings.path.data)
    if shared is None:
        abort(404, "statistics are disabled")
    try:
        request.query_string.decode()
    except UnicodeDecodeError:
        abort(400, "the query is not UTF-8: write such bytes as %XX")
    if request.method == "OPTIONS":
        _refuse()
    g.shmstats = Guarded(shared, settings)


def number_argument(name: str) -> float | None:
    """Return an argument of the current request as a finite number; None if it is missing."""
    text = request.args.get(name, "")
    try:
        number = float(text) if text else None
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        abort(400, f"{name} must be a number, not {text!r:.80}")
    return number


def mark_unseen() -> None:
    """Exclude the current request from all counting: somebody only looks."""
    request.environ[UNSEEN] = True


@blueprint.errorhandler(BlockError)
def unavailable(error: BlockError | OSError) -> Response:
    """Answer that the block cannot be used, or is damaged."""
    return error_response(ServiceUnavailable(f"statistics are not available: {error}"))


def attached() -> tuple[SharedProvider, AttachedBlock]:
    """Return the provider of the block, and the attached block; or end the request."""
    shared: SharedProvider = g.shmstats.shared
    try:
        return shared, shared.attach()
    except OSError as error:
        abort(unavailable(error))


@blueprint.route("/_local<shmstats_below:path>", methods=METHODS, merge_slashes=False)
@blueprint.route("/debug<shmstats_below:path>", methods=METHODS, merge_slashes=False)
def nothing_here(path: str) -> Response:
    """Answer that there is no such endpoint, or that it does not support the method."""
    _refuse()


@blueprint.route("/stats<shmstats_below:path>", methods=METHODS, merge_slashes=False)
@public
def nothing_public_here(path: str) -> Response:
    """Answer the same to everybody."""
    _refuse()


def _refuse() -> NoReturn:
    allowed = [method for method in METHODS if method != "OPTIONS" and _is_served(method)]
    if allowed:
        verb = "is" if len(allowed) == 1 else "are"
        raise MethodNotAllowed(allowed, f"{request.method} is not allowed here, but {', '.join(allowed)} {verb}")
    abort(404, f"there is nothing at {request.path!r:.200}")


def _is_served(method: str) -> bool:
    """Tell whether the current path has an endpoint for another method."""
    adapter = current_app.create_url_adapter(request)
    assert adapter is not None
    try:
        endpoint, _ = adapter.match(method=method)
    except HTTPException:
        return False
    return current_app.view_functions[endpoint] not in (nothing_here, nothing_public_here)
