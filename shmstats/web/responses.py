"""Answers in JSON, errors among them."""

from __future__ import annotations

import json
from typing import Any

from flask import Response
from werkzeug.exceptions import HTTPException


def json_response(document: Any, status: int = 200) -> Response:
    """Answer with a JSON document."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"
    return Response(body, status, mimetype="application/json")


def error_response(error: HTTPException) -> Response:
    """Answer an error with ``{"error": …}`` and its status, keeping its headers (Allow, say)."""
    response = json_response({"error": error.description}, error.code or 500)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response
