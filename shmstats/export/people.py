"""Numbers for people, in a table and in a terminal."""

from __future__ import annotations

#: Floats from here on are not exact to 1, and may be infinite.
_ALL_DIGITS = 1e15

#: Seconds of a day, and of the number of days from which on hours are left out.
_DAY = 86400
_LONG = 100_000 * _DAY


def number(value: float | None) -> str:
    """Return a number with three digits, or from 1000 on with all digits before the point that a float has."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    is_whole = value % 1 == 0
    return f"{value:,.0f}" if abs(value) < _ALL_DIGITS and (is_whole or abs(value) >= 1000) else f"{value:.3g}"


def share(value: float) -> str:
    """Return a share of 1 in per cent."""
    return f"{value * 100:.2g} %" if value < 0.1 else f"{value * 100:.0f} %"


def size(value: float) -> str:
    """Return bytes in a suitable unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.3g} {unit}" if abs(value) < 1000 else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def duration(seconds: float | None) -> str:
    """Return a duration in suitable units."""
    if seconds is None:
        return "-"
    if not abs(seconds) < _LONG:
        return f"{seconds / _DAY:.3g} d"
    if 0 < abs(seconds) < 0.001:
        return f"{seconds * 1e6:.3g} µs"
    if abs(seconds) < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def milliseconds(value: float | None) -> str:
    """Return a duration that is given in ms."""
    return "-" if value is None else duration(value / 1000)
