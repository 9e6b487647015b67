"""Answers in JSON, including errors, and the headers of every answer."""

from __future__ import annotations

import gzip
from typing import Any

from flask import Response, request
from werkzeug.exceptions import HTTPException

from ..export.printable import json_text

#: Shorter answers are not compressed, because that would not make them much shorter.
_WORTH_COMPRESSING = 1000

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


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


def keep_to_itself(response: Response) -> Response:
    """Forbid browsers to guess the type of an answer, or to run, frame, embed or store it."""
    present = {name.lower() for name in response.headers.keys()}  # noqa: SIM118 - they are no dict
    response.headers.extend([(name, value) for name, value in _HEADERS.items() if name.lower() not in present])
    return response
