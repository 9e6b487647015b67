"""A metric of prometheus_client on the block: its parts, their names, and their declarations.

Each label set of a metric is one series of the block, admitted, removed and limited as a whole. Facts that the block
does not store (that a gauge is an Enum, say) follow the declaration's help text as JSON, so any process that reads the
block can rebuild the metrics from it alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...checks import label_value
from ...hashing import blake2b
from ...series import Declaration, Kind, Labels, Mode

#: The category of all these metrics.
CATEGORY = "prometheus_client"

#: The bounds of a distribution without buckets: it only needs count and sum.
_NO_BOUNDS = (0.0,)

_SEPARATOR = "\x1f"

#: Characters of a help text that are kept in the block.
_HELP_LIMIT = 1000

#: The identity of a metric: its name, and its number among those with that name.
FamilyKey = tuple[str, int]

#: Suffixes of the block's metrics, after the family's name.
_METRIC_SUFFIXES = {"counter": "_total", "info": "_info"}

#: Suffixes of the samples, after the family's name, by type, as in prometheus_client's registries.
EXPOSED_SUFFIXES = {
    "counter": ("_total", "_created"),
    "summary": ("_sum", "_count", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "info": ("_info",),
}

#: Types of prometheus_client that are stored as each kind.
KINDS = {
    "counter": Kind.COUNTER,
    "gauge": Kind.GAUGE,
    "histogram": Kind.HISTOGRAM,
    "summary": Kind.HISTOGRAM,
    "info": Kind.GAUGE,
    "stateset": Kind.GAUGE,
}


@dataclass(frozen=True, slots=True)
class ClientFamily:
    """A metric of prometheus_client with all its label sets.

    Attributes:
        name: of the metric, without the suffix of its samples.
        type: prometheus_client's word: counter, gauge, histogram, summary, info or stateset.
        help: its meaning, for people.
        unit: of its values; may be empty.
        mode: of a gauge: how the values of several workers are combined.
        bounds: of a histogram: the upper bounds of its buckets, ascending, without infinity.
        states: of a stateset.
        labelnames: that each of its series has, sorted; None: unknown.
        default: whether it is in prometheus_client's default registry.
        instance: its number among the metrics with the same name in different registries, from 0.
    """

    name: str
    type: str
    help: str = ""
    unit: str = ""
    mode: Mode = Mode.LAST
    bounds: tuple[float, ...] = ()
    states: tuple[str, ...] = ()
    labelnames: tuple[str, ...] | None = None
    default: bool = False
    instance: int = 0

    @property
    def key(self) -> FamilyKey:
        """The identity of the metric, in any process."""
        return self.name, self.instance

    @property
    def metric(self) -> str:
        """The metric of the block that has the values."""
        return instance_metric(self.name + _METRIC_SUFFIXES.get(self.type, ""), self.instance)

    @property
    def created(self) -> str:
        """The metric of the block in which earlier versions of shmstats stored creation times."""
        return instance_metric(f"{self.name}_created", self.instance)

    @property
    def fraction(self) -> str:
        """The metric of the block with the fractions, because counters there are integers."""
        return f"{self.metric} (fraction)"

    @property
    def exposed(self) -> frozenset[str]:
        """Its names on a page: of the family and of its samples."""
        return frozenset((self.name, *(self.name + suffix for suffix in EXPOSED_SUFFIXES.get(self.type, ()))))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the block that belong to it."""
        return (self.metric, self.fraction) if self.type == "counter" else (self.metric,)

    def declaration(self) -> Declaration:
        """Return the declaration of the values. Facts that the block does not store follow the help text."""
        bounds = self.bounds if self.type == "histogram" else ()
        if self.type == "summary":
            bounds = _NO_BOUNDS
        about: dict[str, Any] = {"family": self.name, "type": self.type}
        if self.states:
            about["states"] = self.states
        if self.default:
            about["default"] = True
        if self.instance:
            about["instance"] = self.instance
        help_ = self.help[:_HELP_LIMIT] + _SEPARATOR + json.dumps(about, separators=(",", ":"))
        return Declaration(KINDS[self.type], help_, self.unit, bounds, self.mode, self.labelnames)

    def fraction_declaration(self) -> Declaration:
        """Return the declaration of the fractions."""
        return Declaration(Kind.HISTOGRAM, "", "", _NO_BOUNDS, Mode.LAST, self.labelnames)


def family_in(help_: str) -> ClientFamily | None:
    """Return the family that a declared help text tells of, without what the declaration itself has; None for none."""
    text, separator, rest = help_.rpartition(_SEPARATOR)
    try:
        about = json.loads(rest) if separator else {}
        states = tuple(about.get("states", ()))
        if about["type"] not in KINDS or not all(isinstance(state, str) for state in states):
            return None
        return ClientFamily(
            name=str(about["family"]),
            type=str(about["type"]),
            help=text,
            states=states,
            default=bool(about.get("default")),
            instance=int(about.get("instance", 0)),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None  # not written by us: a snapshot may contain anything


def instance_metric(metric: str, instance: int) -> str:
    """Return the metric of the block for one of several metrics of prometheus_client with the same name."""
    return f"{metric} (registry {instance + 1})" if instance else metric


def name_of(metric: str) -> str:
    """Return the name of the gauge for a metric of the block."""
    return metric.partition(" (registry ")[0]


def state_number(state: str) -> int:
    """Return the number of a state: the same in every process, whatever other states there are."""
    return int.from_bytes(blake2b(state.encode("utf-8", "replace"), digest_size=6).digest(), "little")


def series_labels(names: Sequence[str], values: Iterable[str]) -> Labels:
    """Return the labels of a series of the block."""
    if len(names) == 1:
        (value,) = values
        return ((names[0], label_value(value)),)
    return tuple(sorted(zip(names, map(label_value, values), strict=True)))


def labels_of(metric: Any) -> Labels:
    """Return the labels of a child of prometheus_client's; none for a metric without labels."""
    return series_labels(metric._labelnames, metric._labelvalues)
