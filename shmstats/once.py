"""Messages that are logged only once: a failure that every call meets again must not fill the log."""

from __future__ import annotations


class Once:
    """Remembers the messages that were logged."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def first(self, what: str) -> bool:
        """Return whether a message is new, and must be logged now."""
        if what in self._said:
            return False
        self._said.add(what)
        return True
