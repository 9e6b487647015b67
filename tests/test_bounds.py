"""Exponential bounds, and the index by bits that finds the bucket of a value, in both cores."""

from __future__ import annotations

import bisect
import math
import random
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SMALLEST, NORMAL = 5e-324, 2.0**-1022


def values_around(bounds: tuple[float, ...]) -> Iterator[float]:
    """Every bound and the floats beside it, every power of two and those beside it, subnormals, zeros."""
    for value in (*bounds, *(2.0**power for power in range(-1074, 1024, 3)), NORMAL):
        yield from (math.nextafter(value, 0), value, min(math.nextafter(value, math.inf), 1.7e308))
    yield from (0.0, -0.0, SMALLEST, 3 * SMALLEST, NORMAL - SMALLEST, 1.7976931348623157e308)
    chance = random.Random(1)
    yield from (chance.lognormvariate(0, 20) for _ in range(500))


@pytest.mark.parametrize(
    ("schema", "first", "octaves", "factor"),
    [(0, -14, 20, 1000), (3, -14, 20, 1000), (3, -1, 31, 1), (5, 20, 4, 1), (8, -3, 2, 1000), (2, -1022, 3, 1)],
)
def test_the_index_by_bits_equals_a_search_over_all_bounds(
    stats: Any, shmstats: ModuleType, schema: int, first: int, octaves: int, factor: int
) -> None:
    bounds = shmstats.bounds.exponential(schema, first, octaves, factor)
    kind = shmstats.series.Kind.HISTOGRAM
    stats.shared.declare("c", "h", shmstats.series.Declaration(kind, unit="x", bounds=bounds))
    observe = stats.histogram("c", "h").observe
    expected: Counter[int] = Counter()
    before = (0,) * (len(bounds) + 1)
    for n, value in enumerate(values_around(bounds)):
        observe(value)
        expected[bisect.bisect_left(bounds, value)] += 1
        if n % 97 == 0:  # shows the place of a difference
            buckets = stats.get("c", "h").buckets
            found = [i for i in range(len(bounds) + 1) if buckets[i] != before[i]]
            assert {i: buckets[i] for i in found} == {i: expected[i] for i in found}, value
            before = buckets
    assert stats.get("c", "h").buckets == tuple(expected[i] for i in range(len(bounds) + 1))


def test_bounds_are_the_nearest_floats_and_the_powers_of_two_are_exact() -> None:
    from shmstats.bounds import exponential

    bounds = exponential(3, -14, 20, 1000)
    assert len(bounds) == 161
    assert bounds[::8] == tuple(1000 * 2.0**power for power in range(-14, 7))
    for i, bound in enumerate(bounds):
        assert math.isclose(bound, 1000 * 2.0 ** (i / 8 - 14), rel_tol=1e-15)


@pytest.mark.parametrize(
    ("error", "schema"), [(1, 0), (0.34, 0), (0.1, 2), (0.05, 3), (0.02, 5), (0.01, 6), (0.0014, 8)]
)
def test_the_schema_is_the_coarsest_whose_error_is_small_enough(error: float, schema: int) -> None:
    from shmstats.bounds import bounds_of_error

    bounds = bounds_of_error(error, 0.5, 7.0)
    assert bounds.schema == schema
    assert bounds.error <= error
    assert bounds[0] < 0.5 <= bounds[1 << schema]
    assert bounds[-1] >= 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"error": 0}, "error must be more than 0"),
        ({"error": 1.5}, "at most 1"),
        ({"error": float("nan")}, "error must be finite"),
        ({"error": 0.0001}, "error must be at least 0.0014"),
        ({"error": "5 %"}, "error must be a number"),
        ({"range": (10, 1)}, "ascending"),
        ({"range": (5, 5)}, "ascending"),
        ({"range": (0, 1)}, "range must be from more than"),
        ({"range": (-1, 1)}, "range must be from more than"),
        ({"range": (1e-40, 1e20)}, "at most 64 octaves"),
        ({"range": (1, 2**200)}, "range must be of at most 64 octaves .doublings., not 200"),
        ({"range": (1, 10**400)}, "an end of range must fit a float"),
        ({"range": (1, float("inf"))}, "an end of range must be finite"),
        ({"range": (float("nan"), 1)}, "an end of range must be finite"),
        ({"range": ("1", "2")}, "an end of range must be a number"),
        ({"range": 5}, "range must be two numbers"),
        ({"range": {2, 1}}, "range must be two numbers"),
        ({"error": 10**400}, "error must fit a float"),
        ({"buckets": b"exponential"}, "not bytes"),
        ({"error": 0.002, "range": (1e-9, 1e9)}, "a larger error or a smaller range"),
        ({"buckets": (1, 2), "error": 0.05}, 'buckets="exponential"'),
        ({"buckets": "fine"}, "exponential"),
        ({"kind": "counter", "buckets": None, "error": 0.05}, "a counter has none"),
    ],
)
def test_an_impossible_error_or_range_is_refused_with_the_reason(arguments: dict[str, Any], says: str) -> None:
    from shmstats.registry import Registry

    with pytest.raises((TypeError, ValueError), match=says):
        Registry().declare("c", "h", **{"kind": "histogram", "buckets": "exponential", **arguments})


@pytest.mark.parametrize("ends", [(1, 2**64), (0.75, 0.75 * 2.0**64), [1, 100], np.array([1.0, 1e6])])
def test_a_range_may_be_64_doublings_or_any_two_numbers(ends: Any) -> None:
    from shmstats.checks import make_bounds

    bounds = make_bounds("histogram", "bytes", "exponential", None, ends)
    assert bounds[0] < ends[0]
    assert ends[1] <= bounds[-1]


def test_bounds_survive_json_pickle_and_a_copy_as_the_same_object() -> None:
    import copy
    import json
    import pickle

    from shmstats.bounds import exponential, from_json, to_json

    bounds = exponential(3, -14, 20, 1000)
    assert from_json(json.loads(json.dumps(to_json(bounds)))) is bounds
    assert pickle.loads(pickle.dumps(bounds)) is bounds
    assert copy.deepcopy(bounds) is bounds


def test_counts_stay_exact_if_each_used_bucket_lies_within_a_new_one(shmstats: ModuleType) -> None:
    bounds = shmstats.bounds
    fine, coarse, wide = (bounds.exponential(*of, 1) for of in ((3, 0, 4), (2, 0, 4), (3, -2, 8)))
    assert bounds.stay_exact((1,) * len((*fine, 0)), fine, coarse)
    assert not bounds.stay_exact((1,) * len((*coarse, 0)), coarse, fine)
    inside = (0, *(1,) * (len(fine) - 1), 0)
    assert bounds.stay_exact(inside, fine, wide)
    assert not bounds.stay_exact((1, *inside[1:]), fine, wide)  # values below the old range may be inside the new one
    assert not bounds.stay_exact((*inside[:-1], 1), fine, wide)
    chance = random.Random(2)
    for _ in range(300):
        given, wanted = (tuple(sorted(chance.sample(range(1, 9), chance.randint(1, 5)))) for _ in range(2))
        values = [chance.randint(1, 18) / 2 for _ in range(3)]
        counted = bounds.buckets_of(values, given)
        if bounds.stay_exact(counted, given, wanted):
            assert bounds.rebucketed(counted, given, wanted) == bounds.buckets_of(values, wanted)
