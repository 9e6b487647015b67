"""Exemplars in the block: stored in the note of a series, as JSON; the newest one of each octave of values."""

from __future__ import annotations

import json
import math

from .series import Exemplar

#: Most exemplars of a series.
MOST = 8

_KEY = "exemplars"


def add_exemplar(exemplar: Exemplar, note: bytes) -> bytes:
    """Return the note of a series with one more exemplar, which replaces one of about the same value."""
    octave = math.frexp(exemplar.value)[1]
    others = [each for each in read_exemplars(note) if math.frexp(each.value)[1] != octave]
    return json.dumps({_KEY: [*others, exemplar][-MOST:]}, separators=(",", ":")).encode()


def read_exemplars(note: bytes) -> tuple[Exemplar, ...]:
    """Return the exemplars in a note, the newest last; empty if it has none."""
    try:
        said = json.loads(note)
        if not isinstance(said, dict):
            return ()
        return tuple(
            Exemplar(tuple((str(name), str(text)) for name, text in labels), value, float(moment))
            for labels, value, moment in said.get(_KEY, ())
            if math.isfinite(value) and math.isfinite(moment)
        )
    except (ValueError, TypeError, OverflowError):
        return ()
