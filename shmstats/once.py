"""What is said once, however often it happens: a failure that every call meets again must not fill the log."""

from __future__ import annotations


class Once:
    """Remembers what was said."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def first(self, what: str) -> bool:
        """Return whether this is to be said now, for it was not said before."""
        if what in self._said:
            return False
        self._said.add(what)
        return True
