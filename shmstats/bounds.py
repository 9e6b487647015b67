"""Bounds of a histogram's buckets: an explicit list, or exponential bounds computed from an error and a range.

Bucket ``i`` counts values above bound ``i - 1`` up to and including bound ``i``; the last one values above all bounds.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

#: Schemas that Prometheus' native histograms have, from bounds at powers of 2 to bounds at powers of 2^(1/256).
SCHEMAS = range(9)

#: The greatest distance of the ends of a range, in doublings, and the most buckets of a histogram.
MAX_OCTAVES = 64
MAX_BUCKETS = 8192

#: The lowest and highest power of two that a bound of full precision can be.
_LOWEST, _HIGHEST = -1022, 1023

#: Fraction bits of a root: more than a float has, so that the nearest float is found.
_ROOT_BITS = 100

_MANTISSA_BITS = 52
_MANTISSA = 2**_MANTISSA_BITS - 1

#: What a core needs to find the bucket of a value: the number of bounds, the schema, the number of bucket 0 if buckets
#: are counted from the smallest float on, then a mantissa and a number for each slot of an octave. With schema -1 the
#: bounds themselves follow.
_SCALE_HEAD = struct.Struct("<qqq")
_SLOT = struct.Struct("<qq")
_EXPLICIT = -1


class Exponential(tuple[float, ...]):
    """Bounds at ``factor`` times the powers of 2^(2^-schema), over whole octaves. Made by `exponential`.

    Attributes:
        schema: 0 to 8: there are 2^schema buckets in an octave.
        first: the lowest bound is ``factor`` times this power of two. Values up to it are in the *zero bucket*.
        octaves: number of octaves from the lowest bound to the highest.
        factor: 1000 for times, which are kept in ms and shown in seconds; else 1.
    """

    schema: int
    first: int
    octaves: int
    factor: int

    @property
    def error(self) -> float:
        """The largest relative error of a percentile within the range, rounded up."""
        return math.ceil(_error(self.schema) * 1e4) / 1e4

    @property
    def description(self) -> str:
        """The bounds as text for people."""
        return f"exponential, error {self.error:g}, from {self[0]:g} to {self[-1]:g}"

    def __reduce__(self) -> tuple[Any, ...]:
        return exponential, (self.schema, self.first, self.octaves, self.factor)


def middle_of(lower: Any, upper: Any) -> Any:
    """Return the value with the same relative distance from both bounds, 2lu / (l + u), without overflow.

    Args:
        lower: above 0; a number or an array of numpy.
        upper: likewise.
    """
    return lower / (0.5 + 0.5 * (lower / upper))


#: Upper bounds of a histogram's buckets, ascending, without infinity.
Bounds = tuple[float, ...] | Exponential


@functools.lru_cache(maxsize=256)
def exponential(schema: int, first: int, octaves: int, factor: int) -> Exponential:
    """Return exponential bounds, the same object for the same arguments.

    Raises:
        ValueError: such bounds are not possible.
    """
    if not (
        schema in SCHEMAS
        and factor in (1, 1000)
        and 1 <= octaves <= MAX_OCTAVES + 1  # one more, because the ends of a range need not be bounds
        and octaves << schema <= MAX_BUCKETS
        and first >= _LOWEST
        and first + octaves + factor.bit_length() <= _HIGHEST
    ):
        raise ValueError(f"there are no bounds of schema {schema}, from 2^{first} over {octaves} octaves, by {factor}")
    roots = [float(factor * _root(schema, step)) for step in range(1 << schema)]
    powers = range(first - _ROOT_BITS, first + octaves - _ROOT_BITS)
    limits = [math.ldexp(root, power) for power in powers for root in roots]
    bounds = Exponential((*limits, math.ldexp(factor, first + octaves)))
    bounds.schema, bounds.first, bounds.octaves, bounds.factor = schema, first, octaves, factor
    return bounds


def _root(schema: int, step: int) -> int:
    """Return 2^(step * 2^-schema) as a fixed-point integer with `_ROOT_BITS` fraction bits, rounded down."""
    root = 1 << step + (_ROOT_BITS << schema)
    for _ in range(schema):
        root = math.isqrt(root)
    return root


def _error(schema: int) -> float:
    """Return the relative error of `middle_of` between two neighbouring bounds."""
    base: float = 2.0 ** (2.0**-schema)
    return (base - 1) / (base + 1)


def bounds_of_error(error: float, low: float, high: float, factor: int = 1) -> Exponential:
    """Return the coarsest exponential bounds that keep percentiles within an error over a range.

    Args:
        error: the largest error relative to the exact percentile, more than 0 and at most 1.
        low: the lower end of the range, more than 0, in the unit of observations.
        high: the upper end of the range.
        factor: as in `Exponential`.

    Raises:
        ValueError: the error is too small for the range, or the range is invalid. The message says what is
            allowed.
    """
    if not 0 < error <= 1:
        raise ValueError(f"error must be more than 0 and at most 1 (0.05 is 5 %), not {error}")
    finest = _error(SCHEMAS[-1])
    if error < finest:
        raise ValueError(
            f"error must be at least {finest:.4f}, the finest that Prometheus' histograms have, not {error}"
        )
    lowest, highest = (math.ldexp(factor, power) for power in (_LOWEST, _HIGHEST - factor.bit_length()))
    if not low < high:
        raise ValueError(f"range must be ascending, the smallest value and then the largest, not {(low, high)}")
    if not lowest < low < high <= highest:
        raise ValueError(f"range must be from more than {lowest:.3g} to at most {highest:.3g}, not {(low, high)}")
    schema = next(schema for schema in SCHEMAS if _error(schema) <= error)
    first, last = _power_below(low, factor), _power_below(high, factor) + 1
    if high > low * 2.0**MAX_OCTAVES:
        found = math.log2(high) - math.log2(low)
        raise ValueError(
            f"range must be of at most {MAX_OCTAVES} octaves (doublings), not {found:.0f}: {(low, high)}; what is"
            " outside of it is counted all the same"
        )
    if last - first << schema > MAX_BUCKETS:
        raise ValueError(
            f"an error of {error} over {last - first} octaves takes {last - first << schema} buckets; there may be"
            f" {MAX_BUCKETS}: give a larger error or a smaller range"
        )
    return exponential(schema, first, last - first, factor)


def _power_below(value: float, factor: int) -> int:
    """Return the largest power of two whose product with the factor is less than a value."""
    power = math.frexp(value / factor)[1]
    while math.ldexp(factor, power) >= value:
        power -= 1
    return power


#: Most bounds of an explicit list.
MAX_BOUNDS = 250

#: Defaults of exponential bounds: the error, and the ranges for times in ms and for other values.
DEFAULT_ERROR = 0.05
TIME_RANGE = 0.1, 60_000.0
DEFAULT_RANGE = 1.0, 2.0**30

#: The default bounds of a histogram of times, and of one of other values.
DEFAULT_BOUNDS = bounds_of_error(DEFAULT_ERROR, *TIME_RANGE, 1000)
DEFAULT_BOUNDS_OF_UNIT = bounds_of_error(DEFAULT_ERROR, *DEFAULT_RANGE)

#: The default bounds before version 3 of saved snapshots.
FORMER_DEFAULT_BOUNDS = (
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
    *(1000.0, 2500.0, 5000.0, 10000.0, 25000.0, 50000.0, 60000.0),
)


def to_json(bounds: Bounds) -> list[float] | dict[str, int]:
    """Return bounds as JSON: a list, or the parameters of exponential bounds."""
    if isinstance(bounds, Exponential):
        return {"schema": bounds.schema, "first": bounds.first, "octaves": bounds.octaves, "factor": bounds.factor}
    return list(bounds)


def from_json(found: Any) -> Bounds:
    """Return the bounds in a value from JSON.

    Raises:
        TypeError: the value has the wrong form.
        ValueError: the bounds are not allowed.
    """
    if isinstance(found, dict):
        parts = [found.get(part) for part in ("schema", "first", "octaves", "factor")]
        if any(type(part) is not int for part in parts):
            raise ValueError(f"exponential bounds must have four integers, not {found!r:.80}")
        return exponential(*parts)
    bounds = tuple(map(float, found))
    if len(bounds) > MAX_BOUNDS or not all(map(math.isfinite, bounds)):
        raise ValueError(f"bounds must be at most {MAX_BOUNDS} finite numbers: {bounds!r:.80}")
    if any(lower >= upper for lower, upper in itertools.pairwise(bounds)):
        raise ValueError(f"bounds must be ascending: {bounds!r:.80}")
    return bounds


def rebucketed(buckets: Sequence[int], bounds: Bounds, wanted: Bounds) -> tuple[int, ...]:
    """Return counts of buckets moved into other buckets by their upper bounds; the unbounded one goes into the last.

    Raises:
        ValueError: the number of buckets is not one more than the number of bounds.
    """
    if len(buckets) != len(bounds) + 1:
        raise ValueError(f"a histogram of {len(bounds)} bounds has {len(buckets)} buckets")
    if bounds == wanted:
        return tuple(buckets)
    found = [0] * (len(wanted) + 1)
    for bound, count in zip((*bounds, math.inf), buckets, strict=True):
        found[bisect.bisect_left(wanted, bound)] += count
    return tuple(found)


def stay_exact(buckets: Sequence[int], bounds: Bounds, wanted: Bounds) -> bool:
    """Tell whether `rebucketed` moves every observation into the bucket where it would have been counted.

    That is so if each bucket that is not empty lies within one of the new buckets.
    """
    limits = zip((-math.inf, *bounds), (*bounds, math.inf), buckets, strict=True)
    return all(
        bisect.bisect_right(wanted, lower) == bisect.bisect_left(wanted, upper)
        for lower, upper, count in limits
        if count
    )


def buckets_of(values: Iterable[float], bounds: Bounds) -> tuple[int, ...]:
    """Return the buckets of some observations."""
    found = [0] * (len(bounds) + 1)
    for value in values:
        found[bisect.bisect_left(bounds, value)] += 1
    return tuple(found)


def shown_in_text(bounds: Bounds) -> range:
    """Return the numbers of the bounds that text formats show: only powers of two of exponential bounds."""
    step = 1 << bounds.schema if isinstance(bounds, Exponential) else 1
    return range(0, len(bounds), step)


def scale_of(bounds: Sequence[float]) -> bytes:
    """Return the bytes by which a core finds buckets (`_SCALE_HEAD`).

    For exponential bounds that is a table. Every octave of floats, from one power of two to the next, has bounds at the
    same mantissas, so the exponent and the mantissa of a value lead to its bucket. An octave is divided into twice as
    many slots as it has bounds: a slot then contains at most one bound, and one comparison decides.
    """
    if isinstance(bounds, Exponential):
        return _exponential_scale(bounds)
    return _SCALE_HEAD.pack(len(bounds), _EXPLICIT, 0) + struct.pack(f"<{len(bounds)}d", *bounds)


@functools.lru_cache(maxsize=256)
def _exponential_scale(bounds: Exponential) -> bytes:
    octave = sorted(_bits(bound) & _MANTISSA for bound in bounds[: 1 << bounds.schema])
    shift = _MANTISSA_BITS - bounds.schema - 1
    table = []
    for slot in range(1 << bounds.schema + 1):
        start, end = slot << shift, slot + 1 << shift
        limit = next((mantissa for mantissa in octave if start < mantissa < end), _MANTISSA + 1)
        table.append(_SLOT.pack(limit, sum(mantissa <= start for mantissa in octave)))
    lowest = _bits(bounds[0])
    before = (lowest >> _MANTISSA_BITS << bounds.schema) + sum(each <= lowest & _MANTISSA for each in octave)
    return _SCALE_HEAD.pack(len(bounds), bounds.schema, before - 1) + b"".join(table)


def _bits(value: float) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    return int(bits)
