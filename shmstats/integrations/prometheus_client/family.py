"""A metric of prometheus_client as the block has it: its parts, their names, and what is declared of them.

Each label set of a metric is one record of the block, so that it is admitted, removed and bounded as a
whole. What the block does not know of (whether a gauge is an Enum, say) stands behind the help text of the
declaration, as JSON: any process that reads the block can tell the metrics from that alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...block.names import MAX_TEXT_BYTES
from ...hashing import blake2b
from ...series import Declaration, Kind, Labels, Mode

#: The category of all that is here.
CATEGORY = "prometheus_client"

#: The bounds of what has none but is a distribution all the same: it needs count and sum only.
_NO_BOUNDS = (0.0,)

_SEPARATOR = "\x1f"

#: Characters of a help text that are kept in the block.
_HELP_LIMIT = 1000

#: Types of prometheus_client that are kept as each kind.
_KINDS = {
    "counter": Kind.COUNTER,
    "gauge": Kind.GAUGE,
    "histogram": Kind.HISTOGRAM,
    "summary": Kind.HISTOGRAM,
    "info": Kind.GAUGE,
    "stateset": Kind.GAUGE,
}


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with all its label sets.

    Attributes:
        name: of the metric, without the suffix of its samples.
        type: prometheus_client's word: counter, gauge, histogram, summary, info or stateset.
        help: what it is, for people.
        unit: of its values; may be empty.
        mode: of a gauge: how the values of several workers become one.
        bounds: of a histogram: the upper bounds of its buckets, ascending, without infinity.
        states: of a stateset.
        default: whether it is in prometheus_client's default registry.
    """

    name: str
    type: str
    help: str = ""
    unit: str = ""
    mode: Mode = Mode.LAST
    bounds: tuple[float, ...] = ()
    states: tuple[str, ...] = ()
    default: bool = False

    @property
    def metric(self) -> str:
        """The metric of the block that has the values."""
        suffix = {"counter": "_total", "info": "_info"}.get(self.type, "")
        return self.name + suffix

    @property
    def created(self) -> str:
        """The metric of the block that has the times of creation."""
        return f"{self.name}_created"

    @property
    def fraction(self) -> str:
        """The metric of the block that has what was counted in parts of 1: counters there are integers."""
        return f"{self.metric} (fraction)"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the block that belong to it."""
        if self.type == "counter":
            return self.metric, self.created, self.fraction
        return (self.metric, self.created) if self.type in ("histogram", "summary") else (self.metric,)

    def declaration(self) -> Declaration:
        """Return what is declared of the values."""
        bounds = self.bounds if self.type == "histogram" else ()
        if self.type == "summary":
            bounds = _NO_BOUNDS
        about: dict[str, Any] = {"type": self.type, "family": self.name}
        if self.states:
            about["states"] = self.states
        if self.default:
            about["default"] = True
        return Declaration(_KINDS[self.type], _with(self.help[:_HELP_LIMIT], about), self.unit, bounds, self.mode)

    def created_declaration(self) -> Declaration:
        """Return what is declared of the times of creation."""
        return Declaration(Kind.GAUGE, _with("", {"created of": self.name}))

    def fraction_declaration(self) -> Declaration:
        """Return what is declared of the fractions."""
        return Declaration(Kind.HISTOGRAM, _with("", {"fraction of": self.name}), bounds=_NO_BOUNDS)


@dataclass(frozen=True, slots=True)
class Part:
    """What a metric of the block is to a family.

    Attributes:
        family: name of the family.
        role: "value", "created" or "fraction".
        about: of the values: what the block does not know of.
    """

    family: str
    role: str
    about: dict[str, Any]


def part_of(help_: str) -> tuple[str, Part | None]:
    """Return the help for people, and what else was declared; None where it is no family's."""
    text, separator, rest = help_.rpartition(_SEPARATOR)
    if not separator:
        return help_, None
    try:
        about = json.loads(rest)
    except ValueError:
        return help_, None
    for key, role in (("family", "value"), ("created of", "created"), ("fraction of", "fraction")):
        if key in about:
            return text, Part(str(about[key]), role, about)
    return help_, None


def series_labels(names: Sequence[str], values: Iterable[str]) -> Labels:
    """Return the labels of a series of the block.

    What the block cannot hold is replaced, for counting must not fail because of what a client sent: a NUL
    character and a lone surrogate by a question mark, the end of a text of more than 255 bytes by a digest.
    """
    return tuple(sorted(zip(names, map(_storable, values), strict=True)))


def _storable(text: str) -> str:
    if len(text) <= MAX_TEXT_BYTES and text.isascii() and "\0" not in text:
        return text
    content = text.encode("utf-8", "replace").replace(b"\0", b"?")
    if len(content) > MAX_TEXT_BYTES:
        digest = blake2b(content, digest_size=8).hexdigest()
        start = content[: MAX_TEXT_BYTES - len(digest) - 3].decode(errors="ignore")
        content = f"{start}...{digest}".encode()
    return content.decode()


def _with(help_: str, about: dict[str, Any]) -> str:
    return help_ + _SEPARATOR + json.dumps(about, separators=(",", ":"))
