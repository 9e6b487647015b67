"""The command behind ``scripts/serve``: checks its options, prints what to try, and becomes gunicorn's master."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
from gunicorn.config import Config  # type: ignore[import-untyped]

from shmstats.config import ApiSettings, PathSettings
from shmstats.terminal.command import Command, Key
from shmstats.terminal.serve import check_data_directory

HERE = Path(__file__).parent
ROOT = HERE.parent

TRY = """\
An example site, with {workers} workers, at {site}. To try in another terminal:

  open {site}/                        the live page, in a browser
  curl {site}/login                   counts one login
  curl '{site}/hit?n=5'               counts 5 hits
  curl {site}/stats                   all statistics, as JSON
  curl {site}/stats/prometheus        the same for Prometheus
  {dump} --data {data} --format table

Ctrl-C stops it; the counts are saved in {data}/stats.
"""


def _check_further(ctx: click.Context, param: click.Parameter, further: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse arguments that gunicorn would take for another application or for an unlimited number of workers."""
    given = Config(prog=ctx.command_path).parser().parse_args(list(further))
    if given.args:
        raise click.UsageError(f"found {given.args[0]!r}; allowed: options only")
    if given.workers is not None:
        raise click.UsageError("give the number of workers by --workers")
    return further


@click.command(cls=Command, context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@click.option("--workers", type=Key(ApiSettings, "workers"), default=4, show_default=True)
@click.option("--data", type=Key(PathSettings, "data"), default=str(ROOT / "data"), show_default=True)
@click.option("--load", is_flag=True, help="Have some visitors ask for its pages.")
@click.argument("further", nargs=-1, type=click.UNPROCESSED, callback=_check_further)
def serve(port: int, workers: int, data: str, load: bool, further: tuple[str, ...]) -> None:
    """Serve the example site under gunicorn, with the statistics endpoints on the same port.

    FURTHER are further options of gunicorn. Ctrl-C stops all workers; the last one saves.
    """
    directory = PathSettings(Path(data)).data
    check_data_directory(directory)
    click.echo(
        TRY.format(
            workers=workers,
            site=f"http://127.0.0.1:{port}",
            dump=shlex.quote(str(Path(sys.executable).with_name("shmstats-dump"))),
            data=shlex.quote(str(directory)),
        )
    )
    sys.stdout.flush()
    os.chdir(ROOT)
    os.environ["EXAMPLE_SITE_DATA"] = str(directory)
    if load:
        # This process becomes the server, so the visitors end with their parent.
        subprocess.Popen([sys.executable, str(HERE / "example_load.py"), str(port), str(os.getpid())])
    gunicorn = ["-m", "gunicorn", "--config", str(HERE / "example_gunicorn.py"), "--pythonpath", str(HERE)]
    where = ["--bind", f"127.0.0.1:{port}", "--workers", str(workers)]
    os.execv(sys.executable, [sys.executable, *gunicorn, *where, *further, "example_site:create_app()"])


if __name__ == "__main__":
    serve.main(prog_name="scripts/serve")
