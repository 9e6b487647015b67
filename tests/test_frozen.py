"""Classes whose objects are never changed."""

from __future__ import annotations

import pickle

import pytest

from shmstats.frozen import Frozen, NamedTuple


class Point(Frozen):
    x: int
    y: int = 2


class Place(NamedTuple):
    x: int
    y: int = 2
    z: int = 3

    @property
    def total(self) -> int:
        return sum(self)


class Marked(Point, kw_only=True):
    mark: str


def test_fields_are_given_by_position_or_name_or_have_their_default() -> None:
    assert (Point(1).x, Point(1).y) == (1, 2)
    assert Point(1, 3) == Point(y=3, x=1) != Point(1)
    assert Marked(1, mark="a").as_dict() == {"x": 1, "y": 2, "mark": "a"}


@pytest.mark.parametrize(("values", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1})])
def test_a_field_that_is_missing_or_unknown_is_a_type_error_that_names_the_fields(
    values: tuple[int, ...], named: dict[str, int]
) -> None:
    with pytest.raises(TypeError, match=r"^Point has the fields x, y"):
        Point(*values, **named)


def test_objects_cannot_be_changed_but_replaced() -> None:
    point = Marked(1, mark="a")
    with pytest.raises(AttributeError):
        point.x = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del point.x
    assert point.replaced(x=3) == Marked(3, mark="a")


def test_objects_with_the_same_class_and_fields_are_equal_and_can_be_pickled() -> None:
    assert Point(1) != Marked(1, mark="a")
    assert len({Point(1), Point(1, 2), Point(2)}) == 2
    assert pickle.loads(pickle.dumps(Point(1, 3))) == Point(1, 3)
    assert repr(Marked(1, mark="a")) == "Marked(x=1, y=2, mark='a')"


def test_named_tuples_are_made_like_those_of_typing() -> None:
    assert Place(1) == Place(x=1) == Place(1, z=3) == (1, 2, 3) == Place._make((1, 2, 3))
    assert Place(1, 5)._replace(x=4, z=6) == Place(z=6, x=4, y=5) == (4, 5, 6)
    assert (Place(1).y, Place(1).total, Place(1)._asdict(), repr(Place(1))) == (
        2, 6, {"x": 1, "y": 2, "z": 3}, "Place(x=1, y=2, z=3)",
    )  # fmt: skip
    assert type(pickle.loads(pickle.dumps(Place(1, 4)))) is Place
    with pytest.raises(AttributeError):
        Place(1).w = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((), {"y": 1}), ((1, 2, 3, 4), {}), ((1,), {"w": 1}), ((1, 2, 3, 4), {"x": 1})]
)
def test_an_item_that_is_missing_or_unknown_is_a_type_error_that_names_the_fields(
    values: tuple[int, ...], named: dict[str, int]
) -> None:
    with pytest.raises(TypeError, match=r"^Place has the fields x, y, z, not "):
        Place(*values, **named)
