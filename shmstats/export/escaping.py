"""Spellings of names in any alphabet that a scraper accepts: ESCAPINGS, with the words of Prometheus 3.

They are those of ``EscapeName`` in Prometheus' common/model, but ``underscores`` keeps a leading digit.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..frozen import NamedTuple


class Escaping(NamedTuple):
    """A spelling of names in any alphabet.

    Attributes:
        clean: for a metric or a unit, before suffixes are added.
        escape: for a family's whole name; cleaned names stay unchanged.
        clean_label: for a label's name.
    """

    clean: Callable[[str], str]
    escape: Callable[[str], str]
    clean_label: Callable[[str], str]


_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_NOT_IN_METRICS = re.compile(r"[^a-zA-Z0-9_:]")


def is_metric_name(text: str) -> bool:
    """Tell whether a name needs no quotes: ``[a-zA-Z_:][a-zA-Z0-9_:]*``."""
    return _METRIC_NAME.fullmatch(text) is not None


def _as_written(text: str) -> str:
    return text


def _cleaned(text: str) -> str:
    plain = _NOT_IN_METRICS.sub("_", text)
    return f"_{plain}" if plain[:1].isdigit() else plain


def _cleaned_label(text: str) -> str:
    return _cleaned(text).replace(":", "_")


def _with_dots(text: str) -> str:
    """Write a dot as ``_dot_``, underscores and other characters as ``__``."""
    return "".join([char if _is_legacy(char, i) else "_dot_" if char == "." else "__" for i, char in enumerate(text)])


def _with_values(text: str) -> str:
    """Write an underscore as ``__``, other characters by their hexadecimal numbers: ``U__user_2e_login``."""
    if is_metric_name(text):
        return text
    return "U__" + "".join([char if _is_legacy(char, i) else _by_value(char) for i, char in enumerate(text)])


def _by_value(char: str) -> str:
    return "__" if char == "_" else f"_{ord(char):x}_"


def _is_legacy(char: str, place: int) -> bool:
    """Tell whether a character is allowed at a place of a name, and is not the escape character."""
    return char != "_" and _METRIC_NAME.fullmatch(char if place == 0 else f"a{char}") is not None


#: The ways to write a name that a scraper may ask for.
ESCAPINGS = {
    "underscores": Escaping(_cleaned, _as_written, _cleaned_label),
    "allow-utf-8": Escaping(_as_written, _as_written, _as_written),
    "dots": Escaping(_as_written, _with_dots, _with_dots),
    "values": Escaping(_as_written, _with_values, _with_values),
}
