"""YAML to checked, typed settings.

`load` finds a configuration, checks the sections that are this package's and returns them as a
`Settings`: one frozen dataclass per section, one field per key. A field *is* the declaration of its
key: its annotation and default, and in its metadata (under ``"rule"``) a `Rule` that says what is
allowed and what the key is for. There is no other list of keys.

The way of a file: its text becomes YAML nodes, of which only this package's sections are made into
values, so that tags or mistakes in an application's own sections are not this module's concern.
From there on a file and a given mapping go the same way: every value is held against its rule, and
the first that does not fit is reported by a `ConfigError` of one line. A key whose field is left out
of ``repr()`` is a secret, and its value is never shown.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Container, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .interruption import came_from_handler

if TYPE_CHECKING:
    import yaml

#: Names the configuration file where `load` is given none.
ENVIRONMENT_VARIABLE = "SHMSTATS_CONFIG"

#: Looked for in the current directory where the environment names no file either.
DEFAULT_FILE = "shmstats.yml"


def _import_yaml() -> None:
    """Have the parser of YAML, which takes as long to import as all the rest of this package."""
    global yaml
    import yaml


# Not where it is used first, if it will be used: a fork, or a signal handler, in the middle of an import finds
# half a module. Without a file there is only the one that is given to `load`, by code that sees to the start.
if os.environ.get(ENVIRONMENT_VARIABLE) or os.path.exists(DEFAULT_FILE):
    _import_yaml()


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line and says where and why."""


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


def _address(about: str) -> dict[str, Rule]:
    allowed = "'host:port' or '[ipv6]:port' (port 0 to 65535), or 'unix:/path' (at most 107 bytes of path)"
    return {"rule": Rule((str,), _is_address, allowed, about)}


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
    import ipaddress  # here, because only a configured address has a use for it

    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return True


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
                f"path.data: found {_shown(str(self.data))}, which is relative, and the current directory "
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
    capacity: int = field(default=65536, metadata=_integer(256, 16_777_216, "Cells in each worker row."))
    max_workers: int = field(
        default=64, metadata=_integer(1, 1024, "Worker rows; processes beyond that number share rows.")
    )
    snapshot_interval_ms: int = field(
        default=10_000, metadata=_integer(100, 86_400_000, "Time between saved snapshots, in ms.")
    )
    max_series_per_metric: int = field(
        default=1000, metadata=_integer(1, 16_777_216, "Label sets of one metric; further ones share a set.")
    )


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


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration, checked. ``source`` is the absolute path of its file, if it has one."""

    path: PathSettings = field(default_factory=PathSettings)
    stats: StatsSettings = field(default_factory=StatsSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    statsd: StatsdSettings = field(default_factory=StatsdSettings)
    source: str | None = None


def load(config: str | os.PathLike[str] | Mapping[str, object] | None = None) -> Settings:
    """Find, check and return the configuration.

    Top-level sections of other names are ignored; what is not given has its default, and so have the
    keys of a section that is null. A relative ``path.data`` counts from the directory of the file that
    says it, one from a mapping and the default from the current directory.

    Args:
        config: the path of a YAML file in UTF-8, or a mapping of sections. None: the file that
            ``$SHMSTATS_CONFIG`` names if it is set and not empty, else ``shmstats.yml`` in the current
            directory if there is one, else the defaults.

    Returns:
        Settings of which every value is within its rule.

    Raises:
        ConfigError: the file cannot be read or is not YAML, or a key is unknown or given twice, or a
            value has the wrong type or is out of range.
        TypeError: ``config`` is none of these.
    """
    if config is None:
        return _find()
    if isinstance(config, Mapping):
        return _settings(config, _Origin("the given mapping"))
    if isinstance(config, (str, os.PathLike)):
        path = os.fsdecode(config)
        return _from_file(path, _shown(path))
    raise TypeError(f"config must be the path of a YAML file, a mapping or None, not {type(config).__name__}")


class _Origin(NamedTuple):
    """Where values come from: ``where`` for messages, ``source`` the absolute path of a file."""

    where: str
    source: str | None = None


def _find() -> Settings:
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return _from_file(named, f"{_shown(named)} (named by ${ENVIRONMENT_VARIABLE})")
    if os.path.exists(DEFAULT_FILE):
        return _from_file(DEFAULT_FILE, DEFAULT_FILE)
    return Settings()


def _from_file(path: str, where: str) -> Settings:
    given = _parsed(_read(path, where), where)
    return _settings(given, _Origin(where, os.path.abspath(path)))


def _read(path: str, where: str) -> str:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            raw = file.read() if _is_a_file(os.fstat(file.fileno())) else None
    except OSError as error:
        if came_from_handler(error):
            raise
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # NUL or a lone surrogate in the path
        raise ConfigError(f"{where}: cannot be read: {error}") from error
    if raw is None:
        raise ConfigError(f"{where}: is not a regular file")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: {_place(raw[: error.start].decode())}: byte 0x{raw[error.start]:02x} is not UTF-8"
        ) from None


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe may have no other end, and a process would hang where it counts first."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_a_file(found: os.stat_result) -> bool:
    """Tells whether something has an end: a file, also the empty one. A directory says by itself what it is."""
    if stat.S_ISCHR(found.st_mode):
        return found.st_rdev == os.stat(os.devnull).st_rdev
    return stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)


def _parsed(text: str, where: str) -> dict[str, object]:
    """Return this package's sections of a YAML document, as ``yaml.safe_load`` would make them."""
    _import_yaml()
    try:
        loader = yaml.SafeLoader(text)
        document = loader.get_single_node()
        if document is None or document.tag == "tag:yaml.org,2002:null":
            return {}
        if not isinstance(document, yaml.MappingNode):
            raise ConfigError(f"{where}: found a {_node_kind(document)} at the top; allowed: a mapping of sections")
        return _sections(loader, document)
    except yaml.reader.ReaderError as error:
        place = _place(text[: error.position])
        raise ConfigError(f"{where}: {place}: YAML does not allow the character {error.character:#x}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{where}: {_described(error)}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None


def _sections(loader: yaml.SafeLoader, document: yaml.MappingNode) -> dict[str, object]:
    _refuse_duplicates(document, prefix="", among=_SECTIONS)
    loader.flatten_mapping(document)
    return {
        name.value: _section_value(loader, node, name.value)
        for name, node in document.value
        if _is_string(name) and name.value in _SECTIONS
    }


def _section_value(loader: yaml.SafeLoader, node: yaml.Node, section: str) -> object:
    if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
        return _value(loader, node)
    _refuse_duplicates(node, prefix=f"{section}.")
    loader.flatten_mapping(node)
    return {_key(loader, key): _value(loader, value) for key, value in node.value}


def _refuse_duplicates(mapping: yaml.MappingNode, prefix: str, among: Container[str] | None = None) -> None:
    """Raise for a second key of one name, of which YAML's own loader would silently take the last."""
    seen: set[str] = set()
    for key, _ in mapping.value:
        if not _is_string(key) or (among is not None and key.value not in among):
            continue
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                problem=f"{_dotted(prefix, key.value)} is given twice", problem_mark=key.start_mark
            )
        seen.add(key.value)


def _is_string(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.tag == "tag:yaml.org,2002:str"


def _node_kind(node: yaml.Node) -> str:
    return type(node).__name__.removesuffix("Node").lower()


def _key(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    if not isinstance(node, yaml.ScalarNode):  # not hashable, as likely as not
        raise yaml.constructor.ConstructorError(
            problem=f"found a {_node_kind(node)} as a key; allowed: a string", problem_mark=node.start_mark
        )
    return _value(loader, node)


def _value(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, LookupError, AttributeError, OverflowError):
        # What the loader's own conversions let out, at 2024-13-01 for example.
        kind = node.tag.rpartition(":")[2]
        raise yaml.constructor.ConstructorError(
            problem=f"cannot be read as a YAML {kind}", problem_mark=node.start_mark
        ) from None


def _described(error: yaml.MarkedYAMLError) -> str:
    """Return a YAML error as one line, without the text that it quotes, which may be part of a secret."""
    said = ", ".join(part for part in (error.context, error.problem) if part)
    said = re.sub(r"""(['"])(.*?)\1""", _quoted, " ".join(said.split()))
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}" if mark else said


def _quoted(quotation: re.Match[str]) -> str:
    harmless = re.fullmatch(r".|\\.|<[a-z ]+>", quotation[2])  # one character, or the name of a token
    return quotation[0] if harmless else "(not shown)"


def _place(before: str) -> str:
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _settings(given: Mapping[str, object], origin: _Origin) -> Settings:
    checked = {name: _checked(name, given.get(name), origin) for name in _SECTIONS}
    if "data" in checked["path"]:
        directory = os.path.dirname(origin.source) if origin.source else ""
        checked["path"]["data"] = Path(directory, os.path.expanduser(os.fsdecode(checked["path"]["data"])))
    sections = {name: section(**checked[name]) for name, section in _SECTIONS.items()}
    return Settings(**sections, source=origin.source)


def _checked(section: str, given: object, origin: _Origin) -> dict[str, Any]:
    """Return what is given of a section, every value of it having been held against its rule."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{origin.where}: {section}: found {_a(given)}; allowed: a mapping of keys")
    keys = {key.name: key for key in fields(_SECTIONS[section])}
    for name, value in given.items():
        if not isinstance(name, str):
            raise ConfigError(f"{origin.where}: {section}: found the key {_found(name)}; allowed: strings only")
        if name not in keys:
            raise ConfigError(f"{origin.where}: {_dotted(f'{section}.', name)}: {_unknown(name, list(keys))}")
        if not _fits(keys[name].metadata["rule"], value):
            raise ConfigError(f"{origin.where}: {section}.{name}: {_refused(keys[name], value, origin)}")
    return dict(given)


def _fits(rule: Rule, value: object) -> bool:
    if isinstance(value, bool) and bool not in rule.types:
        return False
    return isinstance(value, rule.types) and rule.accepts(value)


def _unknown(name: str, known: list[str]) -> str:
    import difflib  # here, because it is of use only in this mistake

    near = difflib.get_close_matches(name.partition(":")[0].lower(), known, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"found an unknown key{hint}; allowed: {', '.join(known)}"


def _refused(key: Field[Any], value: object, origin: _Origin) -> str:
    rule: Rule = key.metadata["rule"]
    found = _found(value) if key.repr else f"{_a(value)}, which is not shown"
    said = f"found {found}; allowed: {rule.allowed}"
    if origin.source is None or str not in rule.types or not isinstance(value, (int, float, date)):
        return said
    return f"{said} (YAML makes unquoted no, on, 12:30 or 2024-01-31 a bool, a number or a date: use quotes)"


def _a(value: object) -> str:
    """Return the name of a value's type with its article."""
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeioAEIO' else 'a'} {kind}"


def _found(value: object) -> str:
    """Return a short description of a value with its type, on one line."""
    kind = type(value).__name__
    if value is None:
        return "null (NoneType)"
    if isinstance(value, str):
        return f"{value[:60]!r}{'...' if len(value) > 60 else ''} ({kind})"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits ({kind})"
    if isinstance(value, (int, float)):
        return f"{value!r} ({kind})"
    return f"a value of type {kind}"


def _dotted(prefix: str, name: str) -> str:
    """Return a key's dotted name, without what follows a colon: ``token:secret`` lacks only a blank."""
    key, colon, _ = name.partition(":")
    return _shown(f"{prefix}{key}:..." if colon else f"{prefix}{key}")


def _shown(text: str) -> str:
    return text if text.isprintable() and text else repr(text)


#: The classes of the sections, by the sections' names.
_SECTIONS: Final[dict[str, Any]] = {
    section.name: section.default_factory for section in fields(Settings) if section.default_factory is not MISSING
}
