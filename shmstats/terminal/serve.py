"""``shmstats serve``: the statistics endpoints under gunicorn, whose master the command becomes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from shmstats.config import ApiSettings, Settings
from shmstats.reading.reader import read_only
from shmstats.snapshot import store as saved
from shmstats.terminal.command import Key, NotThereError, reading_command, settings_of

#: Of each worker: answers take milliseconds, but may wait for slow clients.
_THREADS = 8


@reading_command
@click.option("--bind", metavar="ADDRESS", type=Key(ApiSettings, "bind"), help="Address, instead of api.bind.")
@click.option(
    "--workers", metavar="N", type=Key(ApiSettings, "workers"), help="Number of workers, instead of api.workers."
)
def serve(config: str | None, data: str | None, bind: str | None, workers: int | None) -> None:
    """Serve the statistics endpoints under gunicorn."""
    settings = settings_of(config, data)
    check_data_directory(settings.path.data)
    api = settings.api.replaced(bind=bind or settings.api.bind, workers=workers or settings.api.workers)
    try:
        with read_only(settings.path.data):
            pass  # so that an unusable block is reported here, and not by every worker
    except FileNotFoundError:
        if data is not None and not settings.path.data.exists():
            raise NotThereError(
                f"there is no data directory {data}, and no application counts for it; "
                "check the spelling, or make the directory first"
            ) from None
    _serve(settings.replaced(api=api))


def check_data_directory(data: Path) -> None:
    """Refuse a data directory that is not a directory and cannot be made, because a file is in its place or above it.

    An application continues without it; somebody who starts a server by hand should get the error at once.

    Raises:
        NotADirectoryError: with the file that is in the way.
    """
    place = saved.stats_directory(data)
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(
            f"the data directory {data} "
            + ("is not a directory" if there == data else f"cannot be made: {there} is not a directory")
        )


def _serve(settings: Settings) -> NoReturn:
    """Become gunicorn's master; returns only by exit."""
    from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

    class Server(BaseApplication):  # type: ignore[misc]  # here, because its base takes long to import
        def load_config(self) -> None:
            self.cfg.set("bind", settings.api.bind)
            self.cfg.set("workers", settings.api.workers)
            self.cfg.set("proc_name", "shmstats")
            self.cfg.set("worker_class", "shmstats.web.doorkeeper.PatientWorker")
            self.cfg.set("threads", _THREADS)
            self.cfg.set("keepalive", 0)  # else a thread would wait for the rest of an unwanted body
            if "control_socket_disable" in self.cfg.settings:  # since gunicorn 25
                self.cfg.set("control_socket_disable", True)

        def load(self) -> Any:
            from shmstats.web import create_app

            return create_app(settings.as_mapping())

    Server(prog="shmstats serve").run()
    sys.exit(0)
