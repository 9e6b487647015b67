"""Checks of the arguments of the public calls, and their error messages.

The core checks the common cases itself and leaves the others to these functions: a subclass of ``int``, a number of
numpy, or a mistake. The rules for label names are Prometheus' (https://prometheus.io/docs/concepts/data_model/), minus
the names with a meaning in exported samples.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime

from .attachment.own_metrics import OWN
from .block.keys import MAX_TEXT_BYTES, check_text
from .bounds import (
    DEFAULT_BOUNDS,
    DEFAULT_BOUNDS_OF_UNIT,
    DEFAULT_ERROR,
    DEFAULT_RANGE,
    MAX_BOUNDS,
    TIME_RANGE,
    Bounds,
    bounds_of_error,
)
from .core import Series
from .hashing import blake2b
from .layout import INT64_MAX, INT64_MIN
from .series import INFO, STATE, TIME_UNITS, Declaration, Kind, Labels, Mode, is_label_name

#: Upper bounds, or ``"exponential"``.
Buckets = Sequence[int | float] | str

#: Label names that have a meaning in exported samples.
RESERVED_NAMES = ("category", "le", "metric", "pid", "quantile", "raw_labels")


_KINDS = {
    "counter": Kind.COUNTER,
    "gauge": Kind.GAUGE,
    "histogram": Kind.HISTOGRAM,
    INFO: Kind.GAUGE,
    STATE: Kind.GAUGE,
}
_MODES = {mode.name.lower(): mode for mode in Mode}
_MAX_HELP, _MAX_UNIT = 1000, 100

#: Characters in the labels of an exemplar: OpenMetrics' limit.
MAX_EXEMPLAR = 128

#: Categories that user code must not count into.
RESERVED = ("system", OWN)


def check_category(category: str) -> str:
    """Check the category of an operation.

    Raises:
        TypeError: it is not a str.
        ValueError: it is not allowed, or reserved.
    """
    category = check_text("category", category)
    if category in RESERVED:
        raise ValueError(f"category must not be {category!r}: {' and '.join(RESERVED)} are reserved")
    return category


def check_choice(
    category: str, metric: str | None, labels: Mapping[str, object] | None
) -> tuple[str, str | None, Labels | None]:
    """Check the arguments that select series: a category, one of its metrics, or one label set of a metric.

    Raises:
        TypeError: an argument is of the wrong type, or labels are given without a metric.
        ValueError: a name or label is not allowed, or the category is reserved.
    """
    category = check_category(category)
    if metric is None:
        if labels is not None:
            raise TypeError("labels need a metric: metric must not be None")
        return category, None, None
    return category, check_text("metric", metric), None if labels is None else check_labels(labels)


def check_no_names(labelnames: object) -> None:
    """Check that no label names were given with a value.

    Raises:
        TypeError: label names were given.
    """
    if labelnames is not None:
        raise TypeError("labelnames are only for handles: give labels with a value")


def check_handle(series: Series) -> None:
    """Check the name of a handle, because user code may have made it: a bad one would break every read.

    Raises:
        TypeError: a part of it is not a str.
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
        TypeError: it is not a datetime.
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


def check_label_names(what: str, names: object) -> tuple[str, ...]:
    """Check the label names of a metric.

    Args:
        what: the argument's name, for the error.
        names: an iterable of label names.

    Returns:
        The names, in the order given.

    Raises:
        TypeError: it is not an iterable of str.
        ValueError: it is empty, or has a name twice or one that is not allowed.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{what} must be a sequence of str, not {type(names).__name__} ({names!r:.80})")
    checked = tuple(_check_name(what, name) for name in names)
    if not checked:
        raise ValueError(f"{what} must have a label name")
    twice = next((name for name in checked if checked.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{what} has {twice!r} twice")
    return checked


def check_labels(labels: object) -> Labels:
    """Check a label set.

    Args:
        labels: a mapping of label name to label value; None for no labels.

    Returns:
        Its pairs, sorted by name; the values as `label_value` makes them.

    Raises:
        TypeError: it is not a mapping, or a name is not a str.
        ValueError: a name is not allowed.
    """
    return tuple(sorted(check_label_pairs(labels)))


def check_label_pairs(labels: object) -> Labels:
    """Check labels as `check_labels` does, but leave the pairs in the given order."""
    if labels is None:
        return ()
    if not isinstance(labels, Mapping):
        raise TypeError(
            f"labels must be a mapping of label name to value, not {type(labels).__name__} ({labels!r:.80})"
        )
    return tuple((_check_name("labels", name), label_value(value)) for name, value in labels.items())


def _check_name(what: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a label name in {what} must be a str, not {type(name).__name__} ({name!r:.80})")
    name = str.__str__(name)
    if not is_label_name(name) or name.startswith("__"):
        raise ValueError(
            f"label name {name!a:.80} in {what} must be of letters, digits and underscores, not begin with a digit"
            " or with two underscores"
        )
    if name in RESERVED_NAMES:
        raise ValueError(f"label name {name!r} in {what} is reserved, as are {', '.join(RESERVED_NAMES)}")
    if len(name) > MAX_TEXT_BYTES:
        raise ValueError(f"a label name in {what} must be at most {MAX_TEXT_BYTES} bytes: {name!r:.80}…")
    return name


def label_value(value: object) -> str:
    """Return a label value as it is counted: as text, because counting must not fail on a value that a client sent.

    NUL characters and lone surrogates become question marks; the end of a text of more than 255 bytes becomes a digest.
    """
    text = str.__str__(value) if isinstance(value, str) else _as_text(value)
    if len(text) <= MAX_TEXT_BYTES and text.isascii() and "\0" not in text:
        return text
    content = text.encode("utf-8", "replace").replace(b"\0", b"?")
    if len(content) > MAX_TEXT_BYTES:
        digest = blake2b(content, digest_size=8).hexdigest()
        start = content[: MAX_TEXT_BYTES - len(digest) - 3].decode(errors="ignore")
        content = f"{start}...{digest}".encode()
    return content.decode()


def _as_text(value: object) -> str:
    try:
        return str.__str__(str(value))
    except Exception:
        return f"<{type(value).__name__}>"


def make_declaration(
    kind: str,
    help_: str,
    unit: str,
    bounds: Bounds,
    mode: str | None,
    labelnames: tuple[str, ...] | None,
) -> Declaration:
    """Check the arguments of ``stats.declare`` and return the declaration.

    Args:
        kind: unchecked.
        help_: unchecked.
        unit: unchecked.
        bounds: of a histogram, from `make_bounds`.
        mode: unchecked.
        labelnames: checked.

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
    if mode is not None and kind != "gauge":
        raise ValueError(f"mode is a gauge's; a {kind} has none")
    if mode is not None and mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, not {mode!r:.80}")
    if not re.fullmatch("[a-zA-Z0-9_]*", _text("unit", unit, _MAX_UNIT)):
        raise ValueError(f"unit must have ASCII letters, digits and '_' only, as bytes_per_second, not {unit!r:.80}")
    if kind == INFO and (unit or labelnames is not None):
        raise ValueError("an info takes neither unit nor labelnames: its texts are its labels")
    if kind == STATE and unit:
        raise ValueError(f"a state has no unit, not {unit!r:.80}")
    if kind == STATE and labelnames is not None:
        labelnames = (*labelnames, STATE)
    return Declaration(
        kind=_KINDS[kind],
        help=_text("help", help_, _MAX_HELP),
        unit=unit,
        bounds=bounds,
        mode=_MODES[mode or "last"],
        labelnames=None if labelnames is None else tuple(sorted(labelnames)),
        shown=kind if kind in (INFO, STATE) else "",
    )


def check_exemplar(exemplar: object) -> Labels:
    """Check the labels of an exemplar.

    Raises:
        TypeError: they are not a mapping, or a name is not a str.
        ValueError: a name is not allowed, or names and values together are too long.
    """
    if not isinstance(exemplar, Mapping):
        raise TypeError(f"exemplar must be a mapping of label name to value, not {exemplar!r:.80}")
    labels = check_labels(exemplar)
    length = sum(len(name) + len(value) for name, value in labels)
    if length > MAX_EXEMPLAR:
        raise ValueError(f"exemplar must have at most {MAX_EXEMPLAR} characters in names and values, not {length}")
    return labels


def check_states(states: object) -> tuple[str, ...]:
    """Check the states of a metric.

    Raises:
        TypeError: they are not an iterable of str.
        ValueError: there are none, or one is there twice or not allowed.
    """
    if isinstance(states, str) or not isinstance(states, Iterable):
        raise TypeError(f'states must be a sequence of str for kind="state", not {states!r:.80}')
    checked = tuple(check_text("a state", state) for state in states)
    if not checked or len(set(checked)) < len(checked):
        raise ValueError(f"states must be at least one text, and no text twice, not {checked!r:.200}")
    return checked


def make_bounds(
    kind: str, unit: str, buckets: object, error: object = None, range_: tuple[object, object] | None = None
) -> Bounds:
    """Check the arguments about buckets and return a histogram's bounds; an empty tuple for other kinds.

    Args:
        kind: as given.
        unit: as given.
        buckets: upper bounds; ``"exponential"``; None for the default.
        error: of exponential bounds; None for the default.
        range_: of exponential bounds, in the unit of observations; None for the default.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed.
    """
    if kind != "histogram":
        if any(each is not None for each in (buckets, error, range_)):
            raise ValueError(f"buckets, error and range are a histogram's; a {kind} has none")
        return ()
    if isinstance(buckets, str) and buckets == "exponential":
        return _exponential(unit, DEFAULT_ERROR if error is None else error, range_)
    if error is not None or range_ is not None:
        raise ValueError(
            'error and range are for exponential buckets only: pass buckets="exponential", or leave them out'
        )
    if buckets is None:
        return DEFAULT_BOUNDS if unit in TIME_UNITS else DEFAULT_BOUNDS_OF_UNIT
    return check_buckets(buckets)


def _exponential(unit: str, error: object, range_: object) -> Bounds:
    is_time = unit in TIME_UNITS
    if range_ is None:
        range_ = TIME_RANGE if is_time else DEFAULT_RANGE
    ends = tuple(range_) if isinstance(range_, Iterable) and not isinstance(range_, (str, bytes, Mapping, Set)) else ()
    if len(ends) != 2:
        raise TypeError(f"range must be two numbers, the smallest and the largest value, not {range_!r:.80}")
    low, high = (_finite("an end of range", end) for end in ends)
    return bounds_of_error(_finite("error", error), low, high, 1000 if is_time else 1)


def _finite(what: str, number: object) -> float:
    """Check a finite number, however large an integer it is."""
    return float(check_number(what, _bound(what, number) if isinstance(number, int) else number))


def check_buckets(buckets: object) -> tuple[float, ...]:
    """Check the upper bounds of a histogram's buckets; an infinite last bound is left out.

    Raises:
        TypeError: they are not an iterable of numbers.
        ValueError: there are none or too many, or one is not finite or not above the previous one.
    """
    if isinstance(buckets, (str, bytes)) or not isinstance(buckets, Iterable):
        raise TypeError(
            f'buckets must be a sequence of numbers or "exponential", not {type(buckets).__name__} ({buckets!r:.80})'
        )
    bounds = tuple(_bound("an upper bound in buckets", bound) for bound in buckets)
    if len(bounds) > 1 and math.isinf(bounds[-1]):
        bounds = bounds[:-1]  # there is always a bucket for values above all bounds
    if not 1 <= len(bounds) <= MAX_BOUNDS:
        raise ValueError(f"buckets must have 1 to {MAX_BOUNDS} upper bounds, not {len(bounds)}")
    for bound in bounds:
        if not math.isfinite(bound):
            raise ValueError(f"an upper bound in buckets must be finite, not {bound}")
    for lower, upper in itertools.pairwise(bounds):
        if lower >= upper:
            raise ValueError(f"buckets must be in ascending order, but {lower} stands before {upper}")
    return bounds


def _bound(what: str, bound: object) -> float:
    if isinstance(bound, bool) or not isinstance(bound, (int, float)):
        raise TypeError(f"{what} must be a number, not {type(bound).__name__} ({bound!r:.80})")
    try:
        return float(bound)
    except OverflowError:
        raise ValueError(f"{what} must fit a float, not an integer of {int(bound).bit_length()} bits") from None


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
