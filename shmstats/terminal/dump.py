"""``shmstats dump``, also ``shmstats-dump``: a snapshot of all statistics, in one of the formats.

It only reads: the live block without attaching as a worker, or else the saved snapshot. Imports that only some formats
need are made where they are needed, to keep a dump fast.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import click

from shmstats.block import BlockError
from shmstats.config import Settings
from shmstats.export import FORMATS, View
from shmstats.export.printable import json_text, printable_lines
from shmstats.history.ring import RingError
from shmstats.reading.reader import BlockReader, read_only
from shmstats.series import Kind, Snapshot, kinds_of
from shmstats.snapshot import store as saved
from shmstats.snapshot.format import SnapshotError
from shmstats.terminal.command import (
    Duration,
    NotThereError,
    described,
    not_empty,
    note,
    progress,
    reading_command,
    repeat,
    settings_of,
    time_of,
    write_to_stdout,
)

#: Series from which on a dump takes seconds, and shows a progress bar.
_MANY = 100_000

_FORMATS_OF_PAST = ("csv", "json")

#: Default length of the past that is shown, in seconds.
_SHOWN_PAST = 900.0

#: Longest time for walking through the data directory, in seconds.
_LONGEST_WALK = 0.5


@reading_command
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="json", show_default=True)
@click.option(
    "--category",
    "globs",
    metavar="GLOB",
    multiple=True,
    callback=not_empty,
    help="Only categories that match. Repeatable.",
)
@click.option("--workers", "by_worker", is_flag=True, help="Break values down by worker row.")
@click.option("--watch", metavar="TIME", type=Duration(), help="Write again at this interval, as 10 or 5m.")
@click.option(
    "--output",
    metavar="FILE",
    default="-",
    callback=not_empty,
    help="Replace FILE, atomically; - is stdout.",
)
@click.option("--from", "file", metavar="SNAPSHOT", callback=not_empty, help="Read this saved snapshot instead.")
@click.option("--history", is_flag=True, help="The last 24 hours, as csv or json.")
@click.option(
    "--since", metavar="TIME", type=Duration(), help="With --history: how long ago it begins, 15m by default."
)
@click.option("--step", metavar="TIME", type=Duration(), help="With --history: the time between values.")
@click.option(
    "--label",
    "labels",
    metavar="NAME",
    multiple=True,
    callback=not_empty,
    help="A column for this label, with csv and table. Repeatable.",
)
@click.option("--raw", is_flag=True, help="Do not escape text that a spreadsheet or a terminal would interpret.")
def dump(
    config: str | None,
    data: str | None,
    form: str,
    globs: tuple[str, ...],
    by_worker: bool,
    watch: float | None,
    output: str,
    file: str | None,
    history: bool,
    since: float | None,
    step: float | None,
    labels: tuple[str, ...],
    raw: bool,
) -> None:
    """Write a snapshot of all statistics.

    It is read from the live block, without disturbing it. If there is no live block, the saved snapshot is written.
    """
    if history:
        if form not in _FORMATS_OF_PAST:
            raise click.UsageError(f"--history goes with --format {' or '.join(_FORMATS_OF_PAST)} only.")
        _refuse("--history", workers=by_worker, watch=watch, label=labels, raw=raw, **{"from": file})
        past = _past(settings_of(config, data).path.data, since or _SHOWN_PAST, step, form, globs)
        _write(output, past)
        return
    if since is not None or step is not None:
        raise click.UsageError("--since and --step go with --history only.")
    if by_worker and not FORMATS[form].by_worker:
        able = ", ".join(name for name, each in FORMATS.items() if each.by_worker)
        raise click.UsageError(f"--workers goes with --format {able} only.")
    if labels and form not in ("csv", "table"):
        raise click.UsageError("--label goes with --format csv or table only.")
    if file is not None:
        _refuse("--from, which reads one file, once, with sums only", data=data, watch=watch, workers=by_worker)

    def chosen(category: str) -> bool:
        return not globs or any(fnmatchcase(category, glob) for glob in globs)

    view = View(raw=raw, columns=labels)
    if file is None or config is not None:  # a snapshot can be read even if the default configuration has an error
        settings = settings_of(config, data)
        shown = settings.prometheus
        view = view._replace(namespace=shown.namespace, labels=tuple(sorted(shown.labels.items())))
    with_recent = form in ("json", "v2")
    read = _data_reader(settings, by_worker, chosen, with_recent) if file is None else partial(saved.load, Path(file))
    to_terminal = output == "-" and not raw and sys.stdout is not None and sys.stdout.isatty()
    if to_terminal and FORMATS[form].binary:
        raise click.UsageError(f"--format {form} is not text: name a file by --output.")

    repaint = timed = None
    if watch is not None:
        from shmstats.terminal.watch import Repaint, TimedTable

        repaint = Repaint(raw, labels) if to_terminal and form == "table" else None
        timed = TimedTable() if form == "csv" and output == "-" else None

    def write_once() -> None:
        snapshot = _only(read(), chosen) if globs else read()
        if globs and not snapshot.names and not snapshot.system:
            note(f"no category matches {', '.join(map(repr, globs))}")
        if repaint is not None:
            _write(output, repaint.content(snapshot, "shmstats"))
            return
        if len(snapshot.names) >= _MANY and watch is None:
            snapshot = snapshot.replaced(names=progress(snapshot.names, f"Writing {form}"))
        content = FORMATS[form].render(snapshot, view)
        if to_terminal:
            content = printable_lines(content)
        _write(output, content if timed is None else timed.content(content))

    if watch is None:
        write_once()
        return
    with suppress(KeyboardInterrupt):  # the normal end, not a failure
        write_once()
        # While an application restarts there may be nothing to read for a moment, or an unfinished block;
        # only at the start is that a reason to give up.
        repeat(write_once, watch, BlockError, NotThereError)


def _refuse(what: str, **options: object) -> None:
    """Refuse given options that would have no effect.

    Raises:
        UsageError: with the first of them.
    """
    for name, given in options.items():
        if given not in (None, False, ()):
            raise click.UsageError(f"--{name} does not go with {what}.")


# Reading -----------------------------------------------------------------------------------------


def _data_reader(
    settings: Settings, by_worker: bool, chosen: Callable[[str], bool], with_recent: bool
) -> Callable[[], Snapshot]:
    """Return a function that reads the live block, or else the saved snapshot, which it reports once."""
    said = ""

    def read() -> Snapshot:
        nonlocal said
        with ExitStack() as opened:
            try:
                reader = opened.enter_context(read_only(settings.path.data))
            except FileNotFoundError:
                snapshot, notice = _read_saved(settings.path.data)
                notice += "; a saved snapshot has no values by worker" if by_worker else ""
            else:
                snapshot, notice = reader.read(by_worker), ""
                system = _system_figures(reader, settings) if chosen("system") else {}
                snapshot = snapshot.replaced(system=system)
                if with_recent and Kind.HISTOGRAM in kinds_of(snapshot.names):
                    from shmstats.history.past import read_recent  # only here: it imports numpy

                    snapshot = snapshot.replaced(recent=read_recent(settings.path.data))
        if notice != said:
            note(notice)
        said = notice
        return snapshot

    return read


def _read_saved(data: Path) -> tuple[Snapshot, str]:
    """Return the newest readable snapshot, and a line that names it.

    `shmstats.snapshot.store.load_newest` sets damaged files aside for the block that starts; a mere reader must not.

    Raises:
        NotThereError: there is none.
    """
    directory = saved.stats_directory(data)
    failures = ""
    for file in (directory / saved.FILE, directory / saved.PREVIOUS):
        try:
            snapshot = saved.load(file)
            written = time_of(file.stat())
        except FileNotFoundError:
            continue
        except OSError as error:
            failures += f"; {described(error)}"
        except SnapshotError as error:
            failures += f"; {error}"
        else:
            return snapshot, f"no live block for {data}: this is {file}, saved {written}{failures}"
    raise NotThereError(
        f"there is neither a live block nor a readable snapshot for the data directory {data}{failures}"
    )


def _system_figures(reader: BlockReader, settings: Settings) -> dict[str, int | float]:
    from shmstats.debug.processes import system_figures
    from shmstats.storage import StorageMeter

    figures = system_figures((worker.pid for worker in reader.workers.live()), reader.uptime)
    figures.pop("gc", None)  # it describes this process, which is not a worker
    if settings.stats.include_storage_stats_in_api:
        storage = StorageMeter(settings.path.data, _LONGEST_WALK).read()
        if not storage.complete:
            note(f"{settings.path.data} is large: its files hold at least {storage.store} bytes")
        figures["store"] = storage.store
    return figures


def _past(data: Path, since: float, step: float | None, form: str, globs: Sequence[str]) -> bytes:
    """Return values from the history's ring, as JSON or CSV.

    Args:
        data: the data directory.
        since: seconds before now.
        step: seconds between values; None: chosen for about 300 values.
        form: of `_FORMATS_OF_PAST`.
        globs: of the categories; empty: all.

    Raises:
        NotThereError: there is no history, or nothing in it matches.
        UsageError: there would be too many steps.
    """
    # Only here: a dump of current values does not need numpy.
    from shmstats.history.documents import to_csv, to_json
    from shmstats.history.past import Query, QueryError, read_past

    try:
        query = Query.made(-since, None, None if step is None else max(int(step), 1), [f"{glob}.*" for glob in globs])
        past = read_past(data, query)
    except QueryError as error:
        raise click.UsageError(str(error)) from error
    except FileNotFoundError:
        raise NotThereError(
            f"there is no history for the data directory {data}: it is kept while an application runs, where"
            " stats.persist and history.enabled are true"
        ) from None
    except RingError as error:
        raise NotThereError(str(error)) from error
    if globs and not past.series:
        raise NotThereError(f"no series in the history of {data} matches {', '.join(map(repr, globs))}")
    if form == "json":
        return (json_text(to_json(past)) + "\n").encode(errors="backslashreplace")
    return to_csv(past).encode(errors="backslashreplace")


def _only(snapshot: Snapshot, chosen: Callable[[str], bool]) -> Snapshot:
    """Return the part of a snapshot in the chosen categories."""
    kept = [i for i, name in enumerate(snapshot.names) if chosen(name.category)]
    return Snapshot(
        [snapshot.names[i] for i in kept],
        [snapshot.values[i] for i in kept],
        snapshot.system,
        {row: [values[i] for i in kept] for row, values in snapshot.workers.items()},
        snapshot.health,
        [(name, exemplars) for name, exemplars in snapshot.exemplars if chosen(name.category)],
        snapshot.recent,
    )


# Writing -----------------------------------------------------------------------------------------


def _write(output: str, content: bytes) -> None:
    if output == "-":
        write_to_stdout(content)
        return
    try:
        if _is_replaceable(output):
            _replace_file(Path(os.path.realpath(output)), content)
        else:
            with open(output, "wb") as stream:
                stream.write(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"--output {output}") from error


def _is_replaceable(output: str) -> bool:
    """Tell whether the path is a regular file or does not exist; a device or a pipe is written to directly."""
    try:
        return stat.S_ISREG(os.stat(output).st_mode)
    except FileNotFoundError:
        return True


def _replace_file(file: Path, content: bytes) -> None:
    """Replace a file's content atomically, with its mode, or the mode of a new file."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    stream = open(temporary, "xb")  # noqa: SIM115 - what follows is undone if it fails
    try:
        with stream:
            with suppress(FileNotFoundError):
                os.fchmod(stream.fileno(), stat.S_IMODE(file.stat().st_mode))
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
