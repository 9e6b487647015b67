"""The lines of Prometheus text 0.0.4 and 1.0.0, and of OpenMetrics 1.0.0. Sources:

https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shmstats.export.escaping import is_metric_name
from shmstats.export.naming import ExposedFamily, ExposedSeries, Type, without_state
from shmstats.export.page import Member, PagePart, TextBuckets, is_chosen
from shmstats.series import Kind, Labels, label_text, quoted

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1_TYPE = "text/plain; version=1.0.0; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class TextLines:
    """Series in the text format, complete except for their values.

    Attributes:
        part: the series.
    """

    def __init__(self, part: PagePart) -> None:
        self.part = part
        self._families: list[tuple[ExposedFamily, bytes, list[_SeriesLines]]] = []
        for family, members in part.families().items():
            if family.type is Type.STATESET:  # OpenMetrics requires the states of one thing together
                members.sort(key=lambda member: without_state(member.series))
            series = [_SeriesLines(member, self._created_line(member)) for member in members]
            self._families.append((family, self.header(family).encode(), series))

    def fill(self, values: Sequence[Any], chosen: frozenset[str] = frozenset()) -> bytes:
        """Return the text with the values, of all families or of the chosen ones."""
        pieces: list[bytes] = []
        for family, header, series in self._families:
            if not chosen or is_chosen(family, chosen):
                pieces.append(header)
                pieces += [each.filled(values[each.position]) for each in series]
        return b"".join(pieces)

    @staticmethod
    def header(family: ExposedFamily) -> str:
        """Return the lines before a family."""
        name, help_ = _quoted_if_needed(family.exposed_name), _escaped_help(family)
        return f"# HELP {name} {help_}\n# TYPE {name} {family.type.text_word}\n"

    @staticmethod
    def created_name(family: ExposedFamily) -> str:
        """Return the name of the samples with creation times; "" if there are none."""
        return ""

    def _created_line(self, member: Member) -> str:
        created, name = member.name.created, self.created_name(member.series.family)
        if not created or not name:
            return ""
        return _sample_line(name, member.series.labels, f"{created // 1_000_000_000}.{created % 1_000_000_000:09d}")


class OpenMetricsLines(TextLines):
    """Series in OpenMetrics; counters and histograms also have their creation times."""

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


class _SeriesLines:
    """The lines of one series as a template: its sample, or cumulative buckets, sum and count of a histogram.

    Attributes:
        position: of its value.
    """

    __slots__ = ("_buckets", "_is_moment", "_template", "position")

    def __init__(self, member: Member, created_line: str) -> None:
        self.position, series, name = member
        self._is_moment = name.kind is Kind.TIMESTAMP
        self._buckets = TextBuckets(name) if name.kind is Kind.HISTOGRAM else None
        if self._buckets is None:
            lines = [_sample(series, "%b" if self._is_moment else "%a")]
        else:
            lines = [_sample(series, "%d", "_bucket", limit) for limit in self._buckets.limits]
            lines += [_sample(series, "%a", "_sum"), _sample(series, "%d", "_count")]
        self._template = "".join([*lines, created_line]).encode()

    def filled(self, value: Any) -> bytes:
        """Return the lines with a value."""
        if self._buckets is None:
            return self._template % (_seconds(value) if self._is_moment else value)
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
