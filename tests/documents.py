"""The documents of the project, as tests read them: sections, tables and blocks of code.

Every block of code is run by a test. A comment in the line above a block says how, if it does not run as it is:
``<!-- tested by tests/test_x.py -->`` names the test that runs it, ``<!-- not run: why -->`` says why none can.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PLACES = ("*.md", ".github/*.md", "shmstats/**/*.md", "scripts/**/*.md", "tests/**/*.md")
DOCS = "shmstats/docs"

_BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^\n]*) -->\n+)?^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    """A block of code of a document.

    Attributes:
        document: its path from the project's root.
        line: the number of its first line.
        language: the word behind its fence.
        text: its lines.
        note: the comment above it, else an empty text.
    """

    document: str
    line: int
    language: str
    text: str
    note: str

    @property
    def place(self) -> str:
        """The place in the document: path and line."""
        return f"{self.document}:{self.line}"

    @property
    def stands_alone(self) -> bool:
        """Whether it is run as it is, by the test of all documents."""
        return not self.note.startswith(("tested by ", "not run: "))

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command of a console, and the output below it."""
        pieces = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        return [(first, rest) for first, _, rest in (piece.partition("\n") for piece in pieces)]


def documents() -> list[str]:
    """Return the paths of all documents, from the project's root."""
    found = {path.relative_to(ROOT) for pattern in PLACES for path in ROOT.glob(pattern)}
    return sorted(str(path) for path in found if not any(part.endswith(".egg-info") for part in path.parts))


def read(document: str) -> str:
    """Return the text of a document."""
    return (ROOT / document).read_text()


def section(document: str, title: str = "") -> str:
    """Return the text below a heading, up to the next one that is not deeper; the whole text without a title."""
    text = read(document)
    if not title:
        return text
    heading = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert heading is not None, f"{document} has no heading {title!r}"
    below = text[heading.end() :]
    return re.split(rf"^#{{1,{len(heading[1])}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def blocks(document: str) -> Iterator[Block]:
    """Yield the blocks of code of a document."""
    text = read(document)
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        yield Block(document, line, match["language"], match["text"], match["note"] or "")


def examples(document: str, title: str = "", language: str = "python") -> list[str]:
    """Return the texts of the blocks of a language below a heading, in their order."""
    return [match["text"] for match in _BLOCK.finditer(section(document, title)) if match["language"] == language]


def table(text: str) -> list[list[str]]:
    """Return the rows of the first table of a text, without its head."""
    rows = re.search(r"^\| .*\n\|[-| ]*\|\n((?:\|.*\n?)*)", text, re.MULTILINE)
    assert rows is not None, "there is no table"
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in rows[1].strip().splitlines()]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in cells]


def prose(document: str) -> str:
    """Return a document without its blocks of code."""
    return _BLOCK.sub("", read(document))


def anchors(document: str) -> set[str]:
    """Return the texts that a link into a document may have behind ``#``."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
