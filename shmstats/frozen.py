"""Base classes for immutable objects whose fields are the annotations of the class.

`dataclasses` imports `inspect` and compiles code for each class, half a millisecond at every import, and
`typing.NamedTuple` compiles code for each field, a fifth of a millisecond.
"""

from __future__ import annotations

from collections import _tuplegetter, namedtuple  # type: ignore[attr-defined]  # the former: a field of one
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _NamedTupleType(type):
        """Turns the annotations of a class into the items of its tuples; a class attribute is the default."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            made = super().__new__(cls, name, bases, {"__slots__": (), **body})
            made._fields = () if bases == (tuple,) else tuple(made.__annotations__)
            made._field_defaults = {field: body[field] for field in made._fields if field in body}
            for number, field in enumerate(made._fields):
                setattr(made, field, _tuplegetter(number, ""))
            return made

    class NamedTuple(tuple, metaclass=_NamedTupleType):
        """As `typing.NamedTuple`."""

        def __new__(cls, *values: Any, **named: Any) -> NamedTuple:
            """Make the first object of a class."""
            _complete(cls)
            return cls(*values, **named)

        @classmethod
        def _make(cls, values: Iterable[Any]) -> NamedTuple:
            _complete(cls)
            return cls._make(values)

    def _complete(cls: _NamedTupleType) -> None:
        """Compile what `namedtuple` needs at the first object, because a process uses few of the classes."""
        like = namedtuple(cls.__name__, cls._fields, defaults=cls._field_defaults.values())
        for name in ("__new__", "_make", "_replace", "_asdict", "__repr__", "__getnewargs__"):
            setattr(cls, name, like.__dict__[name])


@dataclass_transform(frozen_default=True)
class Frozen:
    """Base of a class whose annotations are its fields; a class attribute is the default of its field.

    Objects are equal if they have the same class and equal fields.

    Attributes:
        fields: the names of the fields, in order: those of the base class come first.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, kw_only: bool = False) -> None:
        own = [name for name, kind in cls.__annotations__.items() if not str(kind).startswith("ClassVar")]
        cls.fields = tuple(dict.fromkeys((*cls.fields, *own)))
        cls._defaults = cls._defaults | {name: cls.__dict__[name] for name in own if name in cls.__dict__}

    def __init__(self, *values: Any, **named: Any) -> None:
        given = self._defaults | dict(zip(self.fields, values, strict=False)) | named
        if len(given) != len(self.fields) or len(values) > len(self.fields):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(self.fields)}, not {', '.join(given)}")
        self.__dict__.update(given)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the given values; for subclasses to override."""

    def replaced(self, **values: Any) -> Self:
        """Return a copy with other values of some fields."""
        return type(self)(**self.as_dict() | values)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {name: self.__dict__[name] for name in self.fields}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: use replaced({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")
