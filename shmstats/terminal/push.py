"""``shmstats push``: pushes the statistics once, at the end of a batch job, or repeatedly."""

from __future__ import annotations

from pathlib import Path

import click

from shmstats.config import PushSettings, Settings
from shmstats.series import Snapshot
from shmstats.sinks.push.encoder import Stale
from shmstats.sinks.push.sender import FORMATS, PushError, Sender
from shmstats.snapshot import store as saved
from shmstats.terminal.change import attached
from shmstats.terminal.command import (
    Duration,
    Failure,
    Key,
    NotThereError,
    not_empty,
    reading_command,
    repeat,
    settings_of,
)


@reading_command
@click.option("--to", "url", metavar="URL", type=Key(PushSettings, "url"), help="URL to push to, instead of push.url.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), help="Format, instead of push.format.")
@click.option("--from", "file", metavar="SNAPSHOT", callback=not_empty, help="Push this saved snapshot.")
@click.option("--watch", metavar="TIME", type=Duration(), help="Push again at this interval, as 10 or 5m.")
@click.option("--forget", is_flag=True, help="End all series, so that they leave graphs at once.")
def push(
    config: str | None,
    data: str | None,
    url: str | None,
    form: str | None,
    file: str | None,
    watch: float | None,
    forget: bool,
) -> None:
    """Push a snapshot of all statistics.

    It is read from the live block; if there is none, the saved snapshot is pushed. Identity and times are those of
    the data directory, so totals continue from one run to the next.
    """
    settings = settings_of(config, data)
    pushing = settings.push.replaced(url=url or settings.push.url, format=form or settings.push.format)
    settings = settings.replaced(push=pushing)
    if pushing.url is None:
        raise click.UsageError("There is nowhere to push to: give --to URL, or set push.url in the configuration.")
    if forget and watch is not None:
        raise click.UsageError("--forget ends the series: it does not go with --watch.")

    def push_once() -> None:
        at = sender.draw_time()  # before the values are read
        snapshot = saved.load(Path(file).resolve()) if file is not None else _newest(settings)
        sender.push(snapshot, at, Stale.ALL if forget else Stale.NONE)

    try:
        sender = Sender(settings)
        if forget and not sender.can_forget:
            raise click.UsageError(f"--forget: the format {pushing.format} has no way to end series.")
        push_once()
    except PushError as error:
        raise Failure(click.get_current_context().command_path, str(error)) from error
    if watch is not None:
        repeat(push_once, watch, PushError)


def _newest(settings: Settings) -> Snapshot:
    """Return the values of the live block, after they are saved; or else the saved snapshot.

    Raises:
        NotThereError: there is neither.
    """
    data = settings.path.data
    registry = attached(settings.replaced(push=PushSettings()))
    if registry is None:
        try:
            return saved.load(saved.stats_directory(data) / saved.FILE)
        except FileNotFoundError:
            reason = f"there is neither a live block nor a saved snapshot for the data directory {data}"
            raise NotThereError(reason) from None
    try:
        assert registry.shared is not None
        return registry.shared.exposable()
    finally:
        registry.close()
