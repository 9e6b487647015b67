"""``shmstats top``: the data of the live page in a terminal, without a web application that answers.

It reads the block without attaching, so it is right even if every worker is stuck. The screen uses curses of the
standard library: it exists wherever Python does, and an extra dependency would be missing just when
somebody is called to a machine in trouble.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from shmstats.attachment.asking import ask_workers
from shmstats.block import BlockError, identify
from shmstats.dashboard.totals import Dashboard
from shmstats.debug.documents import requests_document, stacks_document
from shmstats.export.printable import printable
from shmstats.reading.reader import read_only
from shmstats.terminal.command import NotThereError, reading_command, settings_of, write_lines
from shmstats.terminal.panes import Line, Look, head, metrics_pane, routes_pane, stacks_pane, workers_pane

_PANES: dict[str, Callable[[Look, Look | None, int], list[Line]]] = {
    "workers": workers_pane,
    "routes": routes_pane,
    "metrics": metrics_pane,
}
_KEYS = "w workers  r routes  m metrics  s stacks  p pause  q quit"

#: Shortest time that figures cover, in seconds, once it has run that long.
_WINDOW = 5.0

_ONCE_WIDTH = 80


class Looker:
    """Reads a block repeatedly.

    Args:
        data: the data directory.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._looks: deque[Look] = deque(maxlen=64)

    def look(self) -> tuple[Look, Look | None]:
        """Return the current state, and an earlier one to compare it with.

        Raises:
            NotThereError: there is no live block.
            BlockError: the block must not be used.
        """
        try:
            with read_only(self._data) as reader:
                served = reader.served(reader.workers.live())
                document = Dashboard().document(reader, reader.read(), served=served)
        except FileNotFoundError:
            raise NotThereError(
                f"there is no live block for the data directory {self._data}: no application counts at the moment"
            ) from None
        now = Look(time.monotonic(), document, requests_document(served))
        before = next((each for each in reversed(self._looks) if now.at - each.at >= _WINDOW), None)
        earlier = before or (self._looks[0] if self._looks else None)
        self._looks.append(now)
        return now, earlier

    def show(self, pane: str, width: int) -> tuple[list[Line], list[Line]]:
        """Look, and return the lines of the head, and those of a pane."""
        now, before = self.look()
        above = head(str(self._data), now, before, width)
        if pane == "stacks":
            return above, stacks_pane(read_stacks(self._data), width)
        return above, _PANES[pane](now, before, width)


def read_stacks(data: Path, pid: int | None = None) -> list[dict[str, Any]]:
    """Return the stacks of each worker's threads, or of those of one pid.

    Raises:
        NotThereError: there is no live block, or no such worker.
    """
    try:
        with read_only(data) as reader:
            workers = [worker for worker in reader.workers.live() if pid in (None, worker.pid)]
            served = reader.served(workers)
            everyone = [worker.pid for worker in reader.workers.live()]
    except FileNotFoundError:
        raise NotThereError(f"there is no live block for the data directory {data}") from None
    if pid is not None and not workers:
        known = ", ".join(map(str, everyone)) or "none"
        raise NotThereError(f"no process {pid} counts into the block of {data}; there are: {known}")
    return stacks_document(ask_workers(identify(data).name, workers, "stacks"), served)


@reading_command
@click.option("--once", is_flag=True, help="Write it once, after one second, and exit.")
@click.option("--pane", type=click.Choice([*_PANES, "stacks"]), default="workers", show_default=True)
def top(config: str | None, data: str | None, once: bool, pane: str) -> None:
    """Show requests, workers, routes, metrics and stacks.

    It is redrawn every second. Keys: w, r, m, s select the pane, p pauses, q quits.
    """
    directory = settings_of(config, data).path.data
    looker = Looker(directory)
    if once or not os.isatty(1):
        looker.look()
        time.sleep(1.0)
        above, body = looker.show(pane, _ONCE_WIDTH)
        write_lines(text for text, _ in (*above, *body))
    else:
        _Screen(looker, str(directory), pane).run()


@reading_command
@click.argument("pid", type=int, required=False)
def stacks(config: str | None, data: str | None, pid: int | None) -> None:
    """Show the stacks of every worker's threads.

    The application's frames come first. PID selects one worker.
    """
    found = read_stacks(settings_of(config, data).path.data, pid)
    write_lines(text for text, _ in stacks_pane(found, 10_000))


class _Screen:
    """The screen of ``shmstats top``.

    Args:
        looker: reads the block.
        title: its subject.
        pane: the one that is shown first.
    """

    def __init__(self, looker: Looker, title: str, pane: str) -> None:
        self._looker = looker
        self._title = title
        self._pane = pane
        self._paused = False
        self._body: list[Line] = []
        self._head: list[Line] = []

    def run(self) -> None:
        """Show the screen until a key or a signal ends it."""
        import curses

        self._looker.look()
        try:
            curses.wrapper(self._work)
        except KeyboardInterrupt:
            return

    def _work(self, window: Any) -> None:
        import curses

        self._marks = {"": curses.A_NORMAL, "head": curses.A_BOLD, "bad": curses.A_BOLD | curses.A_REVERSE}
        if "NO_COLOR" not in os.environ and curses.has_colors():
            curses.use_default_colors()
            curses.init_pair(1, curses.COLOR_RED, -1)
            self._marks["bad"] = curses.A_BOLD | curses.color_pair(1)
        with suppress(curses.error):  # the terminal cannot hide the cursor
            curses.curs_set(0)
        window.timeout(1000)
        while True:
            self._refresh(window)
            key = window.getch()
            if key in (ord("q"), 27):
                return
            if self._obey(key):
                window.clear()  # screen readers and recorders get the new pane completely

    def _obey(self, key: int) -> bool:
        """Do the action of a key; tell whether another pane must be shown."""
        chosen = {ord(name[0]): name for name in (*_PANES, "stacks")}.get(key)
        if chosen is not None:
            self._pane, self._head = chosen, []
        elif key == ord("p"):
            self._paused = not self._paused
        return chosen is not None

    def _refresh(self, window: Any) -> None:
        height, width = window.getmaxyx()
        if not self._paused or not self._head:
            self._take(width)
        window.erase()
        foot = f"{_KEYS}{'  (paused)' if self._paused else ''}"
        lines = [*self._head, *self._body][: height - 1]
        for number, (text, mark) in enumerate([*lines, ("", "")][: height - 1]):
            window.addnstr(number, 0, printable(text), width - 1, self._marks[mark])
        window.addnstr(height - 1, 0, foot, width - 1, self._marks["head"])
        window.refresh()

    def _take(self, width: int) -> None:
        """Look at the block again; if there is none at the moment, say so and continue."""
        try:
            self._head, self._body = self._looker.show(self._pane, width)
        except (BlockError, NotThereError) as error:
            self._head = [(f"shmstats  {self._title}", "head"), ("", "")]
            self._body = [(str(error), "bad")]
