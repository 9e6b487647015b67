"""The output of a run: the machine and the versions, the table, and the JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .rows import Row, number

#: The lines around the report in a file that shows it.
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def machine() -> dict[str, Any]:
    """Return the facts about the machine."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg()[0],
    }


def heading(about: dict[str, Any], versions: dict[str, str]) -> str:
    """Return the lines above the table."""
    moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"{moment}, {about['processor']}, {about['cores']} cores, {about['system']}"]
    if about["load"] > about["cores"] / 4:
        lines[0] += f", **busy with other work** (load {about['load']:.1f}): compare ratios only"
    lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n".join(lines)


def table(rows: Iterable[Row], aligned: bool = True) -> str:
    """Return the rows as a Markdown table, and the notes below it.

    Args:
        rows: in their order.
        aligned: whether the columns are, as a terminal needs it.
    """
    rows = list(rows)
    lines = [["case", "work", "ours", "spread", "peers", "ratio", "target", ""]]
    above: Row | None = None
    for row in rows:
        again = above is not None and (above.case, above.work) == (row.case, row.work)
        lines.append(_cells(row, again))
        above = row
    columns = range(len(lines[0]))
    widths = [max(len(line[column]) for line in lines) if aligned else 3 for column in columns]
    lines.insert(1, ["-" * width for width in widths])
    text = "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
    notes = dict.fromkeys(f"{row.case}: {row.note}" for row in rows if row.note)
    return "\n".join([text, "", *(f"- {note}" for note in notes)]) if notes else text


def _cells(row: Row, again: bool) -> list[str]:
    peers = ", ".join(f"{name} {figure}" for name, figure in row.peers.items())
    shown = ["", "", "", "", ""] if again else [row.case, row.work, *_figure(row), peers]
    ratio = "" if row.ratio is None else number(row.ratio)
    return [*shown, ratio, row.target, row.verdict]


def _figure(row: Row) -> tuple[str, str]:
    if row.ours is None:
        return "", ""
    return str(row.ours), "" if row.ours.spread is None else f"{row.ours.spread:.0%}"


def split(file: Path) -> tuple[str, str]:
    """Return the lines of a file up to `BEGIN`, and those from `END` on.

    Raises:
        OSError: it cannot be read.
        ValueError: it has no such lines.
    """
    before, begin, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{file} has no lines {BEGIN} and {END}")
    return before + begin, end + after


def update(file: Path, text: str) -> None:
    """Replace the lines of a file between `BEGIN` and `END`; raises as `split` does."""
    before, after = split(file)
    file.write_text(f"{before}\n\n{text}\n\n{after}")


def write_json(file: Path, about: dict[str, Any], versions: dict[str, str], rows: Iterable[Row]) -> None:
    """Write the same rows as JSON."""
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": about,
        "versions": versions,
        "rows": [row.plain() for row in rows],
    }
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
