"""FORMATS: the table of all output formats, which the commands and the endpoints read; `negotiate` chooses one.

To add one, write a module with a function that turns a `Snapshot` and a `View` into bytes, and add a row here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

from shmstats.export import prometheus, protobuf, renderer
from shmstats.export.documents import json_document, structured_json
from shmstats.export.escaping import ESCAPINGS
from shmstats.export.tables import csv_table, text_table
from shmstats.export.view import View
from shmstats.frozen import NamedTuple
from shmstats.series import Snapshot


class Format(NamedTuple):
    """One output format.

    Attributes:
        content_type: of an HTTP answer.
        render: makes it from a snapshot.
        by_worker: whether it can show the values of single workers.
        binary: whether it is not text.
        asked_by: the parameters of a media range by which a scraper requests it, and their allowed values; "" among
            them: the parameter may be left out. Empty: it is not negotiated.
    """

    content_type: str
    render: Callable[[Snapshot, View], bytes]
    by_worker: bool = False
    binary: bool = False
    asked_by: Mapping[str, tuple[str, ...]] = {}

    @property
    def media_type(self) -> str:
        """The content type without parameters."""
        return self.content_type.partition(";")[0]


#: The format for a scraper that requests none in particular.
_DEFAULT = "prometheus"

#: By the names in ``--format`` and ``?format=``. Of two that a scraper prefers equally it gets the later one.
FORMATS = {
    "json": Format("application/json", json_document, by_worker=True),
    "v2": Format("application/json", structured_json, by_worker=True),
    "csv": Format("text/csv; charset=utf-8", csv_table, by_worker=True),
    "table": Format("text/plain; charset=utf-8", text_table, by_worker=True),
    "prometheus": Format(prometheus.TEXT_TYPE, renderer.shared.text, asked_by={"version": ("0.0.4", "")}),
    "prometheus-utf8": Format(prometheus.TEXT_1_TYPE, renderer.shared.text_utf8, asked_by={"version": ("1.0.0",)}),
    "openmetrics": Format(
        prometheus.OPENMETRICS_TYPE, renderer.shared.openmetrics, asked_by={"version": ("1.0.0", "0.0.1", "")}
    ),
    "protobuf": Format(
        protobuf.CONTENT_TYPE,
        protobuf.render,
        binary=True,
        asked_by={"proto": ("io.prometheus.client.MetricFamily",), "encoding": ("delimited",)},
    ),
}


class _Range(NamedTuple):
    """A media range of an Accept header."""

    media_type: str
    parameters: dict[str, str]

    @property
    def quality(self) -> float:
        try:
            quality = float(self.parameters.get("q", "1"))
        except ValueError:
            return 0.0
        return quality if 0 <= quality <= 1 else 0.0

    def fit(self, form: Format) -> int:
        """Return how closely this range names a format: 0 not at all, 3 its type, more with a version."""
        if self.media_type == form.media_type:
            given = [self.parameters.get(key, "") for key in form.asked_by]
            if all(value in allowed for value, allowed in zip(given, form.asked_by.values(), strict=True)):
                return 3 + len([value for value in given if value])
        if form is FORMATS[_DEFAULT]:
            return {"*/*": 1, "text/*": 2}.get(self.media_type, 0)
        return 0


@functools.lru_cache(maxsize=64)  # a scraper sends the same header every time
def negotiate(accept: str | None) -> tuple[Format, str | None]:
    """Choose the format and the spelling of names (None for none) that an Accept header (RFC 9110, 12.5.1) prefers.

    Between equals the format with more information wins.

    Formats other than the default need an explicit request, with a version that the answer conforms to. All other
    requests get the default, even those that accept nothing.
    """
    ranges = list(_ranges(accept or ""))
    best: tuple[float, int] = (0.0, -1)
    choice: tuple[Format, str | None] = FORMATS[_DEFAULT], None
    for place, form in enumerate(FORMATS.values()):
        if not form.asked_by:
            continue
        fitting = [(range_.fit(form), range_.quality, range_) for range_ in ranges if range_.fit(form)]
        if not fitting:
            continue
        _, quality, asked = max(fitting, key=lambda each: each[:2])
        if quality > 0 and (quality, place) > best:
            best = quality, place
            escaping = asked.parameters.get("escaping")
            choice = form, escaping if escaping in ESCAPINGS else None
    return choice


def _ranges(accept: str) -> Iterator[_Range]:
    for text in accept.split(","):
        media_type, *parameters = text.split(";")
        pairs = (parameter.partition("=") for parameter in parameters)
        yield _Range(media_type.strip().lower(), {key.strip().lower(): value.strip(' \t"') for key, _, value in pairs})
