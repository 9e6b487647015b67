"""A configuration file: reading its text, and parsing the sections from YAML."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import Any

import yaml

from shmstats.config.rules import SECTIONS, ConfigError, without_value
from shmstats.descriptors import without_waiting


def read(path: str, where: str) -> Mapping[str, object]:
    """Return the sections of a file; only those of this package are constructed, others are None.

    Args:
        path: of the file.
        where: the file's name in error messages.

    Raises:
        ConfigError: it cannot be read, or is not YAML.
    """
    return _parsed(_text(path, where), where)


def _text(path: str, where: str) -> str:
    try:
        with open(path, "rb", opener=without_waiting) as file:
            raw = file.read() if _is_a_file(os.fstat(file.fileno())) else None
    except OSError as error:
        if error.errno is None:  # not from the system: a signal handler raised it
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


def _is_a_file(found: os.stat_result) -> bool:
    """Tell whether reading ends: for a file and /dev/null. Reading a directory raises by itself."""
    if stat.S_ISCHR(found.st_mode):
        return found.st_rdev == os.stat(os.devnull).st_rdev
    return stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key given twice and names the place of an invalid value."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; errors of YAML's own conversions (of 2024-13-01, say) get its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                problem=f"cannot be read as a YAML {kind}", problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Construct a mapping; a merged key (``<<``) may be given again, any other key may not."""
        own = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in own:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {without_value(key.value)} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parsed(text: str, where: str) -> Mapping[str, object]:
    """Return the sections of a YAML document."""
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
