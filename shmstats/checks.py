"""What the arguments of the operations must be, and what is said of those that are not.

The core checks what is plain at once; what it cannot take comes here: a subclass of ``int``, a number of numpy,
or a mistake.
"""

from __future__ import annotations

import math
import operator
from datetime import datetime

from .attachment.slow_path import OWN
from .block.names import check_text
from .core import Series
from .handles import check_labels
from .layout import INT64_MAX, INT64_MIN

#: Categories that user code cannot count into.
RESERVED = ("system", OWN)


def check_category(category: str) -> str:
    """Check a category that is to be counted into.

    Raises:
        TypeError: it is no str.
        ValueError: it is not allowed, or reserved.
    """
    category = check_text("category", category)
    if category in RESERVED:
        raise ValueError(f"category must not be {category!r}: {' and '.join(RESERVED)} are reserved")
    return category


def check_no_names(labelnames: object) -> None:
    """Check that no label names are given with a value.

    Raises:
        TypeError: there are some.
    """
    if labelnames is not None:
        raise TypeError("labelnames are for a handle; with a value give labels")


def check_handle(series: Series) -> None:
    """Check the name of a handle, which may have been made by hand: a bad one would spoil every reading.

    Raises:
        TypeError: a part of it is no str.
        ValueError: a part of it is not allowed.
    """
    check_category(series.category)
    check_text("metric", series.metric)
    if series.labels and tuple(check_labels(dict(series.labels))) != series.labels:
        raise ValueError(f"labels must be sorted pairs, not {series.labels!r:.80}")


def check_integer(what: str, value: object) -> int:
    """Check a signed 64-bit integer.

    Raises:
        TypeError: it is not an integer.
        OverflowError: it does not fit 64 bits.
    """
    if type(value) is int and INT64_MIN <= value <= INT64_MAX:
        return value
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} must be an integer, not {type(value).__name__} ({value!r:.80})") from None
    if not INT64_MIN <= number <= INT64_MAX:
        found = str(number) if number.bit_length() <= 256 else f"an integer of {number.bit_length()} bits"
        raise OverflowError(f"{what} must fit 64 bits ({INT64_MIN} to {INT64_MAX}), not {found}")
    return number


def check_duration(what: str, value: object) -> float:
    """Check a duration: a finite number, not negative.

    Raises:
        TypeError: it is not a real number.
        ValueError: it is NaN, infinite or negative.
        OverflowError: it is an integer that does not fit 64 bits.
    """
    number = check_number(what, value)
    if number < 0:
        raise ValueError(f"{what} must not be negative, not {number}")
    return float(number)


def check_moment(what: str, value: object) -> datetime:
    """Check a datetime that is aware of its time zone.

    Raises:
        TypeError: it is no datetime.
        ValueError: it has no time zone.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{what} must be a datetime, not {type(value).__name__} ({value!r:.80})")
    if value.utcoffset() is None:
        raise ValueError(f"{what} must have a time zone (datetime.now(UTC) has one), not {value!r}")
    return value


def check_number(what: str, value: object) -> int | float:
    """Check a signed 64-bit integer or a finite float.

    Raises:
        TypeError: it is neither an integer nor a real number.
        ValueError: it is NaN or infinite.
        OverflowError: it is an integer that does not fit 64 bits.
    """
    if hasattr(value, "__index__"):
        return check_integer(what, value)
    if not hasattr(value, "__float__"):
        raise TypeError(f"{what} must be a number, not {type(value).__name__} ({value!r:.80})")
    try:
        number = float(value)
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{what} must be a number that a float can hold: {error}") from None
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite, not {number}")
    return number
