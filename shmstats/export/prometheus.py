r"""Prometheus text 0.0.4 and 1.0.0, and OpenMetrics 1.0.0.

What follows from the names is made once for a `shmstats.export.page.Page`: templates of a few hundred series, with
``%a`` for each value; larger ones take twice as long to fill. Sources:
https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from shmstats.bounds import shown_in_text
from shmstats.export.escaping import is_metric_name
from shmstats.export.exemplars import with_exemplars
from shmstats.export.naming import ExposedFamily, ExposedSeries, Type, is_time, without_state
from shmstats.export.page import Member, Page, Pages
from shmstats.export.skeleton import ESCAPINGS as QUICK_ESCAPINGS
from shmstats.export.skeleton import Skeletons
from shmstats.export.view import PLAIN, View
from shmstats.reading.totals import BlockSnapshot
from shmstats.series import Distribution, Kind, Labels, Name, Snapshot, label_text, quoted

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1_TYPE = "text/plain; version=1.0.0; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Renderer:
    """Renders snapshots, and keeps what follows from the names of the last one. Threads may share it.

    The counters and gauges in a snapshot must be ints and floats of Python, not numpy's.
    """

    def __init__(self) -> None:
        self._pages = Pages()
        self._skeletons = Skeletons()

    def text(self, snapshot: Snapshot, view: View = PLAIN) -> bytes:
        """Return the page in the text format 0.0.4, or 1.0.0 if names are not cleaned.

        Raises:
            ValueError: the number of a histogram's buckets is not one more than its name's bounds.
        """
        return self._rendered(snapshot, view, view.escaping or "underscores", _Text)[0]

    def text_utf8(self, snapshot: Snapshot, view: View = PLAIN) -> bytes:
        """Return the page in the text format 1.0.0, with names in UTF-8 unchanged.

        Raises:
            ValueError: as for `text`.
        """
        return self._rendered(snapshot, view, view.escaping or "allow-utf-8", _Text)[0]

    def openmetrics(self, snapshot: Snapshot, view: View = PLAIN) -> bytes:
        """Return the page in OpenMetrics 1.0.0.

        Raises:
            ValueError: as for `text`.
        """
        page, series_of = self._rendered(snapshot, view, view.escaping or "underscores", _OpenMetrics)
        if snapshot.exemplars:
            page = with_exemplars(page, snapshot.exemplars, series_of, _OpenMetrics.sample_text, _OpenMetrics.limits)
        return page + b"# EOF\n"

    def _rendered(
        self, snapshot: Snapshot, view: View, escaping: str, form: type[_Text]
    ) -> tuple[bytes, Callable[[Name], ExposedSeries | None]]:
        """Return the page, and a function that returns the name of a series there."""
        if isinstance(snapshot, BlockSnapshot) and escaping in QUICK_ESCAPINGS:
            skeleton = self._skeletons.of(snapshot, view, escaping, form)
            return skeleton.fill(snapshot), skeleton.series_of
        page = self._pages.of(snapshot, view, escaping)
        text = page.made.get(form)
        if text is None:
            text = page.made[form] = form(page, page.inherited.pop(form, None))
        return text.fill(page, page.values(snapshot), view.names), page.series_of


#: The renderer that the whole process shares.
shared = Renderer()
render = shared.text

_SERIES_PER_TEMPLATE = 200

#: A template, and a function that selects its values: as a tuple, or the value itself if there is one.
_Template = tuple[bytes, Callable[[Sequence[Any]], Any]]


class _Text:
    """A page in the text format, as templates."""

    def __init__(self, page: Page, parent: _Text | None) -> None:
        """Make the lines of the series that the page has in addition to its parent."""
        self._own = page.own
        self._lines: list[str] = parent._lines[: parent._own] if parent else []
        self._timestamps: list[int] = list(parent._timestamps) if parent else []
        self._histograms: list[tuple[int, _Histogram]] = list(parent._histograms) if parent else []
        for member in page.members[len(self._lines) :]:
            self._lines.append(self._line(member))
        self._templates = list(self._made(page, frozenset()))

    def fill(self, page: Page, values: list[Any], chosen: frozenset[str]) -> bytes:
        """Return the text with the values, of all families or of the chosen ones."""
        for i in self._timestamps:
            values[i] = _seconds(values[i])
        for i, histogram in self._histograms:
            values[i] = histogram.lines(values[i])
        templates = self._made(page, chosen) if chosen else self._templates
        return b"".join([template % get(values) for template, get in templates])

    @staticmethod
    def created_name(family: ExposedFamily) -> str:
        """Return the name of the samples with creation times; "" if there are none."""
        return ""

    @staticmethod
    def sample_text(name: str, pairs: Labels) -> str:
        """Return the name and the labels of a sample."""
        labels = label_text(pairs)
        if not is_metric_name(name):
            labels = f"{quoted(name)},{labels}" if labels else quoted(name)
            name = ""
        return f"{name}{{{labels}}}" if labels else name

    @staticmethod
    def limits(name: Name) -> tuple[int, dict[str, int]]:
        """Return what `text_limits` does."""
        return text_limits(name)

    def _line(self, member: Member) -> str:
        position, series, name = member
        if name.kind is Kind.HISTOGRAM:
            self._histograms.append((position, _Histogram(series, name)))
            return "%b"
        if name.kind is Kind.TIMESTAMP:
            self._timestamps.append(position)
            return _sample(series, "%b")
        return _sample(series, "%a")

    def _made(self, page: Page, chosen: frozenset[str]) -> Iterator[_Template]:
        texts: list[str] = []
        indices: list[int] = []
        for family, places in page.families(chosen).items():
            if family.type is Type.STATESET:  # OpenMetrics requires the states of one thing together
                places = sorted(places, key=lambda place: without_state(page.members[place].series))
            texts.append(self.header(family).replace("%", "%%"))
            for place in places:
                texts.append(self._lines[place])
                indices.append(page.members[place].position)
                if len(indices) == _SERIES_PER_TEMPLATE:
                    yield "".join(texts).encode(), operator.itemgetter(*indices)
                    texts.clear()
                    indices.clear()
        if indices:
            yield "".join(texts).encode(), operator.itemgetter(*indices)

    @staticmethod
    def header(family: ExposedFamily) -> str:
        """Return the lines before a family."""
        name, help_ = _quoted_if_needed(family.exposed_name), _escaped_help(family)
        return f"# HELP {name} {help_}\n# TYPE {name} {family.type.text_word}\n"


class _OpenMetrics(_Text):
    """A page in OpenMetrics, as templates; counters and histograms also have their creation times."""

    def _line(self, member: Member) -> str:
        line = super()._line(member)
        created, name = member.name.created, self.created_name(member.series.family)
        if not created or not name:
            return line
        moment = f"{created // 1_000_000_000}.{created % 1_000_000_000:09d}"
        return line + _sample_line(name, member.series.labels, moment)

    @staticmethod
    def created_name(family: ExposedFamily) -> str:
        """Return the name of the samples with creation times; "" if there are none."""
        return f"{family.name}_created" if family.type.has_created else ""

    @staticmethod
    def header(family: ExposedFamily) -> str:
        """Return the lines before a family."""
        name, help_ = _quoted_if_needed(family.name), _escaped_help(family).replace('"', '\\"')
        unit = f"# UNIT {name} {family.unit}\n" if family.unit and is_metric_name(family.unit) else ""
        return f"# HELP {name} {help_}\n# TYPE {name} {family.type.word}\n{unit}"


def text_limits(name: Name) -> tuple[int, dict[str, int]]:
    """Return the divisor of a histogram's sum, and limit and number of each bucket line."""
    divisor = 1000 if is_time(name.unit) else 1
    # Bounds that become equal by the division are one bucket: the later one, whose cumulative count includes both.
    limits = {bound_text(name.bounds[i], divisor): i for i in shown_in_text(name.bounds)}
    limits["+Inf"] = len(name.bounds)
    return divisor, limits


class _Histogram:
    """The lines of one histogram series: cumulative buckets, sum and count."""

    __slots__ = ("_buckets", "_divisor", "_kept", "_template")

    def __init__(self, series: ExposedSeries, name: Name) -> None:
        self._buckets = len(name.bounds) + 1
        self._divisor, limits = _Text.limits(name)
        self._kept = list(limits.values())
        lines = [_sample(series, "%d", "_bucket", limit) for limit in limits]
        lines += [_sample(series, "%a", "_sum"), _sample(series, "%d", "_count")]
        self._template = "".join(lines).encode()

    def lines(self, value: Distribution) -> bytes:
        if len(value.buckets) != self._buckets:
            raise ValueError(f"a histogram of {self._buckets - 1} bounds has {len(value.buckets)} buckets")
        cumulative = list(itertools.accumulate(value.buckets))
        shown = [cumulative[i] for i in self._kept]
        return self._template % (*shown, _divided(value.sum, self._divisor), cumulative[-1])


def _escaped_help(family: ExposedFamily) -> str:
    return family.help.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted_if_needed(name: str) -> str:
    return name if is_metric_name(name) else quoted(name)


def _sample(series: ExposedSeries, place: str, suffix: str = "", limit: str = "") -> str:
    """Return the line of a sample of a series, with a place for its value."""
    labels = (*series.labels, ("le", limit)) if limit else series.labels
    return _sample_line(f"{series.family.exposed_name}{suffix}", labels, place)


def _sample_line(name: str, pairs: Labels, place: str) -> str:
    return f"{_Text.sample_text(name, pairs)} ".replace("%", "%%") + f"{place}\n"


def _divided(value: float, divisor: int) -> float:
    return value if divisor == 1 else value / divisor


def _seconds(microseconds: int) -> bytes:
    """Return microseconds as seconds, exactly: the division works on the digits."""
    whole, fraction = divmod(abs(microseconds), 1_000_000)
    return b"%s%d.%06d" % (b"-" if microseconds < 0 else b"", whole, fraction)


def bound_text(bound: float, divisor: int) -> str:
    """Return an upper bound as a value of ``le``, in the form that OpenMetrics prescribes: 0.0001, 1.0, 1e+06.

    Both formats use it, because ``le`` is part of the identity of a series and must not depend on the format.
    """
    limit = float(Decimal(repr(float(bound))) / divisor)
    text = repr(limit)
    if math.isinf(limit):
        return "+Inf"
    if abs(limit) < 1e6 or "e" in text:
        return text
    mantissa, exponent = f"{Decimal(text).normalize():e}".split("e")
    return f"{mantissa}e{int(exponent):+03d}"
