"""Chooses a format by a request's Accept header (RFC 9110, 12.5.1), as Prometheus and its relatives write it."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from shmstats.export.escaping import ESCAPINGS
from shmstats.export.formats import DEFAULT, FORMATS, Format
from shmstats.frozen import NamedTuple


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
        if form is FORMATS[DEFAULT]:
            return {"*/*": 1, "text/*": 2}.get(self.media_type, 0)
        return 0


@functools.lru_cache(maxsize=64)  # a scraper sends the same header every time
def negotiate(accept: str | None) -> tuple[Format, str | None]:
    """Choose the preferred format, and the spelling of names that was requested with it; None for none.

    Between equals the format with more information wins.

    Formats other than the default need an explicit request, with a version that the answer conforms to. All other
    requests get the default, even those that accept nothing.
    """
    ranges = list(_ranges(accept or ""))
    best: tuple[float, int] = (0.0, -1)
    choice: tuple[Format, str | None] = FORMATS[DEFAULT], None
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
