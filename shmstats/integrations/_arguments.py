"""Checks of the arguments of the WSGI and ASGI middlewares and the Flask extension."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..checks import check_label_names

#: Label names that the metrics already have.
_OWN_LABELS = ("method", "route", "status", "type")


def check_callable(what: str, value: object) -> None:
    """Check an argument that will be called.

    Raises:
        TypeError: it is not callable.
    """
    if not callable(value):
        raise TypeError(f"{what} must be callable, not {type(value).__name__} ({value!r:.80})")


def split_excluded(exclude: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Split the excluded texts into whole texts and prefixes.

    Raises:
        TypeError: it is not a sequence of str.
    """
    if isinstance(exclude, str) or not isinstance(exclude, Iterable):
        raise TypeError(f"exclude must be a sequence of str, not {type(exclude).__name__} ({exclude!r:.80})")
    whole, beginnings = set(), set()
    for text in exclude:
        if not isinstance(text, str):
            raise TypeError(f"exclude must be of str, not {type(text).__name__} ({text!r:.80})")
        if text.endswith("*"):
            beginnings.add(text.removesuffix("*"))
        else:
            whole.add(text)
    return frozenset(whole), tuple(sorted(beginnings))


def check_own_labels(labelnames: Sequence[str], label_values: Callable[[Any], Sequence[str]] | None) -> tuple[str, ...]:
    """Return the names of further labels.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: only one of the two is given, or a name is not allowed.
    """
    if (label_values is None) != (not labelnames):
        raise ValueError("labelnames and label_values must be given together")
    if label_values is None:
        return ()
    check_callable("label_values", label_values)
    names = check_label_names("labelnames", labelnames)
    taken = next((name for name in names if name in _OWN_LABELS), None)
    if taken is not None:
        raise ValueError(f"labelnames must not have {taken!r}: there is such a label already")
    return names
