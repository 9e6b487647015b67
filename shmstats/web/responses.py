"""Answers in JSON, errors among them, and the headers of every answer."""

from __future__ import annotations

import gzip
from typing import Any

from flask import Response, request
from werkzeug.exceptions import HTTPException

from ..export.printable import json_text

#: A shorter answer is hardly shorter compressed.
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
    """Compress an answer, if its reader takes that."""
    response.vary.add("Accept-Encoding")
    if request.accept_encodings["gzip"] > 0 and len(response.data) >= _WORTH_COMPRESSING:
        # The first level makes a tenth of a page; further ones take several times as long for a little less.
        response.data = gzip.compress(response.data, compresslevel=1, mtime=0)
        response.content_encoding = "gzip"
    return response


def error_response(error: HTTPException) -> Response:
    """Answer an error with ``{"error": …}`` and its status, keeping its headers (Allow, say)."""
    response = json_response({"error": error.description or error.name}, error.code or 500)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def keep_to_itself(response: Response) -> Response:
    """Have browsers neither guess the type of an answer, nor run, frame, embed or keep it."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response
