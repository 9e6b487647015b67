"""The configuration's keys: one frozen dataclass a section, one field a key.

A field is the whole declaration of its key: annotation, default, and in its metadata (under ``"rule"``) a `Rule`.
A key whose field is left out of ``repr()`` is a secret, whose value no message shows.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple


class ConfigError(ValueError):
    """A configuration that cannot be used. The message is one line: file, key, value found, what is allowed."""


class Rule(NamedTuple):
    """What is allowed for a key, and what the key is for.

    Attributes:
        types: the types that a value may have. A bool is not taken for an int.
        accepts: whether a value of such a type is allowed.
        allowed: the same in words, as error messages give it.
        about: one line that says what the key is for.

    """

    types: tuple[type, ...]
    accepts: Callable[[Any], bool]
    allowed: str
    about: str

    def fits(self, value: object) -> bool:
        """Tell whether a value is of an allowed type, and allowed."""
        if isinstance(value, bool) and bool not in self.types:
            return False
        return isinstance(value, self.types) and self.accepts(value)


def _switch(about: str) -> dict[str, Rule]:
    return {"rule": Rule((bool,), lambda value: True, "true or false", about)}


def _integer(low: int, high: int, about: str) -> dict[str, Rule]:
    allowed = f"an integer from {low} to {high}"
    return {"rule": Rule((int,), lambda value: low <= value <= high, allowed, about)}


def _choice(*choices: str, about: str) -> dict[str, Rule]:
    return {"rule": Rule((str,), lambda value: value in choices, " or ".join(map(repr, choices)), about)}


def _text(pattern: str, allowed: str, about: str) -> dict[str, Rule]:
    return {"rule": Rule((str,), lambda value: re.fullmatch(pattern, value) is not None, allowed, about)}


def _optional_text(pattern: str, allowed: str, about: str) -> dict[str, Rule]:
    def accepts(value: str | None) -> bool:
        return value is None or re.fullmatch(pattern, value) is not None

    return {"rule": Rule((str, type(None)), accepts, f"null, or {allowed}", about)}


def _mapping(key: str, value: str, allowed: str, about: str) -> dict[str, Rule]:
    def accepts(given: dict[object, object]) -> bool:
        return all(
            isinstance(a, str) and re.fullmatch(key, a) and isinstance(b, str) and re.fullmatch(value, b)
            for a, b in given.items()
        )

    return {"rule": Rule((dict,), accepts, allowed, about)}


def _address(about: str) -> dict[str, Rule]:
    allowed = "'host:port' or '[ipv6]:port' (port 0 to 65535), or 'unix:/path' (at most 107 bytes of path)"
    return {"rule": Rule((str,), _is_address, allowed, about)}


def _globs(about: str) -> dict[str, Rule]:
    allowed = "a list of texts that are not empty, as 'category.metric' with * and ?"
    return {"rule": Rule((list, tuple), _are_texts, allowed, about)}


def _are_texts(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) and value for value in values)


def _hosts(about: str) -> dict[str, Rule]:
    def accepts(given: list[object]) -> bool:
        return all(isinstance(each, str) and _is_address(each) and not each.startswith("unix:") for each in given)

    return {"rule": Rule((list,), accepts, "a list of 'host:port' or '[ipv6]:port' (port 0 to 65535)", about)}


def _path(about: str) -> dict[str, Rule]:
    allowed = "a non-empty path without NUL, where a ~user at its start must be a known one"
    return {"rule": Rule((str, os.PathLike), _is_path, allowed, about)}


def _is_address(value: str) -> bool:
    if not value.isprintable():
        return False
    if match := re.fullmatch(r"unix:(?://)?(/[^/].*)", value):
        return len(os.fsencode(match[1])) <= 107  # sun_path holds 108 bytes, the last of them NUL
    match = re.fullmatch(r"(?:\[([^\]]+)\]|[^\s:/@\[\]]+):([0-9]{1,5})", value)
    return match is not None and int(match[2]) <= 65535 and (match[1] is None or _is_ipv6(match[1]))


def _is_ipv6(value: str) -> bool:
    address, zone_mark, zone = value.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return False
    return bool(zone) or not zone_mark


def _is_path(value: str | os.PathLike[str] | os.PathLike[bytes]) -> bool:
    try:
        encoded = os.fsencode(os.path.expanduser(value))
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return False
    return encoded != b"" and b"\0" not in encoded and not encoded.startswith(b"~")


@dataclass(frozen=True, slots=True)
class PathSettings:
    """The section ``path``. A relative ``data`` is taken from the current directory and made absolute."""

    data: Path = field(
        default=Path("data"), metadata=_path("Data directory; statistics live in its sub-directory stats.")
    )

    def __post_init__(self) -> None:
        """Make ``data`` absolute."""
        try:
            absolute = os.path.abspath(self.data)  # normalises too, and leaves symbolic links alone
        except FileNotFoundError:
            raise ConfigError(
                f"path.data: found {shown(str(self.data))}, which is relative, and the current directory "
                "no longer exists; allowed here: an absolute path"
            ) from None
        object.__setattr__(self, "data", Path(absolute))


@dataclass(frozen=True, slots=True)
class StatsSettings:
    """The section ``stats``."""

    enabled: bool = field(default=True, metadata=_switch("Whether anything is counted; if not, every call is a no-op."))
    persist: bool = field(default=True, metadata=_switch("Whether statistics are saved and survive a restart."))
    no_buffer: bool = field(default=True, metadata=_switch("Whether every operation reaches the shared block at once."))
    include_storage_stats_in_api: bool = field(
        default=True, metadata=_switch("Whether /stats shows the figures of disk and data directory.")
    )
    buffer_size: int = field(
        default=1000, metadata=_integer(1, 1_000_000, "Buffered mode: operations held before a flush.")
    )
    flush_interval_ms: int = field(
        default=1000, metadata=_integer(1, 3_600_000, "Buffered mode: longest time between flushes, in ms.")
    )
    capacity: int = field(
        default=262_144,
        metadata=_integer(
            256,
            16_777_216,
            "Counters of 16 bytes that each worker row has room for; a gauge takes 24 bytes, a"
            " histogram of times 1328.",
        ),
    )
    max_workers: int = field(
        default=64, metadata=_integer(1, 1024, "Worker rows; processes beyond that number share rows.")
    )
    snapshot_interval_ms: int = field(
        default=10_000, metadata=_integer(100, 86_400_000, "Time between saved snapshots, in ms.")
    )
    durable_exposition: bool = field(
        default=True,
        metadata=_switch("Whether what a page or a push shows is on the disk first; only with persist."),
    )
    expire_idle_seconds: int = field(
        default=0,
        metadata=_integer(0, 315_360_000, "Seconds after which a label set that nobody touched is removed; 0: never."),
    )
    max_series_per_metric: int = field(
        default=1000, metadata=_integer(1, 16_777_216, "Label sets of one metric; further ones share a set.")
    )
    archive_interval_hours: int = field(
        default=0, metadata=_integer(0, 8760, "Hours between dated copies of the saved snapshot; 0: there are none.")
    )
    archive_keep: int = field(default=14, metadata=_integer(1, 1000, "Dated copies that are kept."))


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The section ``api``. ``token`` is a secret and left out of ``repr()``."""

    bind: str = field(default="127.0.0.1:8080", metadata=_address("Where the HTTP endpoints are served."))
    workers: int = field(default=2, metadata=_integer(1, 1024, "Worker processes that serve them."))
    token: str | None = field(
        default=None,
        repr=False,
        metadata=_optional_text(
            "[!-~]+",
            "one or more printable ASCII characters without blanks",
            "Bearer token for the debug and file endpoints.",
        ),
    )
    protect: str = field(
        default="admin",
        metadata=_choice("admin", "all", about="Which endpoints are protected: debug and files, or all."),
    )
    peers: list[str] = field(
        default_factory=list, metadata=_hosts("Machines to scrape, this one among them, that /stats/targets tells of.")
    )


@dataclass(frozen=True, slots=True)
class StatsdSettings:
    """The section ``statsd``."""

    enabled: bool = field(default=False, metadata=_switch("Whether every operation goes to a StatsD server too."))
    host: str = field(
        default="localhost",
        metadata=_text(
            r"[^\s\x00-\x1f\x7f\ud800-\udfff]+",
            "a host name or an address, not empty, without blanks or control characters",
            "The server's host name or address.",
        ),
    )
    port: int = field(default=8125, metadata=_integer(1, 65535, "The server's port."))
    protocol: str = field(
        default="udp", metadata=_choice("udp", "tcp", about="The transport protocol that it listens on.")
    )
    namespace: str = field(
        default="app.",
        metadata=_text(
            r"(?:(?![:|@#])[!-~])*",
            "printable ASCII characters without blanks and : | @ #, or ''",
            "What every name begins with there.",
        ),
    )
    interval_in_seconds: int = field(
        default=1, metadata=_integer(1, 3600, "Longest time that operations are held, in seconds.")
    )
    buffer_size: int = field(default=100, metadata=_integer(1, 1_000_000, "Operations held before they are sent."))


_PORT = "(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"


@dataclass(frozen=True, slots=True)
class PushSettings:
    """The section ``push``. ``url`` and ``headers`` may hold secrets and are left out of ``repr()``."""

    url: str | None = field(
        default=None,
        repr=False,
        metadata=_optional_text(
            rf"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::{_PORT})?(?:[/?][!-\"$-~]*)?",
            "'http://host/path' or 'https://host/path', printable ASCII without blanks, user, password or fragment",
            "Where the statistics are pushed to; null: they are not.",
        ),
    )
    format: str = field(
        default="remote_write",
        metadata=_choice("remote_write", "otlp", "import", about="What the server takes; import is VictoriaMetrics'."),
    )
    interval_seconds: int = field(default=15, metadata=_integer(1, 3600, "Time between two pushes, in seconds."))
    timeout_seconds: int = field(default=10, metadata=_integer(1, 300, "Longest time that a push takes, in seconds."))
    labels: dict[str, str] = field(
        default_factory=dict,
        metadata=_mapping(
            r"(?!__)(?!(?:le|quantile|instance)$)[a-zA-Z_][a-zA-Z0-9_]*",
            r"[^\x00\ud800-\udfff]{1,1024}",
            "a mapping of label names (letters, digits and _; not instance, le, quantile or __...) to quoted texts",
            "Labels of every series; job is 'shmstats' unless it is given here.",
        ),
    )
    instance: str | None = field(
        default=None,
        metadata=_optional_text(
            r"[^\s\x00-\x1f\x7f\ud800-\udfff]{1,255}",
            "1 to 255 characters without blanks",
            "The label instance; null: the UUID of the data directory.",
        ),
    )
    headers: dict[str, str] = field(
        default_factory=dict,
        repr=False,
        metadata=_mapping(
            r"(?!(?i:host|connection|content-.*|transfer-encoding|expect)$)[!#$%&'*+.^_`|~0-9A-Za-z-]+",
            r"[ -~]+",
            "a mapping of header names (not Host, Connection, Content-... or the like) to quoted ASCII texts",
            "Headers of every request.",
        ),
    )
    headers_file: str | None = field(
        default=None,
        metadata=_optional_text(
            r"/[^\x00]+", "an absolute path", "File of further headers, a line each, read before each push."
        ),
    )
    ca_file: str | None = field(
        default=None,
        metadata=_optional_text(
            r"/[^\x00]+", "an absolute path", "PEM file of the certificates to trust, instead of the system's."
        ),
    )


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """The section ``history``."""

    enabled: bool = field(
        default=True, metadata=_switch("Whether the last 24 hours are kept, where statistics are saved.")
    )
    series: Sequence[str] = field(
        default=(), metadata=_globs("Series that are kept before others, of the 512 that there is room for.")
    )


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """The section ``prometheus``."""

    namespace: str = field(
        default="",
        metadata=_text(
            r"(?:[a-zA-Z_:][a-zA-Z0-9_:]*)?",
            "letters, digits, _ and :, not a digit first, or ''",
            "What every name on the Prometheus page begins with, before an underscore.",
        ),
    )
    labels: dict[str, str] = field(
        default_factory=dict,
        metadata=_mapping(
            r"(?!__)(?!(?:category|metric|raw_labels|le|quantile)$)[a-zA-Z_][a-zA-Z0-9_]*",
            r"[^\x00\ud800-\udfff]{1,1024}",
            "a mapping of label names (letters, digits and _; not category, metric, le or __...) to quoted texts",
            "Labels of every series on the Prometheus page.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration, checked. ``source`` is the absolute path of its file, if it has one."""

    path: PathSettings = field(default_factory=PathSettings)
    stats: StatsSettings = field(default_factory=StatsSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    statsd: StatsdSettings = field(default_factory=StatsdSettings)
    push: PushSettings = field(default_factory=PushSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    prometheus: PrometheusSettings = field(default_factory=PrometheusSettings)
    source: str | None = None


def shown(text: str) -> str:
    """Return text as a message shows it: as it is, or quoted where it could break the line."""
    return text if text.isprintable() and text else repr(text)


#: The class of each section, by the section's name.
SECTIONS: Final[dict[str, Any]] = {
    section.name: section.default_factory for section in fields(Settings) if section.default_factory is not MISSING
}
