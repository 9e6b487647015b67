"""The lines of Prometheus text 0.0.4 and 1.0.0, and of OpenMetrics 1.0.0. Sources:

https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shmstats.export.escaping import is_metric_name
from shmstats.export.naming import ExposedFamily, ExposedSeries, Type, without_state
from shmstats.export.page import Member, PagePart, TextBuckets, is_chosen
from shmstats.series import Distribution, Kind, Labels, Name, label_text, quoted

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1_TYPE = "text/plain; version=1.0.0; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

#: Larger templates take twice as long to fill.
_SERIES_PER_TEMPLATE = 200

#: A template, and a function that selects its values: as a tuple, or the value itself if there is one.
_Template = tuple[bytes, Callable[[Sequence[Any]], Any]]


class TextLines:
    """Series in the text format, as templates with ``%a`` for each value.

    Attributes:
        part: the series.
    """

    def __init__(self, part: PagePart) -> None:
        self.part = part
        self._timestamps: list[int] = []
        self._histograms: list[tuple[int, _Histogram]] = []
        self._families: dict[ExposedFamily, list[tuple[str, int]]] = {}
        for family, members in part.families().items():
            if family.type is Type.STATESET:  # OpenMetrics requires the states of one thing together
                members.sort(key=lambda member: without_state(member.series))
            self._families[family] = [(self._line(member), member.position) for member in members]
        self._templates = list(self._made(frozenset()))

    def fill(self, values: list[Any], chosen: frozenset[str] = frozenset()) -> bytes:
        """Return the text with the values, of all families or of the chosen ones."""
        for i in self._timestamps:
            values[i] = _seconds(values[i])
        for i, histogram in self._histograms:
            values[i] = histogram.lines(values[i])
        templates = self._made(chosen) if chosen else self._templates
        return b"".join([template % get(values) for template, get in templates])

    @staticmethod
    def header(family: ExposedFamily) -> str:
        """Return the lines before a family."""
        name, help_ = _quoted_if_needed(family.exposed_name), _escaped_help(family)
        return f"# HELP {name} {help_}\n# TYPE {name} {family.type.text_word}\n"

    @staticmethod
    def created_name(family: ExposedFamily) -> str:
        """Return the name of the samples with creation times; "" if there are none."""
        return ""

    def _line(self, member: Member) -> str:
        position, series, name = member
        if name.kind is Kind.HISTOGRAM:
            self._histograms.append((position, _Histogram(series, name)))
            return "%b"
        if name.kind is Kind.TIMESTAMP:
            self._timestamps.append(position)
            return _sample(series, "%b")
        return _sample(series, "%a")

    def _made(self, chosen: frozenset[str]) -> Iterator[_Template]:
        texts: list[str] = []
        positions: list[int] = []
        for family, lines in self._families.items():
            if not is_chosen(family, chosen):
                continue
            texts.append(self.header(family).replace("%", "%%"))
            for line, position in lines:
                texts.append(line)
                positions.append(position)
                if len(positions) == _SERIES_PER_TEMPLATE:
                    yield "".join(texts).encode(), operator.itemgetter(*positions)
                    texts.clear()
                    positions.clear()
        if positions:
            yield "".join(texts).encode(), operator.itemgetter(*positions)


class OpenMetricsLines(TextLines):
    """Series in OpenMetrics, as templates; counters and histograms also have their creation times."""

    @staticmethod
    def header(family: ExposedFamily) -> str:
        """Return the lines before a family."""
        name, help_ = _quoted_if_needed(family.name), _escaped_help(family).replace('"', '\\"')
        unit = f"# UNIT {name} {family.unit}\n" if family.unit and is_metric_name(family.unit) else ""
        return f"# HELP {name} {help_}\n# TYPE {name} {family.type.word}\n{unit}"

    @staticmethod
    def created_name(family: ExposedFamily) -> str:
        """Return the name of the samples with creation times; "" if there are none."""
        return f"{family.name}_created" if family.type.has_created else ""

    def _line(self, member: Member) -> str:
        line = super()._line(member)
        created, name = member.name.created, self.created_name(member.series.family)
        if not created or not name:
            return line
        moment = f"{created // 1_000_000_000}.{created % 1_000_000_000:09d}"
        return line + _sample_line(name, member.series.labels, moment)


class _Histogram:
    """The lines of one histogram series: cumulative buckets, sum and count."""

    __slots__ = ("_buckets", "_template")

    def __init__(self, series: ExposedSeries, name: Name) -> None:
        self._buckets = TextBuckets(name)
        lines = [_sample(series, "%d", "_bucket", limit) for limit in self._buckets.limits]
        lines += [_sample(series, "%a", "_sum"), _sample(series, "%d", "_count")]
        self._template = "".join(lines).encode()

    def lines(self, value: Distribution) -> bytes:
        counts, total = self._buckets.figures(value)
        return self._template % (*counts, total, counts[-1])


def sample_text(name: str, pairs: Labels) -> str:
    """Return the name and the labels of a sample."""
    labels = label_text(pairs)
    if not is_metric_name(name):
        labels = f"{quoted(name)},{labels}" if labels else quoted(name)
        name = ""
    return f"{name}{{{labels}}}" if labels else name


def _escaped_help(family: ExposedFamily) -> str:
    return family.help.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted_if_needed(name: str) -> str:
    return name if is_metric_name(name) else quoted(name)


def _sample(series: ExposedSeries, place: str, suffix: str = "", limit: str = "") -> str:
    """Return the line of a sample of a series, with a place for its value."""
    labels = (*series.labels, ("le", limit)) if limit else series.labels
    return _sample_line(f"{series.family.exposed_name}{suffix}", labels, place)


def _sample_line(name: str, pairs: Labels, place: str) -> str:
    return f"{sample_text(name, pairs)} ".replace("%", "%%") + f"{place}\n"


def _seconds(microseconds: int) -> bytes:
    """Return microseconds as seconds, exactly: the division works on the digits."""
    whole, fraction = divmod(abs(microseconds), 1_000_000)
    return b"%s%d.%06d" % (b"-" if microseconds < 0 else b"", whole, fraction)
