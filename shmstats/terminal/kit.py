"""``shmstats kit``: writes the operator's kit."""

from __future__ import annotations

from pathlib import Path

import click

from shmstats import kit as package
from shmstats.terminal.command import command


@command
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Overwrite files that exist and differ.")
def kit(directory: Path, replace: bool) -> None:
    """Write configuration for Prometheus, Grafana, systemd, nginx, compose and Kubernetes into DIRECTORY."""
    written = package.write(directory, replace=replace)
    for file in written:
        click.echo(f"wrote {file}")
    if not written:
        click.echo("everything is there already")
