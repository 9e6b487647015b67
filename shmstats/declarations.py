"""Declarations as users write them: checked, and made what the block keeps."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from .block.names import DEFAULT_BOUNDS, MAX_BOUNDS
from .series import Declaration, Kind, Mode

Buckets = Sequence[int | float]

_KINDS = {"counter": Kind.COUNTER, "gauge": Kind.GAUGE, "histogram": Kind.HISTOGRAM}
_MODES = {mode.name.lower(): mode for mode in Mode}
_MAX_HELP, _MAX_UNIT = 1000, 100


def make_declaration(
    kind: str,
    help_: str,
    unit: str,
    buckets: Buckets | None,
    mode: str | None,
    labelnames: tuple[str, ...] | None,
) -> Declaration:
    """Check the arguments of ``stats.declare`` and return what they declare.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed.
    """
    if not isinstance(kind, str):
        raise TypeError(f"kind must be a str, not {type(kind).__name__} ({kind!r:.80})")
    if mode is not None and not isinstance(mode, str):
        raise TypeError(f"mode must be a str or None, not {type(mode).__name__} ({mode!r:.80})")
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, not {kind!r:.80}")
    if buckets is not None and kind != "histogram":
        raise ValueError(f"buckets are a histogram's; a {kind} has none")
    if mode is not None and kind != "gauge":
        raise ValueError(f"mode is a gauge's; a {kind} has none")
    if mode is not None and mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, not {mode!r:.80}")
    if not re.fullmatch("[a-zA-Z0-9_]*", _text("unit", unit, _MAX_UNIT)):
        raise ValueError(f"unit must have ASCII letters, digits and '_' only, as bytes_per_second, not {unit!r:.80}")
    bounds = () if kind != "histogram" else DEFAULT_BOUNDS if buckets is None else check_buckets(buckets)
    return Declaration(
        kind=_KINDS[kind],
        help=_text("help", help_, _MAX_HELP),
        unit=unit,
        bounds=bounds,
        mode=_MODES[mode or "last"],
        labelnames=None if labelnames is None else tuple(sorted(labelnames)),
    )


def check_buckets(buckets: object) -> tuple[float, ...]:
    """Check the upper bounds of a histogram's buckets; an infinite one at the end is left out.

    Raises:
        TypeError: it is no iterable of numbers.
        ValueError: there are none or too many, or one is not finite or not above the one before.
    """
    if isinstance(buckets, str) or not isinstance(buckets, Iterable):
        raise TypeError(f"buckets must be a sequence of numbers, not {type(buckets).__name__} ({buckets!r:.80})")
    bounds = tuple(_bound(bound) for bound in buckets)
    if len(bounds) > 1 and math.isinf(bounds[-1]):
        bounds = bounds[:-1]  # there is always a bucket for what lies above all bounds
    if not 1 <= len(bounds) <= MAX_BOUNDS:
        raise ValueError(f"buckets must have 1 to {MAX_BOUNDS} upper bounds, not {len(bounds)}")
    for bound in bounds:
        if not math.isfinite(bound):
            raise ValueError(f"an upper bound in buckets must be finite, not {bound}")
    for lower, upper in itertools.pairwise(bounds):
        if lower >= upper:
            raise ValueError(f"buckets must be in ascending order, but {lower} stands before {upper}")
    return bounds


def _bound(bound: object) -> float:
    if isinstance(bound, bool) or not isinstance(bound, (int, float)):
        raise TypeError(f"an upper bound in buckets must be a number, not {type(bound).__name__} ({bound!r:.80})")
    try:
        return float(bound)
    except OverflowError:
        raise ValueError(f"an upper bound in buckets must fit a float, not {bound!r:.40}…") from None


def _text(what: str, text: object, most: int) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__} ({text!r:.80})")
    if len(text) > most:
        raise ValueError(f"{what} must be at most {most} characters, not {len(text)}: {text!r:.80}…")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} must not contain a lone surrogate: {text!a:.80}") from None
    return text
