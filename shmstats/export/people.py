"""Numbers as people read them, in a table and in a terminal."""

from __future__ import annotations


def number(value: float | None) -> str:
    """Return a number with three digits or, above 1000, all before the point."""
    if value is None:
        return "-"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def share(value: float) -> str:
    """Return a share of 1 in per cent."""
    return f"{value * 100:.2g} %" if value < 0.1 else f"{value * 100:.0f} %"


def size(value: float) -> str:
    """Return bytes in a unit that suits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def duration(seconds: float | None) -> str:
    """Return a time in units that suit."""
    if seconds is None:
        return "-"
    if 0 < seconds < 0.001:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def milliseconds(value: float | None) -> str:
    """Return a time that is given in ms."""
    return "-" if value is None else duration(value / 1000)
