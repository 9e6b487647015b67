"""``shmstats diff``: the differences between two saved snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from shmstats.export.people import number
from shmstats.series import Distribution, Name, Snapshot, Value, series_text
from shmstats.snapshot import store as saved
from shmstats.terminal.command import command, write_lines


@command
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def diff(old: Path, new: Path) -> None:
    """Show the differences between two saved snapshots.

    OLD and NEW are files of a data directory, such as stats/simple.json.
    """
    lines = list(differences(saved.load(old.resolve()), saved.load(new.resolve())))
    write_lines(lines or ["nothing changed"])


def differences(old: Snapshot, new: Snapshot) -> Iterator[str]:
    """Give a line for each series that changed, was added (``+``) or was removed (``-``)."""
    before, after = _by_name(old), _by_name(new)
    for key in sorted(before.keys() | after.keys()):
        earlier, later = before.get(key), after.get(key)
        shown = f"{key[0]}.{key[1]}"
        if earlier is None and later is not None:
            yield f"+ {shown}  {_amount(later)}"
        elif later is None and earlier is not None:
            yield f"- {shown}  {_amount(earlier)}"
        elif earlier is not None and later is not None and earlier != later:
            yield f"  {shown}  {_amount(earlier)} -> {_amount(later)}{_change(earlier, later)}"


def _by_name(snapshot: Snapshot) -> dict[tuple[str, str], Value]:
    named: Iterator[tuple[Name, Value]] = zip(snapshot.names, snapshot.values, strict=True)
    return {(name.category, series_text(name)): value for name, value in named}


def _amount(value: Value) -> str:
    if isinstance(value, Distribution):
        return f"{number(value.count)} observations" if value.count != 1 else "1 observation"
    return number(value)


def _change(earlier: Value, later: Value) -> str:
    if isinstance(earlier, Distribution) or isinstance(later, Distribution):
        if not (isinstance(earlier, Distribution) and isinstance(later, Distribution)):
            return ""
        count, total = later.count - earlier.count, later.sum - earlier.sum
        return f"  ({count:+,}{f', mean of these {total / count:.4g}' if count > 0 else ''})"
    change = later - earlier
    return f"  ({change:+,})" if isinstance(change, int) else f"  ({change:+.6g})"
