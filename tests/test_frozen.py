"""Classes whose objects are never changed."""

from __future__ import annotations

import pickle

import pytest

from shmstats.frozen import Frozen


class Point(Frozen):
    x: int
    y: int = 2


class Marked(Point, kw_only=True):
    mark: str


def test_fields_are_given_by_place_or_name_or_have_their_default() -> None:
    assert (Point(1).x, Point(1).y) == (1, 2)
    assert Point(1, 3) == Point(y=3, x=1) != Point(1)
    assert Marked(1, mark="a").as_dict() == {"x": 1, "y": 2, "mark": "a"}


@pytest.mark.parametrize(("values", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1})])
def test_a_field_that_is_missing_or_unknown_is_a_type_error_that_names_the_fields(
    values: tuple[int, ...], named: dict[str, int]
) -> None:
    with pytest.raises(TypeError, match=r"^Point has the fields x, y"):
        Point(*values, **named)


def test_objects_cannot_be_changed_but_be_replaced() -> None:
    point = Marked(1, mark="a")
    with pytest.raises(AttributeError):
        point.x = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del point.x
    assert point.replaced(x=3) == Marked(3, mark="a")


def test_objects_of_one_class_and_the_same_fields_are_equal_and_can_be_sent_to_others() -> None:
    assert Point(1) != Marked(1, mark="a")
    assert len({Point(1), Point(1, 2), Point(2)}) == 2
    assert pickle.loads(pickle.dumps(Point(1, 3))) == Point(1, 3)
    assert repr(Marked(1, mark="a")) == "Marked(x=1, y=2, mark='a')"
