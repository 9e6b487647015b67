"""``/stats/history``: the last 24 hours, from the ring that the saver writes."""

from __future__ import annotations

import math

from flask import Response, abort, request

from ..history.ring import RingError
from ..registry import stats
from .access import public
from .blueprint import blueprint, mark_unseen
from .responses import json_response


@blueprint.get("/stats/history")
@public
def history() -> Response:
    """Answer with the values from ``since`` to ``until`` of the matching ``series``, every ``step`` seconds."""
    mark_unseen()
    # Only here: a scrape does not need numpy.
    from ..history.documents import to_csv, to_json
    from ..history.past import Query, QueryError, read_past

    form = request.args.get("format", "json")
    if form not in ("json", "csv"):
        abort(400, f"format must be json or csv, not {form!r:.80}")
    try:
        query = Query.made(_number("since"), _number("until"), _whole("step"), request.args.getlist("series"))
        past = read_past(stats.settings.path.data, query)
    except QueryError as error:
        abort(400, str(error))
    except FileNotFoundError:
        abort(404, "there is no history yet: it is kept where stats.persist and history.enabled are true")
    except (OSError, RingError) as error:
        abort(503, f"the history cannot be read: {error}")
    return Response(to_csv(past), mimetype="text/csv") if form == "csv" else json_response(to_json(past))


def _number(argument: str) -> float | None:
    """Return an argument of the request as a number; None if it is missing."""
    text = request.args.get(argument, "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        abort(400, f"{argument} must be a number, not {text!r:.80}")


def _whole(argument: str) -> int | None:
    """Return an argument of the request as an integer, without its fraction; None if it is missing."""
    number = _number(argument)
    if number is not None and not math.isfinite(number):
        abort(400, f"{argument} must be finite, not {number}")
    return None if number is None else int(number)
