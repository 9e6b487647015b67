"""The configuration's keys: a class for each section, with a field for each key, whose value is its `Rule`."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from shmstats.frozen import Frozen


class ConfigError(ValueError):
    """A configuration that cannot be used. The message is one line: file, key, value found, values allowed."""


class Rule(Frozen):
    """The allowed values of a key. docs/configuration.md has the meaning of each.

    Attributes:
        default: the value if the key is not given.
        types: the allowed types. A bool is not an int.
        accepts: whether a value of such a type is allowed.
        allowed: the allowed values in words, for error messages.
        secret: whether messages must not show its value.

    """

    default: Any
    types: tuple[type, ...]
    accepts: Callable[[Any], bool]
    allowed: str
    secret: bool = False

    def fits(self, value: object) -> bool:
        """Tell whether a value is of an allowed type, and allowed."""
        if isinstance(value, bool) and bool not in self.types:
            return False
        return isinstance(value, self.types) and self.accepts(value)


class SettingsSection(Frozen):
    """Base of the sections. Secrets are left out of ``repr()``.

    Attributes:
        rules: of its keys, by name.
    """

    rules: ClassVar[dict[str, Rule]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.rules = cls._defaults
        cls._defaults = {name: rule.default for name, rule in cls.rules.items()}

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name, rule in self.rules.items() if not rule.secret)
        return f"{type(self).__name__}({', '.join(shown)})"


def _switch(default: bool) -> Any:
    return Rule(default, (bool,), lambda value: True, "true or false")


def _integer(default: int, limits: tuple[int, int]) -> Any:
    low, high = limits
    allowed = f"an integer from {low} to {high}"
    return Rule(default, (int,), lambda value: low <= value <= high, allowed)


def _choice(default: str, choices: tuple[str, ...]) -> Any:
    return Rule(default, (str,), lambda value: value in choices, " or ".join(map(repr, choices)))


def _text(default: str | None, pattern: str, allowed: str, secret: bool = False) -> Any:
    """Declare a text; it may be null if that is its default."""

    def accepts(value: str | None) -> bool:
        return value is None or re.fullmatch(pattern, value) is not None

    if default is None:
        return Rule(None, (str, type(None)), accepts, f"null, or {allowed}", secret)
    return Rule(default, (str,), accepts, allowed, secret)


def _mapping(key: str, value: str, allowed: str, secret: bool = False) -> Any:
    def accepts(given: dict[object, object]) -> bool:
        return all(
            isinstance(a, str) and re.fullmatch(key, a) and isinstance(b, str) and re.fullmatch(value, b)
            for a, b in given.items()
        )

    return Rule({}, (dict,), accepts, allowed, secret)


def _address(default: str) -> Any:
    allowed = "'host:port' or '[ipv6]:port' (port 0 to 65535), or 'unix:/path' (at most 107 bytes of path)"
    return Rule(default, (str,), _is_address, allowed)


def _texts(accepts: Callable[[str], bool], allowed: str) -> Any:
    def accept_all(given: Sequence[object]) -> bool:
        return all(isinstance(each, str) and accepts(each) for each in given)

    return Rule((), (list, tuple), accept_all, allowed)


def _path(default: Path) -> Any:
    allowed = "a non-empty path without NUL, where a ~user at its start must be a known one"
    return Rule(default, (str, os.PathLike), _is_path, allowed)


def _is_address(value: str) -> bool:
    if not value.isprintable():
        return False
    if match := re.fullmatch(r"unix:(?://)?(/[^/].*)", value):
        return len(os.fsencode(match[1])) <= 107  # sun_path holds 108 bytes, the last of them NUL
    match = re.fullmatch(r"(?:\[([^\]]+)\]|[^\s:/@\[\]]+):([0-9]{1,5})", value)
    return match is not None and int(match[2]) <= 65535 and (match[1] is None or _is_ipv6(match[1]))


def _is_host(value: str) -> bool:
    return _is_address(value) and not value.startswith("unix:")


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
    except UnicodeEncodeError:  # a lone surrogate without a byte
        return False
    return encoded != b"" and b"\0" not in encoded and not encoded.startswith(b"~")


class PathSettings(SettingsSection):
    """The section ``path``. A relative ``data`` becomes an absolute path from the current directory."""

    data: Path = _path(Path("data"))

    def __post_init__(self) -> None:
        """Make ``data`` absolute."""
        try:
            absolute = os.path.abspath(self.data)  # normalises too, and leaves symbolic links alone
        except FileNotFoundError:
            raise ConfigError(
                f"path.data: found {shown(str(self.data))}, which is relative, and the current directory "
                "no longer exists; allowed here: an absolute path"
            ) from None
        self.__dict__["data"] = Path(absolute)


class StatsSettings(SettingsSection):
    """The section ``stats``."""

    enabled: bool = _switch(True)
    persist: bool = _switch(True)
    no_buffer: bool = _switch(True)
    include_storage_stats_in_api: bool = _switch(True)
    buffer_size: int = _integer(1000, (1, 1_000_000))
    flush_interval_ms: int = _integer(1000, (1, 3_600_000))
    capacity: int = _integer(262_144, (256, 16_777_216))
    max_workers: int = _integer(64, (1, 1024))
    snapshot_interval_ms: int = _integer(10_000, (100, 86_400_000))
    durable_exposition: bool = _switch(True)
    expire_idle_seconds: int = _integer(0, (0, 315_360_000))
    max_series_per_metric: int = _integer(1000, (1, 16_777_216))
    archive_interval_hours: int = _integer(0, (0, 8760))
    archive_keep: int = _integer(14, (1, 1000))


class ApiSettings(SettingsSection):
    """The section ``api``. ``token`` is a secret and left out of ``repr()``."""

    bind: str = _address("127.0.0.1:8080")
    workers: int = _integer(2, (1, 1024))
    token: str | None = _text(None, "[!-~]+", "one or more printable ASCII characters without blanks", secret=True)
    protect: str = _choice("admin", ("admin", "all"))
    peers: Sequence[str] = _texts(_is_host, "a list of 'host:port' or '[ipv6]:port' (port 0 to 65535)")


class StatsdSettings(SettingsSection):
    """The section ``statsd``."""

    enabled: bool = _switch(False)
    host: str = _text(
        "localhost",
        r"[^\s\x00-\x1f\x7f\ud800-\udfff]+",
        "a host name or an address, not empty, without blanks or control characters",
    )
    port: int = _integer(8125, (1, 65535))
    protocol: str = _choice("udp", ("udp", "tcp"))
    namespace: str = _text(
        "app.", r"(?:(?![:|@#])[!-~])*", "printable ASCII characters without blanks and : | @ #, or ''"
    )
    interval_in_seconds: int = _integer(1, (1, 3600))
    buffer_size: int = _integer(100, (1, 1_000_000))


_PORT = "(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"


class PushSettings(SettingsSection):
    """The section ``push``. ``url`` and ``headers`` may hold secrets and are left out of ``repr()``."""

    url: str | None = _text(
        None,
        rf"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::{_PORT})?(?:[/?][!-\"$-~]*)?",
        "'http://host/path' or 'https://host/path', printable ASCII without blanks, user, password or fragment",
        secret=True,
    )
    format: str = _choice("remote_write", ("remote_write", "otlp", "import"))
    interval_seconds: int = _integer(15, (1, 3600))
    timeout_seconds: int = _integer(10, (1, 300))
    labels: dict[str, str] = _mapping(
        r"(?!__)(?!(?:le|quantile|instance)$)[a-zA-Z_][a-zA-Z0-9_]*",
        r"[^\x00\ud800-\udfff]{1,1024}",
        "a mapping of label names (letters, digits and _; not instance, le, quantile or __...) to quoted texts",
    )
    instance: str | None = _text(None, r"[^\s\x00-\x1f\x7f\ud800-\udfff]{1,255}", "1 to 255 characters without blanks")
    headers: dict[str, str] = _mapping(
        r"(?!(?i:host|connection|content-.*|transfer-encoding|expect)$)[!#$%&'*+.^_`|~0-9A-Za-z-]+",
        r"[ -~]+",
        "a mapping of header names (not Host, Connection, Content-... or the like) to quoted ASCII texts",
        secret=True,
    )
    headers_file: str | None = _text(None, r"/[^\x00]+", "an absolute path")
    ca_file: str | None = _text(None, r"/[^\x00]+", "an absolute path")


class HistorySettings(SettingsSection):
    """The section ``history``."""

    enabled: bool = _switch(True)
    series: Sequence[str] = _texts(bool, "a list of texts that are not empty, as 'category.metric' with * and ?")


class PrometheusSettings(SettingsSection):
    """The section ``prometheus``."""

    namespace: str = _text("", r"(?:[a-zA-Z_:][a-zA-Z0-9_:]*)?", "letters, digits, _ and :, not a digit first, or ''")
    labels: dict[str, str] = _mapping(
        r"(?!__)(?!(?:category|metric|raw_labels|le|quantile)$)[a-zA-Z_][a-zA-Z0-9_]*",
        r"[^\x00\ud800-\udfff]{1,1024}",
        "a mapping of label names (letters, digits and _; not category, metric, le or __...) to quoted texts",
    )


#: The class of each section, by the section's name.
SECTIONS: Final[dict[str, type[SettingsSection]]] = {
    "path": PathSettings,
    "stats": StatsSettings,
    "api": ApiSettings,
    "statsd": StatsdSettings,
    "push": PushSettings,
    "history": HistorySettings,
    "prometheus": PrometheusSettings,
}


#: Settings of sections that are not given; that of the path depends on the current directory.
_DEFAULTS = {name: section() for name, section in SECTIONS.items() if name != "path"}


class Settings(Frozen):
    """The whole configuration, checked. ``source`` is the absolute path of its file, if it has one."""

    path: PathSettings
    stats: StatsSettings
    api: ApiSettings
    statsd: StatsdSettings
    push: PushSettings
    history: HistorySettings
    prometheus: PrometheusSettings
    source: str | None

    def __init__(self, source: str | None = None, **sections: SettingsSection) -> None:
        here = {} if "path" in sections else {"path": PathSettings()}
        super().__init__(**_DEFAULTS | here | sections, source=source)

    def as_mapping(self) -> dict[str, dict[str, Any]]:
        """Return sections and keys, from which `load` makes the same settings."""
        return {name: getattr(self, name).as_dict() for name in SECTIONS}


def shown(text: str) -> str:
    """Return text for a message: unchanged, or quoted if it could break the line."""
    return text if text.isprintable() and text else repr(text)


def without_value(key: str) -> str:
    """Return a key without the part after a colon: in ``token:secret`` only a blank is missing."""
    name, colon, _ = key.partition(":")
    return f"{name}:..." if colon else name
