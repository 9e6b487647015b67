"""``/stats``: the statistics, in any format; ``/stats/prometheus``: in the format that the scraper prefers.

``/stats/history`` has the last 24 hours, from the ring that the saver writes; ``/stats/targets`` the known machines, in
the form of ``http_sd_configs`` of Prometheus and vmagent.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from flask import Response, abort, g, request

from ..attachment.health import figures_of, health
from ..attachment.slow_path import SharedProvider
from ..config import Settings, StatsSettings
from ..debug.processes import pool_figures, system_figures
from ..export import ESCAPINGS, FORMATS, Format, View, negotiate, to_document, to_structured
from ..history.ring import RingError
from ..once import Lately
from ..reading.attached import AttachedBlock
from ..registry import stats
from ..series import Snapshot
from ..storage import StorageMeter
from .access import public
from .blueprint import attached, blueprint, compressed, json_response, mark_unseen, number_argument


def _read_recent(directory: Path) -> Any:
    from ..history.past import read_recent  # only here: it imports numpy, which a scrape does not need

    return read_recent(directory)


_recent = Lately(_read_recent)


@blueprint.get("/stats")
@public
def statistics() -> Response:
    """Answer with all statistics as JSON, or in the format of ``?format=``."""
    wanted = request.args.get("format", "json")
    if wanted in ("json", "v2"):  # with the figures of block and disk
        return compressed(json_response(_document(structured=wanted == "v2")))
    if wanted == "prometheus":
        return exposition()
    if wanted not in FORMATS:
        abort(400, f"format must be one of {', '.join(FORMATS)}, not {wanted!r:.80}")
    return _rendered(FORMATS[wanted], None)


@blueprint.get("/stats/prometheus")
@public
def exposition() -> Response:
    """Answer with all statistics, or those of ``?name[]=``, in the format that the scraper prefers."""
    response = _rendered(*negotiate(request.headers.get("Accept")))
    response.vary.add("Accept")
    return response


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
    since, until, step = map(number_argument, ("since", "until", "step"))
    try:
        query = Query.made(since, until, None if step is None else int(step), request.args.getlist("series"))
        past = read_past(stats.settings.path.data, query)
    except QueryError as error:
        abort(400, str(error))
    except FileNotFoundError:
        abort(404, "there is no history yet: it is kept where stats.persist and history.enabled are true")
    except (OSError, RingError) as error:
        abort(503, f"the history cannot be read: {error}")
    return Response(to_csv(past), mimetype="text/csv") if form == "csv" else json_response(to_json(past))


@blueprint.get("/stats/targets")
@public
def targets() -> Response:
    """Answer with ``api.peers`` as one group of targets; without peers, with no group."""
    peers = stats.settings.api.peers
    return json_response([{"targets": list(peers)}] if peers else [])


def _rendered(form: Format, negotiated: str | None) -> Response:
    """Answer in a format, with names spelt as ``?escaping=`` asks for, or else as was negotiated."""
    escaping = request.args.get("escaping", negotiated)
    if escaping not in (None, *ESCAPINGS):
        abort(400, f"escaping must be one of {', '.join(ESCAPINGS)}, not {escaping!r:.80}")
    settings: Settings = g.shmstats.settings
    shown = settings.prometheus
    labels = tuple(sorted(shown.labels.items()))
    view = View(escaping, frozenset(request.args.getlist("name[]")), shown.namespace, labels)
    snapshot, _ = _snapshot(*attached(), settings.stats)
    content_type = f"{form.content_type}; escaping={escaping}" if escaping else form.content_type
    return compressed(Response(form.render(snapshot, view), content_type=content_type))


def _snapshot(shared: SharedProvider, block: AttachedBlock, settings: StatsSettings) -> tuple[Snapshot, dict[str, Any]]:
    """Return the snapshot that may be shown, with the figures of the system, and the use of the block."""
    snapshot = shared.exposable()
    live = block.reader.lately_live()
    found = health(block.reader, block.name, snapshot, live)
    system = system_figures([worker.pid for worker in live], block.reader.uptime)
    if settings.include_storage_stats_in_api:
        system["store"] = _meter(shared.directory).read().store
    return snapshot.replaced(system=system, health=figures_of(found)), found


def _document(structured: bool) -> dict[str, Any]:
    settings = g.shmstats.settings.stats
    shared, block = attached()
    snapshot, found = _snapshot(shared, block, settings)
    snapshot = snapshot.replaced(recent=_recent.get(shared.directory))
    statistics = to_structured(snapshot) if structured else {"simple": to_document(snapshot)}
    document = {**statistics, "pool": pool_figures(block.reader), "health": found}
    if settings.include_storage_stats_in_api:
        storage = _meter(shared.directory).read()
        figures = ("all", "used", "free", "available")
        document["disk"] = {figure: getattr(storage, figure) for figure in figures}
        document["disk"]["age"] = round(storage.age, 1)
        if not storage.complete:
            document["disk"]["store_is_at_least"] = True
    return document


@cache
def _meter(directory: Path) -> StorageMeter:
    return StorageMeter(directory)
