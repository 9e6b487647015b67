"""Finds a configuration, and checks each value against its rule.

`load` takes a file, a mapping or nothing. Sections with other names belong to the application: they are neither
constructed nor checked, but a name that is almost one of ours causes a warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

from shmstats import lifecycle
from shmstats.config.rules import SECTIONS, ConfigError, Rule, Settings, shown, without_value
from shmstats.frozen import Frozen
from shmstats.once import Once

log = logging.getLogger("shmstats")

#: Names the configuration file if `load` gets none.
ENVIRONMENT_VARIABLE = "SHMSTATS_CONFIG"

#: Looked for in the current directory if the environment names no file either.
DEFAULT_FILE = "shmstats.yml"

_warned = Once()


def load(config: str | os.PathLike[str] | Mapping[str, object] | None = None) -> Settings:
    """Find, check and return the configuration.

    Keys that are not given have their defaults, and so have all keys of a section that is null. A relative
    ``path.data`` in a file is relative to the directory of that file; in a mapping, and by default, it is
    relative to the current directory.

    Args:
        config: the path of a YAML file in UTF-8, or a mapping of sections. None: the file that
            ``$SHMSTATS_CONFIG`` names if it is set and not empty, else ``shmstats.yml`` in the current
            directory if there is one, else the defaults.

    Returns:
        Settings in which every value follows its rule.

    Raises:
        ConfigError: the file cannot be read or is not YAML, or a key is unknown or given twice, or a
            value has the wrong type or is out of range.
        TypeError: ``config`` is not one of these.
    """
    if config is None:
        return _find()
    if isinstance(config, Mapping):
        return _settings(config, _Origin("the given mapping"))
    if isinstance(config, (str, os.PathLike)):
        path = os.fsdecode(config)
        return _from_file(path, shown(path))
    raise TypeError(f"config must be the path of a YAML file, a mapping or None, not {type(config).__name__}")


class _Origin(Frozen):
    """Where values come from: ``where`` for messages, ``source`` the absolute path of a file."""

    where: str
    source: str | None = None


# Finding


def _find() -> Settings:
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return _from_file(named, f"{shown(named)} (named by ${ENVIRONMENT_VARIABLE})")
    if os.path.exists(DEFAULT_FILE):
        return _from_file(DEFAULT_FILE, DEFAULT_FILE)
    return Settings()


def _from_file(path: str, where: str) -> Settings:
    return _settings(_reader().read(path, where), _Origin(where, os.path.abspath(path)))


def _reader() -> ModuleType:
    """Return the module that reads files. It imports yaml, which takes longer than everything that counts.

    Raises:
        ConfigError: this user cannot import it.
    """
    try:
        with lifecycle.no_fork():
            from . import file
    except ImportError as error:
        raise ConfigError(f"user {os.geteuid()} cannot import what reads a configuration file: {error}") from None
    return file


if os.environ.get(ENVIRONMENT_VARIABLE) or os.path.exists(DEFAULT_FILE):
    _reader()  # it will be needed, and workers that are forked later share it


# Checking


def _settings(given: Mapping[str, object], origin: _Origin) -> Settings:
    _warn_of_near_names(given, origin)
    checked = {name: _checked(name, given.get(name), origin) for name in SECTIONS}
    if "data" in checked["path"]:
        directory = os.path.dirname(origin.source) if origin.source else ""
        checked["path"]["data"] = Path(directory, os.path.expanduser(os.fsdecode(checked["path"]["data"])))
    sections = {name: SECTIONS[name](**given) for name, given in checked.items() if given}
    return Settings(**sections, source=origin.source)


def _warn_of_near_names(given: Iterable[object], origin: _Origin) -> None:
    """Warn about ignored sections whose names are almost ours."""
    for name in given:
        if isinstance(name, str) and name not in SECTIONS and (near := _nearest(name, SECTIONS, cutoff=0.8)):
            said = f"{origin.where}: the section {shown(name)} is ignored (did you mean {near}?)"
            if _warned.first(said):
                log.warning("%s", said)


def _checked(section: str, given: object, origin: _Origin) -> dict[str, Any]:
    """Return the values of a section, each checked against its rule."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{origin.where}: {section}: found {_a(given)}; allowed: a mapping of keys")
    rules = SECTIONS[section].rules
    for name, value in given.items():
        if not isinstance(name, str):
            raise ConfigError(f"{origin.where}: {section}: found the key {_found(name)}; allowed: strings only")
        if name not in rules:
            dotted = f"{section}.{without_value(name)}"
            raise ConfigError(f"{origin.where}: {shown(dotted)}: {_unknown(name, rules)}")
        if not rules[name].fits(value):
            raise ConfigError(f"{origin.where}: {section}.{name}: {_refused(rules[name], value, origin)}")
    return dict(given)


def _unknown(name: str, known: Iterable[str]) -> str:
    near = _nearest(name.partition(":")[0].lower(), known, cutoff=0.5)
    hint = f" (did you mean {near}?)" if near else ""
    return f"found an unknown key{hint}; allowed: {', '.join(known)}"


def _nearest(name: str, known: Iterable[str], cutoff: float) -> str | None:
    try:
        with lifecycle.no_fork():
            import difflib  # only for mistakes
    except ImportError:  # this user cannot read Python's library
        return None
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def _refused(rule: Rule, value: object, origin: _Origin) -> str:
    found = f"{_a(value)}, which is not shown" if rule.secret else _found(value)
    said = f"found {found}; allowed: {rule.allowed}"
    if origin.source is None or str not in rule.types or not isinstance(value, (int, float, date)):
        return said
    return f"{said} (YAML makes unquoted no, on, 12:30 or 2024-01-31 a bool, a number or a date: use quotes)"


def _a(value: object) -> str:
    """Return the type of a value in words, with its article."""
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
