"""Finds a configuration, and checks each value against its rule.

`load` takes a file, a mapping or nothing. Sections of other names are the application's: they are neither
constructed nor checked, only a name that is nearly one of ours is warned about.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from shmstats.config.rules import SECTIONS, ConfigError, Rule, Settings, shown
from shmstats.once import Once

log = logging.getLogger("shmstats")

#: Names the configuration file where `load` is given none.
ENVIRONMENT_VARIABLE = "SHMSTATS_CONFIG"

#: Looked for in the current directory where the environment names no file either.
DEFAULT_FILE = "shmstats.yml"

_warned = Once()


def load(config: str | os.PathLike[str] | Mapping[str, object] | None = None) -> Settings:
    """Find, check and return the configuration.

    What is not given has its default, and so have the keys of a section that is null. A relative
    ``path.data`` counts from the directory of the file that says it, one from a mapping and the default
    from the current directory.

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
        return _from_file(path, shown(path))
    raise TypeError(f"config must be the path of a YAML file, a mapping or None, not {type(config).__name__}")


class _Origin(NamedTuple):
    """Where values come from: ``where`` for messages, ``source`` the absolute path of a file."""

    where: str
    source: str | None = None


# Finding and parsing


def _find() -> Settings:
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return _from_file(named, f"{shown(named)} (named by ${ENVIRONMENT_VARIABLE})")
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
        if error.errno is None:  # not the system\'s, but what a signal handler raised
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
    """Open a file without waiting for the other end of a pipe, which may never come."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_a_file(found: os.stat_result) -> bool:
    """Tell whether reading comes to an end: of a file, and of /dev/null. Reading a directory is an error by itself."""
    if stat.S_ISCHR(found.st_mode):
        return found.st_rdev == os.stat(os.devnull).st_rdev
    return stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key given twice and says where a value is that it cannot convert."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; what YAML's own conversions let out (of 2024-13-01, say) gets its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                problem=f"cannot be read as a YAML {kind}", problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Construct a mapping; a key that was merged (``<<``) may be given again, any other may not."""
        own = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in own:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {_without_value(key.value)} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parsed(text: str, where: str) -> Mapping[str, object]:
    """Return the sections of a YAML document; only those of this package are constructed, others are None."""
    try:
        loader = _Loader(text)
        document = loader.get_single_node()
        if document is None or document.tag == "tag:yaml.org,2002:null":
            return {}
        if not isinstance(document, yaml.MappingNode):
            raise ConfigError(f"{where}: found a {_node_kind(document)} at the top; allowed: a mapping of sections")
        names = [key.value for key, _ in document.value if isinstance(key, yaml.ScalarNode)]
        document.value = [(key, value) for key, value in document.value if key.value in (*SECTIONS, "<<")]
        return {**dict.fromkeys(names), **loader.construct_document(document)}
    except yaml.reader.ReaderError as error:
        place = _place(text[: error.position])
        raise ConfigError(f"{where}: {place}: YAML does not allow the character {error.character:#x}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{where}: {_described(error)}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None


def _node_kind(node: yaml.Node) -> str:
    return type(node).__name__.removesuffix("Node").lower()


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


# Checking


def _settings(given: Mapping[str, object], origin: _Origin) -> Settings:
    _warn_of_near_names(given, origin)
    checked = {name: _checked(name, given.get(name), origin) for name in SECTIONS}
    if "data" in checked["path"]:
        directory = os.path.dirname(origin.source) if origin.source else ""
        checked["path"]["data"] = Path(directory, os.path.expanduser(os.fsdecode(checked["path"]["data"])))
    sections = {name: section(**checked[name]) for name, section in SECTIONS.items()}
    return Settings(**sections, source=origin.source)


def _warn_of_near_names(given: Iterable[object], origin: _Origin) -> None:
    """Warn of sections that are ignored, though their names are nearly ours."""
    for name in given:
        if isinstance(name, str) and name not in SECTIONS and (near := _nearest(name, SECTIONS, cutoff=0.8)):
            said = f"{origin.where}: the section {shown(name)} is ignored (did you mean {near}?)"
            if _warned.first(said):
                log.warning("%s", said)


def _checked(section: str, given: object, origin: _Origin) -> dict[str, Any]:
    """Return what is given of a section, every value checked against its rule."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{origin.where}: {section}: found {_a(given)}; allowed: a mapping of keys")
    keys = {key.name: key for key in fields(SECTIONS[section])}
    for name, value in given.items():
        if not isinstance(name, str):
            raise ConfigError(f"{origin.where}: {section}: found the key {_found(name)}; allowed: strings only")
        if name not in keys:
            dotted = f"{section}.{_without_value(name)}"
            raise ConfigError(f"{origin.where}: {shown(dotted)}: {_unknown(name, keys)}")
        if not keys[name].metadata["rule"].fits(value):
            raise ConfigError(f"{origin.where}: {section}.{name}: {_refused(keys[name], value, origin)}")
    return dict(given)


def _unknown(name: str, known: Iterable[str]) -> str:
    near = _nearest(name.partition(":")[0].lower(), known, cutoff=0.5)
    hint = f" (did you mean {near}?)" if near else ""
    return f"found an unknown key{hint}; allowed: {', '.join(known)}"


def _nearest(name: str, known: Iterable[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


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


def _without_value(key: str) -> str:
    """Return a key without what follows a colon: ``token:secret`` lacks only a blank."""
    name, colon, _ = key.partition(":")
    return f"{name}:..." if colon else name
