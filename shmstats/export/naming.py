"""Prometheus names of statistics: metric families and sample labels.

A statistic is (category, metric, labels), which may contain any text. A sample is a family's name and labels, and
families have rules: an alphabet, one type each, suffixes that belong to a type. `Namer` maps the one to the other by
the scheme in its docstring. All exposition formats use it, so a series has one identity in all of them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from copy import copy
from enum import Enum

from shmstats._version import __version__
from shmstats.core import CORE
from shmstats.export.escaping import ESCAPINGS
from shmstats.frozen import NamedTuple
from shmstats.series import INFO, STATE, TIME_UNITS, Kind, Labels, Name, is_label_name, label_text


class Type(Enum):
    """A family's type: its words in OpenMetrics and in the text format, and the endings of its names.

    Attributes:
        word: in OpenMetrics.
        text_word: in the text format, which knows fewer types.
        ending: of its plain samples.
        owned: suffixes of the names that a family of that type owns in OpenMetrics.
    """

    COUNTER = "counter", "counter", "_total", ("", "_total", "_created")
    GAUGE = "gauge", "gauge", "", ("",)
    HISTOGRAM = "histogram", "histogram", "", ("", "_bucket", "_count", "_sum", "_created")
    INFO = "info", "gauge", "_info", ("", "_info")
    STATESET = "stateset", "gauge", "", ("",)

    def __init__(self, word: str, text_word: str, ending: str, owned: tuple[str, ...]) -> None:
        self.word = word
        self.text_word = text_word
        self.ending = ending
        self.owned = owned

    @property
    def has_created(self) -> bool:
        """Whether its series have a creation time."""
        return "_created" in self.owned


class ExposedFamily:
    """A metric family of a page.

    Attributes:
        name: as in OpenMetrics, that is a counter's without ``_total``.
        type: its type.
        help: a sentence, never empty.
        unit: "" or the unit that the name ends with.
    """

    __slots__ = ("_declared", "help", "name", "type", "unit")

    def __init__(self, name: str, type_: Type, generated_help: str) -> None:
        self.name = name
        self.type = type_
        self.help = generated_help
        self.unit = ""
        self._declared = False

    @property
    def exposed_name(self) -> str:
        """The name in the text format, and of the samples without a further suffix."""
        return self.name + self.type.ending

    def describe(self, help_: str, unit: str) -> None:
        """Adopt a member's help and unit, if they are the first and the name ends with the unit."""
        if help_ and not self._declared:
            self.help = help_
            self._declared = True
        if unit and not self.unit and self.name.endswith("_" + unit):
            self.unit = unit


class ExposedSeries(NamedTuple):
    """The family and the labels of one statistic, complete except for escaping."""

    family: ExposedFamily
    labels: Labels


class Figure(NamedTuple):
    """How a figure of ``Snapshot.system`` or ``health`` is exported: in that family, divided by ``divisor``."""

    family: str
    divisor: int
    help: str
    unit: str = ""
    labels: Labels = ()
    type: Type = Type.GAUGE


_OWN: Labels = (("category", "shmstats"),)
_BUILD: Labels = (*_OWN, ("core", CORE), ("version", __version__))

#: The figures of ``Snapshot.system``, the machine and the workers, and of ``Snapshot.health``.
FIGURES = {
    "uptime": Figure("uptime_seconds", 1, "Time since the start, in seconds.", "seconds"),
    "memory_usage": Figure("memory_usage_bytes", 1, "Current memory usage in bytes.", "bytes"),
    "cpu": Figure("cpu_usage_ratio", 100, "Processor time in use; 1 is one processor.", "ratio"),
    "user_in_ms": Figure(
        "user_cpu_seconds", 1000, "Processor time in user mode, in seconds, of the live workers.", "seconds"
    ),
    "sys_in_ms": Figure(
        "system_cpu_seconds",
        1000,
        "Processor time in system mode, in seconds, of the live workers.",
        "seconds",
    ),
    "threads": Figure("threads", 1, "Threads of the live workers."),
    "workers": Figure("workers", 1, "Live workers."),
    "gc": Figure("gc_collections", 1, "Garbage collections of the process that answers."),
    "store": Figure("store_bytes", 1, "Size of the data directory in bytes.", "bytes"),
    "saved_seconds_ago": Figure("saved_seconds_ago", 1, "Age of the last saved snapshot, in seconds.", "", _OWN),
    "save_error": Figure("save_error", 1, "Whether saving fails.", "", _OWN),
    "saver": Figure("saver", 1, "Whether a process saves.", "", _OWN),
    "agents": Figure("agents", 1, "Live workers that answer questions.", "", _OWN),
    "agents_missing": Figure("agents_missing", 1, "Live workers that cannot answer questions.", "", _OWN),
    "pushed_seconds_ago": Figure("pushed_seconds_ago", 1, "Age of the last push, in seconds.", "", _OWN),
    "push_error": Figure("push_error", 1, "Whether pushing fails.", "", _OWN),
    "pool": Figure("pool_used_ratio", 1, "Used share of the fullest part of the block; 1 is full.", "ratio", _OWN),
    "build": Figure("build", 1, "Version of the package, and its core.", "", _BUILD, Type.INFO),
}


def is_time(unit: str) -> bool:
    """Tell whether a histogram of that declared unit holds times, which are kept in ms and shown in seconds."""
    return unit in TIME_UNITS


class Namer:
    """Gives every statistic its family and labels, depending only on the names and their order. Not thread-safe.

    *Plain form:* the family is the metric with the suffix of its kind: ``requests`` becomes ``requests_total`` for a
    counter, ``query`` becomes ``query_seconds`` for a timing, ``last`` becomes ``last_timestamp_seconds`` for a
    timestamp, a gauge stays. A counter that was decremented is a gauge. A declared unit comes before ``_total``, else
    last. A suffix that is already there is not repeated; a timing ``query_ms`` becomes ``query_seconds``, because it is
    exported in seconds. A metric called ``total`` counts its category: ``requests_total{category="requests"}``.

    *Cleaning:* a character outside of ``[a-zA-Z0-9_:]`` becomes ``_``, and a leading digit gets ``_`` before it. If the
    family's name is not the plain form of the metric, the sample has the label ``metric`` with the original. The other
    `ESCAPINGS` that a scraper may request replace the cleaning.

    *First come, first served:* names are taken in the order of registration, and the earlier one keeps its form. A
    later one with the same sample gets the label ``metric``, and if even that is equal, a label ``raw_labels`` with its
    original labels. A later one of another type goes to the family ``<metric>_value``, then ``<metric>_value_2`` and so
    on, and gets the label ``metric``. Types clash as in OpenMetrics, where a counter ``x`` owns ``x``, ``x_total`` and
    ``x_created``, and a histogram ``x`` owns ``x``, ``x_bucket``, ``x_count``, ``x_sum`` and ``x_created``. A later
    registration never changes an earlier name. But if an earlier name is removed, or becomes a gauge, later names of
    the same family may change at the next scrape.

    *Labels:* label names are cleaned in the same way, but without ``:``, and never begin with two underscores; one with
    only underscores becomes ``label``. If names become equal, those that needed no cleaning keep their names, and the
    others get ``_2``, ``_3`` and so on. Names with a meaning here (``category``, ``metric``, ``raw_labels``, ``le``,
    ``quantile``, and those of ``prometheus.labels``) get the prefix ``exported_``.

    *`FIGURES` of the system and of health* have fixed families in base units and fixed labels, assigned before any
    other name.

    Args:
        escaping: one of `ESCAPINGS`.
        namespace: prefix of every family's name, or "".
        labels: of every series, before its own.

    Attributes:
        figures: the series of `FIGURES`.
    """

    def __init__(self, escaping: str = "underscores", namespace: str = "", labels: Labels = ()) -> None:
        self._escaping = ESCAPINGS[escaping]
        self._prefix = f"{namespace}_" if namespace else ""
        self._constant = labels
        self._meant = _MEANT_LABELS.union(name for name, _ in labels)
        self._families: dict[str, ExposedFamily] = {}
        self._owned: set[str] = set()
        self._resolved: dict[tuple[str, str, Kind, bool, str, str], tuple[ExposedFamily, bool]] = {}
        self._label_names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._taken: set[tuple[ExposedFamily, Labels]] = set()
        self.figures = {metric: self._figure(figure) for metric, figure in FIGURES.items()}

    def copy(self) -> Namer:
        """Return another one that goes on from here."""
        other = copy(self)
        other.__dict__.update({key: copy(value) for key, value in vars(self).items() if isinstance(value, dict | set)})
        return other

    def descriptions(self) -> list[tuple[str, str]]:
        """Return help and unit of each family."""
        return [(family.help, family.unit) for family in self._families.values()]

    def add(self, name: Name) -> ExposedSeries:
        """Return the place of the next name; names must come in the order of their registration."""
        family, is_plain = self.family(name)
        own = self._clean_labels(name.labels)
        if name.shown == STATE:
            own = _with_state(own, family.name)
        if is_plain:
            plain = self.head(name, True) + own
            if self._take(family, plain):
                return ExposedSeries(family, plain)
        marked = self.head(name, False)
        if not self._take(family, marked + own):
            own = (*own, ("raw_labels", f"{{{label_text(name.labels)}}}"))
            self._take(family, marked + own)
        return ExposedSeries(family, marked + own)

    def family(self, name: Name) -> tuple[ExposedFamily, bool]:
        """Return the family of the next name, and whether the family's name is the plain form of the metric."""
        category = name.category if name.metric == "total" else ""
        key = (category, name.metric, name.kind, name.monotonic, name.unit, name.shown)
        found = self._resolved.get(key)
        if found is None:
            found = self._resolved[key] = self._resolve(name)
        if name.help or name.unit:
            found[0].describe(name.help.strip(), self._shown_unit(name))
        return found

    def head(self, name: Name, is_plain: bool) -> Labels:
        """Return the labels before a series' own, if no other series has the sample."""
        head = (*self._constant, ("category", name.category))
        return head if is_plain else (*head, ("metric", name.metric))

    def leaves(self, names: tuple[str, ...]) -> bool:
        """Tell whether label names are shown unchanged, without cleaning and quotes."""
        return all(map(is_label_name, names)) and self._clean_label_names(names) == names

    def _take(self, family: ExposedFamily, labels: Labels) -> bool:
        """Tell whether no other series had this sample; an empty label counts as none, as in Prometheus."""
        sample = family, tuple([pair for pair in labels if pair[1]])
        if sample in self._taken:
            return False
        self._taken.add(sample)
        return True

    def _resolve(self, name: Name) -> tuple[ExposedFamily, bool]:
        """Return the family of a name, and whether its name is the plain form of the metric."""
        written = f"{name.category}_total" if name.metric == "total" else name.metric
        type_, suffixes = self._type_and_suffixes(name)
        stem = self._stem(written, suffixes, name)
        is_plain = written in {"_".join((stem, *suffixes[:n])) for n in range(len(suffixes) + 1)}
        unit = self._shown_unit(name)
        help_ = _generated_help(name.kind, type_, stem, unit)
        for place, candidate in enumerate(_candidates(stem, suffixes, type_)):
            family = self._claim(candidate, type_, help_)
            if family is not None:
                family.describe("", unit)
                return family, is_plain and place == 0
        raise AssertionError("there is always a further candidate")

    def _claim(self, name: str, type_: Type, help_: str) -> ExposedFamily | None:
        """Return the family of that name, made unless another owns the names it needs; None if it is not possible."""
        family = self._families.get(name)
        if family is not None:
            return family if family.type is type_ else None
        ending = type_.ending
        shown = self._escaping.escape(self._prefix + name + ending).removesuffix(ending)
        if type_ is Type.STATESET:  # it has a label of its own name: no colon, and not two underscores first
            shown = re.sub("^__+", "_", shown.replace(":", "_"))
        owned = [shown + suffix for suffix in type_.owned]
        if type_ is Type.STATESET and shown in self._meant:  # its samples already have a label of that name
            return None
        if not self._owned.isdisjoint(owned):
            return None
        family = ExposedFamily(shown, type_, help_)
        self._families[name] = family
        self._owned.update(owned)
        return family

    def _figure(self, figure: Figure) -> ExposedSeries:
        family = self._claim(figure.family, figure.type, figure.help)
        assert family is not None, "the table of figures clashes with itself"
        family.describe(figure.help, figure.unit)
        labels = (*self._constant, *figure.labels)
        self._take(family, labels)
        return ExposedSeries(family, labels)

    def _type_and_suffixes(self, name: Name) -> tuple[Type, tuple[str, ...]]:
        """Return the exported type of a name, and the suffixes of its family."""
        if name.kind is Kind.TIMESTAMP:
            return Type.GAUGE, ("timestamp", "seconds")
        unit = self._shown_unit(name)
        units = (unit,) if unit else ()
        if name.kind is Kind.HISTOGRAM:
            return Type.HISTOGRAM, units
        if name.kind is Kind.COUNTER and name.monotonic:
            return Type.COUNTER, (*units, "total")
        if name.shown == INFO:
            return Type.INFO, ("info",)
        return Type.STATESET if name.shown == STATE else Type.GAUGE, units

    def _shown_unit(self, name: Name) -> str:
        """Return the unit of the exported value; "" if unknown."""
        if name.kind is Kind.TIMESTAMP or (name.kind is Kind.HISTOGRAM and is_time(name.unit)):
            return "seconds"
        return self._escaping.clean(name.unit)

    def _stem(self, written: str, suffixes: tuple[str, ...], name: Name) -> str:
        """Return a cleaned metric without the suffixes of its kind; never empty."""
        stem = self._escaping.clean(written)
        for suffix in reversed(suffixes):
            stem = stem.removesuffix(f"_{suffix}") or stem
        if name.kind is Kind.HISTOGRAM and is_time(name.unit):
            for unit in TIME_UNITS - {""}:
                stem = stem.removesuffix(f"_{unit}") or stem
        return stem

    def _clean_labels(self, labels: Labels) -> Labels:
        names = tuple([name for name, _ in labels])
        cleaned = self._label_names.get(names)
        if cleaned is None:
            cleaned = self._label_names[names] = self._clean_label_names(names)
        if cleaned == names:
            return labels
        return tuple(sorted(zip(cleaned, (value for _, value in labels), strict=True)))

    def _clean_label_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return label names that a scraper accepts, as many and all different."""
        cleaned = {name: self._clean_label_name(name) for name in names}
        taken = {name for name in names if cleaned[name] == name}
        for name, plain in cleaned.items():
            if plain == name:
                continue
            numbered = (f"{plain}_{n}" for n in itertools.count(2))
            cleaned[name] = next(free for free in itertools.chain([plain], numbered) if free not in taken)
            taken.add(cleaned[name])
        return tuple(cleaned.values())

    def _clean_label_name(self, name: str) -> str:
        plain = self._escaping.clean_label(name)
        if not plain.strip("_"):
            plain = "label"
        elif plain.startswith("__"):
            plain = "_" + plain.lstrip("_")
        return f"exported_{plain}" if plain in self._meant else plain


_MEANT_LABELS = frozenset({"category", "metric", "raw_labels", "le", "quantile"})


def without_state(series: ExposedSeries) -> Labels:
    """Return the labels of a series of states without the state."""
    return tuple(pair for pair in series.labels if pair[0] != series.family.name)


def _with_state(labels: Labels, label: str) -> Labels:
    """Return the labels of a state, whose own has the name of the family; another label of that name is renamed."""
    others, apart = {name for name, _ in labels}, label
    while apart in others:
        apart = f"exported_{apart}"
    renamed = {label: apart, STATE: label}
    return tuple(sorted((renamed.get(name, name), value) for name, value in labels))


def _generated_help(kind: Kind, type_: Type, stem: str, unit: str) -> str:
    words = stem.replace("_", " ").strip() or stem
    if kind is Kind.TIMESTAMP:
        return f"Time of {words}, in seconds since 1970-01-01 UTC."
    if type_ is Type.HISTOGRAM:
        return f"Distribution of {words}, in {unit.replace('_', ' ')}."
    if type_ is Type.COUNTER:
        return f"Total number of {words}."
    if type_ is Type.INFO:
        return f"Information about {words}."
    if type_ is Type.STATESET:
        return f"State of {words}."
    return f"Current value of {words}."


def _candidates(stem: str, suffixes: tuple[str, ...], type_: Type) -> Iterator[str]:
    """Give the possible names of a family, the best first, without end."""
    for extra in itertools.chain([(), ("value",)], (("value", str(n)) for n in itertools.count(2))):
        name = "_".join((stem, *extra, *suffixes))
        yield name.removesuffix(type_.ending)
