r"""Prometheus text 0.0.4 and OpenMetrics 1.0.0.

Names are the concern of `families`. Here they become bytes, quickly: a process is scraped again and
again, and between two scrapes the values change but hardly ever the names. So everything that follows
from the names is made once, as a *plan*, and kept for as long as snapshots come with the same ``names``
object. A plan is the whole page as templates, with a place for each value::

    b'# HELP requests_total Total number of requests.\\n# TYPE requests_total counter\n'
    b'requests_total{category="api"} %a\\nrequests_total{category="web"} %a\n...'

and to render is to fill the templates in. ``%a`` writes an int with all its digits and a float with as many
as it takes to read the same float back. A template holds a few hundred series: filling in one of moderate
size is twice as fast as one of megabytes.

When the names have grown by further ones at the end, which is what registration does, only those are named
and the templates put together again. Any other change makes a new plan. A renderer holds one plan; it is
replaced as a whole and never altered, so that any number of threads may render at once.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md
"""

from __future__ import annotations

import itertools
import math
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any

from shmstats.export.families import FOREIGN, SYSTEM_FIGURES, ExposedSeries, Family, Namer, is_time
from shmstats.series import Distribution, Kind, Name, Snapshot, label_text

TEXT_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Exposition(Enum):
    """The formats that Prometheus reads; the value is the content type."""

    TEXT = TEXT_CONTENT_TYPE
    OPENMETRICS = OPENMETRICS_CONTENT_TYPE

    @property
    def content_type(self) -> str:
        """What to answer as Content-Type."""
        return self.value


class Renderer:
    """Renders snapshots, and keeps what follows from the names of the last one. Safe to share by threads.

    The counters and gauges in a snapshot must be plain ints and floats, not numpy's.
    """

    def __init__(self) -> None:
        self._plan: _Plan | None = None
        self._lock = threading.Lock()

    def render(self, snapshot: Snapshot, exposition: Exposition = Exposition.TEXT) -> bytes:
        """Return the page in UTF-8, each family with HELP and TYPE, its samples together.

        Raises:
            ValueError: a histogram's value has not one bucket more than its name has bounds.
        """
        plan = self._plan
        if plan is None or not plan.fits(snapshot):
            with self._lock:
                plan = self._plan
                if plan is None or not plan.fits(snapshot):
                    self._plan = None  # should making the next one be interrupted, nothing stays half done
                    self._plan = plan = _Plan.of(snapshot, plan)
        return plan.fill(snapshot, exposition)


#: Renders with a renderer that the whole process shares.
render = Renderer().render


def negotiate(accept: str | None) -> Exposition:
    """Choose the format by a request's Accept header (RFC 9110, 12.5.1).

    OpenMetrics only for who names it, with a version that the answer conforms to, and does not prefer the
    text format. The text format for all others, even those who accept neither.
    """
    openmetrics = 0.0
    text: list[tuple[int, float]] = [(0, 0.0)]
    for media_range in (accept or "").split(","):
        media_type, parameters = _media_range(media_range)
        version = parameters.get("version")
        quality = _quality(parameters.get("q", "1"))
        if media_type == "application/openmetrics-text":
            if version in (None, "1.0.0", "0.0.1"):
                openmetrics = max(openmetrics, quality)
        elif media_type == "text/plain" and version in (None, "0.0.4"):
            text.append((3 if version is None else 4, quality))
        elif media_type in ("text/*", "*/*"):
            text.append((2 if media_type == "text/*" else 1, quality))
    _, text_quality = max(text)
    return Exposition.OPENMETRICS if openmetrics > 0 and openmetrics >= text_quality else Exposition.TEXT


_SERIES_PER_TEMPLATE = 200

#: A template and what gets its values out of all the values: a tuple, or the value itself if there is one.
_Template = tuple[bytes, Callable[[Sequence[Any]], Any]]


class _Plan:
    """Everything about a page but its values. Immutable, but for what is made on a format's first use.

    The values of a page are those of the snapshot and after them those of ``system``: an index beyond the
    snapshot's own is a system figure's.
    """

    def __init__(self, names: Sequence[Name], system: tuple[str, ...], parent: _Plan | None = None) -> None:
        self._names = names
        self._known = list(names)
        self._system = system
        self._namer: Namer = parent._namer if parent else Namer(system)
        self._divisors = [SYSTEM_FIGURES[key].divisor if key in SYSTEM_FIGURES else 1 for key in system]
        self._lines: list[tuple[Family | None, str]] = list(parent._lines) if parent else []
        self._timestamps: list[int] = list(parent._timestamps) if parent else []
        self._histograms: list[tuple[int, _Histogram]] = list(parent._histograms) if parent else []
        self._templates: dict[Exposition, list[_Template]] = {}
        for i in range(len(self._lines), len(self._known)):
            self._add(i, self._known[i])

    @classmethod
    def of(cls, snapshot: Snapshot, last: _Plan | None) -> _Plan:
        """Return the plan for a snapshot. If the names only grew, it is made from the last one and uses it up."""
        system = tuple(snapshot.system)
        grown = last and system == last._system and list(snapshot.names[: len(last._known)]) == last._known
        return cls(snapshot.names, system, last if grown else None)

    def fits(self, snapshot: Snapshot) -> bool:
        return self._names is snapshot.names and self._system == tuple(snapshot.system)

    def fill(self, snapshot: Snapshot, exposition: Exposition) -> bytes:
        templates = self._templates.get(exposition)
        if templates is None:
            templates = self._templates[exposition] = list(_templates(self._families(), exposition))
        values: list[Any] = [*snapshot.values, *map(_divided, snapshot.system.values(), self._divisors)]
        for i in self._timestamps:
            values[i] = _seconds(values[i])
        for i, histogram in self._histograms:
            values[i] = histogram.lines(values[i])
        page = [template % get(values) for template, get in templates]
        if exposition is Exposition.OPENMETRICS:
            page.append(b"# EOF\n")
        return b"".join(page)

    def _add(self, i: int, name: Name) -> None:
        if name.category in FOREIGN:
            self._lines.append((None, ""))
            return
        series = self._namer.add(name)
        if name.kind is Kind.HISTOGRAM:
            self._histograms.append((i, _Histogram(series, name)))
            line = "%b"
        elif name.kind is Kind.TIMESTAMP:
            self._timestamps.append(i)
            line = _line(series, "%b")
        else:
            line = _line(series, "%a")
        self._lines.append((series.family, line))

    def _families(self) -> dict[Family, list[tuple[int, str]]]:
        """Return index and line of every series, by family, in the order of the families' first members."""
        families: dict[Family, list[tuple[int, str]]] = {}
        system = [(series.family, _line(series, "%a")) for series in self._namer.system]
        for i, (family, line) in enumerate(itertools.chain(self._lines, system)):
            if family is None:
                continue
            members = families.get(family)
            if members is None:
                families[family] = [(i, line)]
            else:
                members.append((i, line))
        return families


class _Histogram:
    """The lines of one histogram series: cumulative buckets, sum and count."""

    __slots__ = ("_buckets", "_divisor", "_kept", "_template")

    def __init__(self, series: ExposedSeries, name: Name) -> None:
        self._divisor = 1000 if is_time(name.unit) else 1
        self._buckets = len(name.bounds) + 1
        # Bounds that are the same when divided are one bucket: the later one, being cumulative, has it all.
        limits = {_limit(bound, self._divisor): i for i, bound in enumerate(name.bounds)}
        limits["+Inf"] = self._buckets - 1
        self._kept = list(limits.values())
        lines = [_line(series, "%d", "_bucket", limit) for limit in limits]
        lines += [_line(series, "%a", "_sum"), _line(series, "%d", "_count")]
        self._template = "".join(lines).encode()

    def lines(self, value: Distribution) -> bytes:
        if len(value.buckets) != self._buckets:
            raise ValueError(f"a histogram of {self._buckets - 1} bounds has {len(value.buckets)} buckets")
        cumulative = list(itertools.accumulate(value.buckets))
        shown = [cumulative[i] for i in self._kept]
        return self._template % (*shown, _divided(value.sum, self._divisor), cumulative[-1])


def _templates(families: dict[Family, list[tuple[int, str]]], exposition: Exposition) -> Iterator[_Template]:
    texts: list[str] = []
    indices: list[int] = []
    for family, members in families.items():
        texts.append(_header(family, exposition))
        for i, line in members:
            texts.append(line)
            indices.append(i)
            if len(indices) == _SERIES_PER_TEMPLATE:
                yield "".join(texts).encode(), operator.itemgetter(*indices)
                texts.clear()
                indices.clear()
    if indices:
        yield "".join(texts).encode(), operator.itemgetter(*indices)


def _header(family: Family, exposition: Exposition) -> str:
    help_ = family.help.replace("\\", "\\\\").replace("\n", "\\n").replace("%", "%%")
    if exposition is Exposition.TEXT:
        return f"# HELP {family.exposed_name} {help_}\n# TYPE {family.exposed_name} {family.type.word}\n"
    help_ = help_.replace('"', '\\"')
    unit = f"# UNIT {family.name} {family.unit}\n" if family.unit else ""
    return f"# HELP {family.name} {help_}\n# TYPE {family.name} {family.type.word}\n{unit}"


def _line(series: ExposedSeries, place: str, suffix: str = "", limit: str = "") -> str:
    labels = label_text([*series.labels, ("le", limit)] if limit else series.labels).replace("%", "%%")
    braced = f"{{{labels}}}" if labels else ""
    return f"{series.family.exposed_name}{suffix}{braced} {place}\n"


def _divided(value: float, divisor: int) -> float:
    return value if divisor == 1 else value / divisor


def _seconds(microseconds: int) -> bytes:
    """Return microseconds in seconds, exactly: the division is done on the digits."""
    whole, fraction = divmod(abs(microseconds), 1_000_000)
    return b"%s%d.%06d" % (b"-" if microseconds < 0 else b"", whole, fraction)


def _limit(bound: float, divisor: int) -> str:
    """Return an upper bound as a value of ``le``, in the form that OpenMetrics prescribes: 0.0001, 1.0, 1e+06.

    Both formats use it, for ``le`` is part of the identity of a series and must not depend on the format.
    """
    limit = float(Decimal(repr(float(bound))) / divisor)
    text = repr(limit)
    if math.isinf(limit):
        return "+Inf"
    if abs(limit) < 1e6 or "e" in text:
        return text
    mantissa, exponent = f"{Decimal(text).normalize():e}".split("e")
    return f"{mantissa}e{int(exponent):+03d}"


def _media_range(text: str) -> tuple[str, dict[str, str]]:
    media_type, *parameters = text.split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    return media_type.strip().lower(), {key.strip().lower(): value.strip(' \t"') for key, _, value in pairs}


def _quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
