"""``shmstats kit``: writes the operator's kit, the package data of `shmstats.kit`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from shmstats.terminal.command import command


@command
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Overwrite files that exist and differ.")
def kit(directory: Path, replace: bool) -> None:
    """Write the operator's kit into DIRECTORY.

    It is configuration for Prometheus, Grafana, systemd, nginx, compose and Kubernetes.
    """
    written = write(directory, replace=replace)
    for file in written:
        click.echo(f"wrote {file}")
    if not written:
        click.echo("everything is there already")


def write(directory: Path, *, replace: bool = False) -> list[Path]:
    """Write the kit into a directory, which is made if it is missing.

    Args:
        directory: where the kit goes.
        replace: whether existing files that differ are replaced.

    Returns:
        The files that were written, without those that existed with the same content.

    Raises:
        FileExistsError: a file exists and differs; nothing was written.
        OSError: it cannot be written.
    """
    contents = {directory / path: file.read_bytes() for path, file in _files(files("shmstats.kit") / "files", Path())}
    new = {path: content for path, content in contents.items() if not _is_there(path, content)}
    differing = [path for path in new if path.exists()]
    if differing and not replace:
        raise FileExistsError(f"{differing[0]} is there, and differs from the kit's: move it away, or use --replace")
    for path, content in new.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return list(new)


def _files(directory: Traversable, path: Path) -> Iterator[tuple[Path, Traversable]]:
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files(entry, path / entry.name)
        else:
            yield path / entry.name, entry


def _is_there(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
