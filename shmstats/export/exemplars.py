"""Exemplars on an OpenMetrics page: behind the samples that they are examples of.

The page is made without them, for they are few and change often; then the lines of their samples are looked for.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator

from shmstats.export.naming import Namer, Type
from shmstats.export.view import View
from shmstats.series import Exemplar, Kind, Labels, Name, Snapshot, label_text

#: What `Lines` of a format say of a histogram: what its values are divided by, and the number of each limit's bucket.
_Limits = Callable[[Name], tuple[int, dict[str, int]]]


def with_exemplars(
    page: bytes,
    snapshot: Snapshot,
    view: View,
    escaping: str,
    sample_text: Callable[[str, Labels], str],
    limits: _Limits,
) -> bytes:
    """Return a page with the exemplars of a snapshot.

    Args:
        page: in OpenMetrics.
        snapshot: that it was made of.
        view: that it was made for.
        escaping: of its names.
        sample_text: returns the name and the labels of a sample.
        limits: of a histogram.
    """
    namer = Namer(snapshot.system, escaping, view.namespace, view.labels)
    found: dict[bytes, bytes] = {}
    for name, exemplars in snapshot.exemplars:
        series = namer.add(name)
        if series.family.type not in (Type.COUNTER, Type.HISTOGRAM):
            continue  # OpenMetrics has none of a gauge, as a counter is that was decremented
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
    """Give the sample of each exemplar, as suffix and further labels, and its value as it is shown.

    Of several of one sample the last one holds.
    """
    if name.kind is not Kind.HISTOGRAM:
        yield from (("", (), exemplar, exemplar.value) for exemplar in exemplars)
        return
    divisor, numbers = limits(name)
    for exemplar in exemplars:
        bucket = bisect.bisect_left(name.bounds, exemplar.value)
        limit = next(limit for limit, number in numbers.items() if number >= bucket)
        yield "_bucket", (("le", limit),), exemplar, exemplar.value / divisor
