"""What is declared about a metric, as its family's note has it: one JSON array."""

from __future__ import annotations

import json

from ..series import Declaration, Kind, Mode


def encode_declaration(declared: Declaration) -> bytes:
    """Return a declaration as bytes; equal ones give equal bytes."""
    return json.dumps(declared, separators=(",", ":")).encode()


def decode_declaration(text: bytes) -> Declaration:
    """Return the declaration that `encode_declaration` made this of.

    Raises:
        ValueError: there is none.
    """
    try:
        kind, help_, unit, bounds, mode, labelnames = json.loads(text)
        names = None if labelnames is None else tuple(map(str, labelnames))
        return Declaration(Kind(kind), str(help_), str(unit), tuple(map(float, bounds)), Mode(mode), names)
    except TypeError as error:
        raise ValueError(f"{text!r:.80} is no declaration: {error}") from error


def describe(declared: Declaration) -> str:
    """Return a declaration in words, for an error that shows it."""
    parts = [declared.kind.name.lower()]
    if declared.kind is Kind.GAUGE:
        parts.append(f"mode {declared.mode.name.lower()}")
    if declared.unit:
        parts.append(f"unit {declared.unit!r}")
    if declared.bounds:
        parts.append(f"buckets {declared.bounds}")
    if declared.labelnames is not None:
        parts.append(f"labelnames {declared.labelnames}")
    if declared.help:
        parts.append(f"help {declared.help!r}")
    return ", ".join(parts)
