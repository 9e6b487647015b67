r"""Text for terminals: without characters that a terminal would interpret, and in columns of the shown width.

A character that is not printable (a control character, a line break, a change of writing direction) is shown as an
escape like ``\x1b``.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

#: What a terminal would interpret and JSON does not escape itself: C1 controls, separators, changes of direction.
_OBEYED = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def json_text(document: Any) -> str:
    """Return a document as JSON in one line, with escapes for what a terminal would interpret."""
    return _escaped(json.dumps(document, ensure_ascii=False, separators=(",", ":")))


def json_lines(document: Any) -> str:
    """Return the same for people, indented by two blanks for each level."""
    return _escaped(json.dumps(document, ensure_ascii=False, indent=2))


def _escaped(text: str) -> str:
    """Return JSON with escapes for what a terminal would interpret; it parses to the same."""
    if text.isascii() and "\x7f" not in text:  # a fast check
        return text
    return _OBEYED.sub(_json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f"


def printable(text: str) -> str:
    """Return text with an escape for each character that is not printable."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text])


def printable_lines(content: bytes) -> bytes:
    """Return a text in UTF-8 with its line breaks, and escapes for all other characters that are not printable."""
    lines = content.decode(errors="backslashreplace").replace("\r\n", "\n").split("\n")
    return "\n".join(map(printable, lines)).encode()


def aligned(column: list[str], *, right: bool) -> list[str]:
    """Return the cells of a column, padded with blanks to one width.

    An East Asian wide character takes two places, a combining mark none.
    """
    widths = [_width(cell) for cell in column]
    widest = max(widths)
    pads = [" " * (widest - width) for width in widths]
    return [pad + cell if right else cell + pad for cell, pad in zip(column, pads, strict=True)]


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
