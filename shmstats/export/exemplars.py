"""Exemplars on an OpenMetrics page: after the samples that they belong to.

The page is made without them, because they are few and change often; then the lines of their samples are searched.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator

from shmstats.export.naming import ExposedSeries, Type
from shmstats.series import Exemplar, Kind, Labels, Name, label_text

#: Of a histogram in a format: the divisor of its values, and the number of each limit's bucket.
_Limits = Callable[[Name], tuple[int, dict[str, int]]]


def with_exemplars(
    page: bytes,
    noted: Iterable[tuple[Name, tuple[Exemplar, ...]]],
    series_of: Callable[[Name], ExposedSeries | None],
    sample_text: Callable[[str, Labels], str],
    limits: _Limits,
) -> bytes:
    """Return a page with exemplars.

    Args:
        page: in OpenMetrics.
        noted: the series that have exemplars, with them.
        series_of: returns the name of a series on the page; None if it is not there.
        sample_text: returns the name and the labels of a sample.
        limits: of a histogram.
    """
    found: dict[bytes, bytes] = {}
    for name, exemplars in noted:
        series = series_of(name)
        if series is None or series.family.type not in (Type.COUNTER, Type.HISTOGRAM):
            continue  # OpenMetrics allows none for a gauge, such as a counter that was decremented
        for suffix, labels, exemplar, value in placed(name, exemplars, limits):
            sample = sample_text(series.family.exposed_name + suffix, (*series.labels, *labels))
            found[sample.encode()] = f" # {{{label_text(exemplar.labels)}}} {value!r} {exemplar.moment!r}".encode()
    lines = page.split(b"\n")
    for i, line in enumerate(lines):
        exemplar_text = found.get(line.rpartition(b" ")[0])
        if exemplar_text is not None:
            lines[i] = line + exemplar_text
    return b"\n".join(lines)


def placed(
    name: Name, exemplars: tuple[Exemplar, ...], limits: _Limits
) -> Iterator[tuple[str, Labels, Exemplar, float]]:
    """Give the sample of each exemplar, as suffix and further labels, and its exported value.

    If several belong to one sample, the last one counts.
    """
    if name.kind is not Kind.HISTOGRAM:
        yield from (("", (), exemplar, exemplar.value) for exemplar in exemplars)
        return
    divisor, numbers = limits(name)
    for exemplar in exemplars:
        bucket = bisect.bisect_left(name.bounds, exemplar.value)
        limit = next(limit for limit, number in numbers.items() if number >= bucket)
        yield "_bucket", (("le", limit),), exemplar, exemplar.value / divisor
