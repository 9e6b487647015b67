"""What a run writes: the machine and the versions, the table, and the JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .rows import Row, number


def machine() -> dict[str, Any]:
    """Return what is to be known about the machine."""
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
        "load before": os.getloadavg()[0],
    }


def heading(about: dict[str, Any], versions: dict[str, str]) -> str:
    """Return the lines above the table."""
    moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"{moment}, {about['processor']}, {about['cores']} cores, {about['system']}"]
    lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n".join(lines)


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table whose columns are aligned for a terminal too."""
    rows = list(rows)
    lines = [["case", "work", "ours", "spread", "peers", "ratio", "target", ""]]
    above: Row | None = None
    for row in rows:
        again = above is not None and (above.case, above.work) == (row.case, row.work)
        lines.append(_cells(row, again))
        above = row
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    text = "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
    notes = dict.fromkeys(f"{row.case}: {row.note}" for row in rows if row.note)
    return "\n".join([text, "", *notes]) if notes else text


def _cells(row: Row, again: bool) -> list[str]:
    peers = ", ".join(f"{name} {figure}" for name, figure in row.peers.items())
    shown = ["", "", "", "", ""] if again else [row.case, row.work, *_figure(row), peers]
    ratio = "" if row.ratio is None else number(row.ratio)
    return [*shown, ratio, row.target, row.verdict]


def _figure(row: Row) -> tuple[str, str]:
    if row.ours is None:
        return "", ""
    return str(row.ours), "" if row.ours.spread is None else f"{row.ours.spread:.0%}"


def write_json(file: Path, about: dict[str, Any], versions: dict[str, str], rows: Iterable[Row]) -> None:
    """Write the same rows as JSON."""
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": about,
        "versions": versions,
        "rows": [row.plain() for row in rows],
    }
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
