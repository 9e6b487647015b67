"""How a statistic gets its Prometheus name: metric families, sample labels, and who may have what.

A statistic is (category, metric, labels), three things that may hold any text. A sample is a family
name and labels, and families have rules: a small alphabet, one type each, suffixes that belong to a
type, and the naming conventions that ``promtool check metrics`` checks. `Namer` leads from the one to
the other. Both text formats use its result, so that a series has one identity whichever is scraped.

The plain form
    The family is the metric, followed by what its kind asks for::

        counter     api, requests             requests_total{category="api"}
        gauge       pool, open                open{category="pool"}
        timing      db, query                 query_seconds{category="db"}      (a histogram)
        timestamp   backup, last              last_timestamp_seconds{category="backup"}

    A counter that was decremented is a gauge. A declared unit comes before ``_total``, else last. What
    the metric already ends with is not said twice (``requests_total`` stays so). A metric called only
    ``total`` counts its category: ``requests_total{category="requests"}``.

Cleaning
    1. A character outside ``[a-zA-Z0-9_]`` loses its accent; whatever cannot becomes ``_``, runs of it one.
       A leading digit gets ``_`` before it. Where no letter or digit is left, the name is ``unnamed``.
    2. camelCase becomes snake_case.
    3. A type or an abbreviated unit as a word of its own is joined to the word before (``latency_ms`` to
       ``latencyms``), a unit that is not a base unit becomes its singular (``idle_hours`` to ``idle_hour``).
       The value is never scaled: a unit in a name is a guess, and a wrong guess would be a wrong number.
    4. A gauge whose name ends like another type's sample (``_total``, ``_count``, ``_sum``, ``_bucket``) gets
       ``_value`` after it.

    Whenever the family's name is not the plain form of the metric, the sample carries the metric as it was
    written: ``user_login_total{category="app",metric="user.login"}``. So two metrics that are equal after
    cleaning differ by that label, and a reader can always tell what was counted.

First come, first served
    What is left are clashes of plain forms: a counter ``hits`` and a counter ``hits_total``, a counter and
    a gauge of one name. Names are taken in the order of registration. The earlier one keeps its form.
    A later one that would give the same sample gets the ``metric`` label, and if even that is the same
    (labels equal after cleaning), a label ``raw_labels`` with its labels as they were written. A later one
    of another type than the family's goes to the family ``<metric>_value``, then ``<metric>_value_2`` and so
    on, and carries the ``metric`` label. Types clash as in OpenMetrics, where a counter ``x`` owns ``x``,
    ``x_total`` and ``x_created`` and a histogram ``x`` owns ``x``, ``x_bucket``, ``x_count``, ``x_sum`` and
    ``x_created``.

Labels
    Label names are cleaned by rules 1 and 2 and never begin with two underscores. Of those that become
    equal the ones that needed no cleaning keep their name, the others get ``_2``, ``_3`` and so on. Names
    that have a meaning here (``category``, ``metric``, ``raw_labels``, ``le``, ``quantile``) get
    ``exported_`` before them, as Prometheus does with a target's own.

System figures
    They have no labels and fixed families in base units, given away before any other name. A figure that is
    not in the table is the gauge ``system_<figure>``, cleaned as above.

What this costs: no name ever changes because another is registered later, and that holds without any
memory outside the names. But when an earlier name is removed, or becomes a gauge by its first decrement,
later ones of the same family may take another form at the next scrape. That needs a clash of two types to
begin with; whoever wants to be safe from it does not call a counter and a gauge by one name.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from shmstats.series import Kind, Labels, Name, label_text


class Type(Enum):
    """A family's type, and the suffixes of the names that a family of that type owns in OpenMetrics."""

    COUNTER = "counter", ("", "_total", "_created")
    GAUGE = "gauge", ("",)
    HISTOGRAM = "histogram", ("", "_bucket", "_count", "_sum", "_created")

    def __init__(self, word: str, owned: tuple[str, ...]) -> None:
        self.word = word
        self.owned = owned


class Family:
    """A metric family.

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
        """The name in the text format 0.0.4, and of the samples that have no further suffix."""
        return f"{self.name}_total" if self.type is Type.COUNTER else self.name

    def describe(self, help_: str, unit: str) -> None:
        """Take a member's help and unit, if they are the first and the unit is what the name ends with."""
        if help_ and not self._declared:
            self.help = help_
            self._declared = True
        if unit and not self.unit and self.name.endswith("_" + unit):
            self.unit = unit


class ExposedSeries(NamedTuple):
    """One statistic's place in the exposition: its family and its labels, ready but for escaping."""

    family: Family
    labels: Labels


class Figure(NamedTuple):
    """How a figure of ``Snapshot.system`` is shown: as a gauge of that family, divided by ``divisor``."""

    family: str
    divisor: int
    help: str
    unit: str = ""


#: The figures of the machine and the workers that are known by name.
SYSTEM_FIGURES = {
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
}


#: Categories of metrics that another library names and exports.
FOREIGN = frozenset({"prometheus_client"})


def is_time(unit: str) -> bool:
    """Tell whether a histogram of that declared unit holds times, which are kept in ms and shown in seconds."""
    return unit in _TIME_UNITS


class Namer:
    """Gives every statistic its family and labels; see the head of this module for the scheme.

    The result depends only on the system figures, and on the names and their order. Not thread-safe.
    """

    def __init__(self, system: Iterable[str] = ()) -> None:
        """Take the metrics of ``Snapshot.system``; their series are in `system`, in that order."""
        self._families: dict[str, Family] = {}
        self._owners: dict[str, Family] = {}
        self._resolved: dict[tuple[str, str, Kind, bool, str], tuple[Family, bool]] = {}
        self._label_names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._taken: set[ExposedSeries] = set()
        known = {metric: self._known_figure(figure) for metric, figure in SYSTEM_FIGURES.items()}
        self.system = [known[metric] if metric in known else self._other_figure(metric) for metric in system]

    def add(self, name: Name) -> ExposedSeries:
        """Give the next name its place; names must come in the order of their registration."""
        family, is_plain = self._family(name)
        if name.help or name.unit:
            family.describe(name.help.strip(), _shown_unit(name))
        head = (("category", name.category),)
        own = self._clean_labels(name.labels) if name.labels else ()
        marked = (*head, ("metric", name.metric))
        if is_plain and self._take(family, head + own):
            return ExposedSeries(family, head + own)
        if not self._take(family, marked + own):
            own = (*own, ("raw_labels", f"{{{label_text(name.labels)}}}"))
            self._take(family, marked + own)
        return ExposedSeries(family, marked + own)

    def _take(self, family: Family, labels: Labels) -> bool:
        """Tell whether nobody had this sample; an empty label counts as none, as it does in Prometheus."""
        sample = ExposedSeries(family, tuple([pair for pair in labels if pair[1]]))
        if sample in self._taken:
            return False
        self._taken.add(sample)
        return True

    def _family(self, name: Name) -> tuple[Family, bool]:
        """Return the family of a name, and whether its name is the plain form of the metric."""
        category = name.category if name.metric == "total" else ""
        key = (category, name.metric, name.kind, name.monotonic, name.unit)
        found = self._resolved.get(key)
        if found is None:
            found = self._resolved[key] = self._resolve(name)
        return found

    def _resolve(self, name: Name) -> tuple[Family, bool]:
        written = f"{name.category}_total" if name.metric == "total" else name.metric
        type_, suffixes = _type_and_suffixes(name)
        stem = _stem(written, suffixes)
        plain = "_".join((stem, *suffixes))
        is_plain = written in {"_".join((stem, *suffixes[:n])) for n in range(len(suffixes) + 1)}
        unit = _shown_unit(name)
        help_ = _generated_help(name.kind, type_, stem, unit)
        claims = (self._claim(candidate, type_, help_) for candidate in _candidates(stem, suffixes, type_))
        family = next(family for family in claims if family is not None)
        family.describe("", unit)
        return family, is_plain and family.exposed_name == plain

    def _claim(self, name: str, type_: Type, help_: str) -> Family | None:
        """Return the family of that name, made if nobody else owns the names it needs; None if it cannot be."""
        family = self._families.get(name)
        if family is not None:
            return family if family.type is type_ else None
        owned = [name + suffix for suffix in type_.owned]
        if any(each in self._owners for each in owned):
            return None
        family = Family(name, type_, help_)
        self._families[name] = family
        self._owners.update(dict.fromkeys(owned, family))
        return family

    def _known_figure(self, figure: Figure) -> ExposedSeries:
        family = self._claim(figure.family, Type.GAUGE, figure.help)
        assert family is not None, "the table of system figures clashes with itself"
        family.describe(figure.help, figure.unit)
        self._take(family, ())
        return ExposedSeries(family, ())

    def _other_figure(self, metric: str) -> ExposedSeries:
        name = Name("system", f"system_{metric}", Kind.GAUGE)
        family, is_plain = self._resolve(name)
        labels = () if is_plain and self._take(family, ()) else (("metric", metric),)
        self._take(family, labels)
        return ExposedSeries(family, labels)

    def _clean_labels(self, labels: Labels) -> Labels:
        names = tuple(name for name, _ in labels)
        cleaned = self._label_names.get(names)
        if cleaned is None:
            cleaned = self._label_names[names] = _clean_label_names(names)
        return tuple(sorted(zip(cleaned, (value for _, value in labels), strict=True)))


_IDENTIFIER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]+")
_ALNUM = re.compile(r"[a-zA-Z0-9]")
_CAMEL = re.compile(r"([a-z])([A-Z])")

_TIME_UNITS = {"", "seconds", "milliseconds", "ms"}
_MEANT_LABELS = {"category", "metric", "raw_labels", "le", "quantile"}
_MEANT_ENDINGS = ("_total", "_bucket", "_count", "_sum")

# The rules on words are those of client_golang's prometheus/testutil/promlint (v1.14).
_TYPE_WORDS = ("counter", "gauge", "histogram", "summary")
_ABBREVIATIONS = ("s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d")
_JOINED = re.compile(rf"_+({'|'.join(_TYPE_WORDS + _ABBREVIATIONS)})(?=_|$)", re.IGNORECASE)
_PREFIXES = (
    *("pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "kibi"),
    *("mega", "mibi", "giga", "gibi", "tera", "tebi", "peta", "pebi"),
)
_BASE_UNITS = {
    "amperes": "ampere",
    "bytes": "byte",
    "celsius": "degcelsius",
    "grams": "gram",
    "joules": "joule",
    "kelvin": "degkelvin",
    "meters": "meter",
    "metres": "metre",
    "seconds": "second",
    "volts": "volt",
}
_OTHER_UNITS = {
    "minutes": "minute",
    "hours": "hour",
    "days": "day",
    "weeks": "week",
    "kelvins": "degkelvin",
    "fahrenheit": "degfahrenheit",
    "rankine": "degrankine",
    "inches": "inch",
    "yards": "yard",
    "miles": "mile",
    "bits": "bit",
    "calories": "calorie",
    "pounds": "pound",
    "ounces": "ounce",
}
_SINGULAR = _BASE_UNITS | _OTHER_UNITS
#: Every word that a rule is about; a name in lower case without one of them is as it should be.
_LINTED_WORDS = frozenset(
    (*_TYPE_WORDS, *_ABBREVIATIONS, *(prefix + unit for prefix in ("", *_PREFIXES) for unit in _SINGULAR))
)
_UNIT = re.compile(rf"(?<![^_])({'|'.join(_PREFIXES)}|)({'|'.join(_SINGULAR)})(?![^_])")


def _type_and_suffixes(name: Name) -> tuple[Type, tuple[str, ...]]:
    """Return the type that a name is shown as, and the words that its family ends with."""
    if name.kind is Kind.HISTOGRAM:
        return Type.HISTOGRAM, (_shown_unit(name),)
    if name.kind is Kind.TIMESTAMP:
        return Type.GAUGE, ("timestamp", "seconds")
    unit = _shown_unit(name)
    units = (unit,) if unit else ()
    if name.kind is Kind.COUNTER and name.monotonic:
        return Type.COUNTER, (*units, "total")
    return Type.GAUGE, units


def _shown_unit(name: Name) -> str:
    """Return the unit of the value that is shown; "" where none is known."""
    if name.kind is Kind.TIMESTAMP or (name.kind is Kind.HISTOGRAM and is_time(name.unit)):
        return "seconds"
    return _ascii(name.unit)


def _generated_help(kind: Kind, type_: Type, stem: str, unit: str) -> str:
    words = stem.replace("_", " ").strip()
    if kind is Kind.TIMESTAMP:
        return f"Time of {words}, in seconds since 1970-01-01 UTC."
    if type_ is Type.HISTOGRAM:
        return f"Distribution of {words}, in {unit.replace('_', ' ')}."
    if type_ is Type.COUNTER:
        return f"Total number of {words}."
    return f"Current value of {words}."


def _stem(written: str, suffixes: tuple[str, ...]) -> str:
    """Return what remains of a metric without foreign characters and without the suffixes of its kind."""
    stem = _ascii(written)
    for suffix in reversed(suffixes):
        while stem.endswith(f"_{suffix}"):
            stem = stem.removesuffix(f"_{suffix}")
    if not _ALNUM.search(stem):
        return "unnamed"
    return f"_{stem}" if stem[0].isdigit() else stem


def _candidates(stem: str, suffixes: tuple[str, ...], type_: Type) -> Iterator[str]:
    """Give the names that a family may have, the best first, without end."""
    for extra in itertools.chain([(), ("value",)], (("value", str(n)) for n in itertools.count(2))):
        name = _linted("_".join((stem, *extra, *suffixes)))
        if type_ is Type.COUNTER:
            yield name.removesuffix("_total")
        else:
            yield f"{name}_value" if name.endswith(_MEANT_ENDINGS) else name


def _ascii(text: str) -> str:
    """Return the text in ``[a-zA-Z0-9_]``; may be empty or begin with a digit. An identifier stays what it is."""
    if _IDENTIFIER.fullmatch(text):
        return text
    decomposed = unicodedata.normalize("NFKD", text)
    bare = "".join([char for char in decomposed if not unicodedata.combining(char)])
    return _NOT_IN_NAMES.sub("_", bare).strip("_")


def _snake(name: str) -> str:
    return _CAMEL.sub(r"\1_\2", name).lower() if _CAMEL.search(name) else name


def _linted(name: str) -> str:
    """Return the name without words that lint rules forbid.

    Joining two words can make a third that is forbidden (``mile_s``), hence the repetition. It ends: each
    round takes away an underscore, a plural or a change of case, and none comes back for good.
    """
    if name.islower() and _LINTED_WORDS.isdisjoint(name.split("_")):
        return name
    while True:
        better = _UNIT.sub(_singular, _JOINED.sub(r"\1", _snake(name)))
        if better == name:
            return name
        name = better


def _singular(match: re.Match[str]) -> str:
    prefix, unit = match.groups()
    return match[0] if not prefix and unit in _BASE_UNITS else prefix + _SINGULAR[unit]


def _clean_label_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return label names that Prometheus takes, as many and all different."""
    cleaned = {name: _clean_label_name(name) for name in names}
    taken = {name for name in names if cleaned[name] == name}
    for name, plain in cleaned.items():
        if plain == name:
            continue
        numbered = (f"{plain}_{n}" for n in itertools.count(2))
        cleaned[name] = next(free for free in itertools.chain([plain], numbered) if free not in taken)
        taken.add(cleaned[name])
    return tuple(cleaned.values())


def _clean_label_name(name: str) -> str:
    plain = _snake(_ascii(name))
    if not _ALNUM.search(plain):
        plain = "label"
    if plain.startswith("__") or plain[0].isdigit():
        plain = "_" + plain.lstrip("_")
    return f"exported_{plain}" if plain in _MEANT_LABELS else plain
