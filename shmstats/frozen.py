"""Classes whose objects are never changed, by their annotations alone.

`dataclasses` imports `inspect` and compiles code for each class, half a millisecond at every import, and
`typing.NamedTuple` compiles code for each field, a fifth of one.
"""

from __future__ import annotations

from collections import _tuplegetter  # type: ignore[attr-defined]  # what a named tuple's fields are
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _NamedTupleType(type):
        """Makes the annotations of a class the items of its objects; a value beside one is its default."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            made = super().__new__(cls, name, bases, {"__slots__": (), **body})
            made._fields = () if bases == (tuple,) else tuple(made.__annotations__)
            made._defaults = {field: body[field] for field in made._fields if field in body}
            for number, field in enumerate(made._fields):
                setattr(made, field, _tuplegetter(number, ""))
            return made

    class NamedTuple(tuple, metaclass=_NamedTupleType):
        """As `typing.NamedTuple`. Who makes thousands takes ``_make``, which is quicker and knows no defaults."""

        _make = classmethod(tuple.__new__)

        def __new__(cls, *values: Any, **named: Any) -> NamedTuple:
            """Make one of its items, in their order or by their names."""
            missing = len(cls._fields) - len(values)
            if missing and not named and 0 < missing <= len(cls._defaults):
                values += tuple(cls._defaults.values())[-missing:]
            elif missing or named:
                given = cls._defaults | dict(zip(cls._fields, values, strict=False)) | named
                if missing < 0 or len(given) != len(cls._fields):
                    raise TypeError(f"{cls.__name__} has the fields {', '.join(cls._fields)}, not {values} and {named}")
                values = tuple([given[field] for field in cls._fields])
            return tuple.__new__(cls, values)

        def _replace(self, **values: Any) -> NamedTuple:
            replaced = type(self)._make(map(values.pop, self._fields, self))
            if values:
                raise TypeError(f"{type(self).__name__} has the fields {', '.join(self._fields)}, not {values}")
            return replaced

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"


@dataclass_transform(frozen_default=True)
class Frozen:
    """Base of a class whose annotations are its fields; a value beside one is its default.

    Objects are equal that have the same class and fields.

    Attributes:
        fields: the names of the fields, in their order: those of the base come first.
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
        """Check what was given; for a class to have its own."""

    def replaced(self, **values: Any) -> Self:
        """Return the same with other values of some fields."""
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
