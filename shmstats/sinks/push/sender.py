"""Pushes snapshots to one server: encodes, sends, and judges the answer.

Totals are cumulative, so nothing is queued: the next push includes what a failed one would have sent.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from shmstats._version import __version__
from shmstats.config import Settings
from shmstats.descriptors import read_file, without_waiting, written_beside
from shmstats.export.view import View
from shmstats.instance import instance_of
from shmstats.series import Snapshot
from shmstats.sinks.push.encoder import Encoder, Stale
from shmstats.sinks.push.http import post, shown
from shmstats.snapshot.store import stats_directory

log = logging.getLogger("shmstats")

MEMORY_FILE = "push.json"

#: The module and class of each format, the extra that it needs, and the usual path of engines for it.
FORMATS: Final = {
    "remote_write": ("remote_write", "RemoteWrite", "", "/api/v1/write"),
    "otlp": ("otlp", "Otlp", "otlp", "/v1/metrics"),
    "import": ("text", "TextImport", "", "/api/v1/import/prometheus"),
}

_HEADERS_BYTES = 65536
_AGENT = {"User-Agent": f"shmstats/{__version__}"}


class PushError(Exception):
    """A push that was not accepted; the message has no secret in it.

    Attributes:
        reason: the message without the server's own words, which may differ each time.
        again_in: seconds that the server asks to wait before the next push.
        is_refusal: whether the server understood and refused, so that waiting does not help.
    """

    def __init__(self, reason: str, said: str = "", again_in: float = 0.0, *, is_refusal: bool = False) -> None:
        super().__init__(f"{reason}: {said}" if said else reason)
        self.reason = reason
        self.again_in = again_in
        self.is_refusal = is_refusal


#: Engines refuse samples that are so far in the future. A clock that was wrong once must not stop pushes for ever.
_FUTURE_MS = 600_000


class Memory:
    """What a push must know about earlier ones, over restarts and in all processes: their last time and labels.

    Args:
        directory: of the statistics.

    Attributes:
        labels: common to the series of the last push; None if there was none.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / MEMORY_FILE
        self._last = 0
        self.labels: dict[str, str] | None = None

    def read(self) -> None:
        """Read what another process may have stored; a file that cannot be read counts as missing."""
        try:
            found: dict[str, Any] = json.loads(read_file(self._file))
            self._last = max(self._last, int(found["last"]))
            self.labels = {str(name): str(value) for name, value in found["labels"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            log.warning("%s cannot be read, so the times of pushes follow the clock only: %s", self._file, error)

    def next_time(self, labels: dict[str, str]) -> int:
        """Return and save the time of the next push in ms since 1970, later than all before whatever the clock says.

        Raises:
            OSError: it cannot be saved.
        """
        self._last = max(self._last + 1, time.time_ns() // 1_000_000)
        self.note(labels)
        return self._last

    def doubt(self, refused: int) -> None:
        """Let later pushes follow the clock again, if one that was refused has a time far ahead of it."""
        now = time.time_ns() // 1_000_000
        if refused > now + _FUTURE_MS:
            self._last = now
            with suppress(OSError):
                self.note(self.labels or {})

    def note(self, labels: dict[str, str]) -> None:
        """Save the common labels of the next push's series.

        Raises:
            OSError: it cannot be saved.
        """
        os.replace(written_beside(self._file, json.dumps({"last": self._last, "labels": labels})), self._file)
        self.labels = labels


class Sender:
    """Pushes the snapshots of one data directory. For use by one thread.

    Args:
        settings: with the directory, and a URL.

    Raises:
        PushError: the format needs a package that is not installed, or the directory has no identity and none can be
            made.
    """

    def __init__(self, settings: Settings) -> None:
        push = settings.push
        assert push.url is not None
        self._url = push.url
        self._settings = settings
        directory = stats_directory(settings.path.data)
        try:
            self._instance = instance_of(directory)
        except (OSError, ValueError) as error:
            raise PushError(f"the data directory has no identity: {error}") from error
        constant = {"job": "shmstats", **settings.prometheus.labels, **push.labels}
        self._labels = {**constant, "instance": push.instance or self._instance.uuid}
        self._encoder = self._encoder_for(self._labels)
        self._memory = Memory(directory)

    @property
    def can_forget(self) -> bool:
        """Whether the format can end series."""
        return self._encoder.can_forget

    def draw_time(self) -> int:
        """Return the time of a push, in ms since 1970: later than that of all before.

        It must be chosen before the values are read. Of two pushes the one with the later time then has the later
        values, even if one of them is delayed.

        Raises:
            PushError: it cannot be saved.
        """
        memory = self._memory
        memory.read()
        former = memory.labels
        try:
            return memory.next_time(former if former is not None and self._is_to_end(former) else self._labels)
        except OSError as error:
            raise PushError(f"the time of the push cannot be saved: {error}") from error

    def push(self, snapshot: Snapshot, at: int, stale: Stale = Stale.NONE, timeout: float | None = None) -> None:
        """Send a snapshot and wait for the answer.

        Args:
            snapshot: to push; it must be on the disk already, if it is to survive a power loss.
            at: its time, chosen before it was read.
            stale: the series to end.
            timeout: seconds, if less than in the settings.

        Raises:
            PushError: it was not accepted, or only a part of it.
        """
        seconds = min(timeout or math.inf, self._settings.push.timeout_seconds)
        former = self._memory.labels
        try:
            if former is not None and self._is_to_end(former):
                self._post(seconds, self._encoder_for(former), snapshot, at, Stale.ALL)
                self._memory.note(self._labels)
            partial = self._post(seconds, self._encoder, snapshot, at, stale)
            self._encoder.accept()
            if partial is not None:
                raise partial
        except PushError as error:
            if error.is_refusal:
                self._memory.doubt(at)
            raise

    def _is_to_end(self, former: dict[str, str]) -> bool:
        """Tell whether the last push had other labels, whose series have the same totals as the new ones."""
        return self.can_forget and former != self._labels and {"job", "instance"} <= former.keys()

    def _post(self, seconds: float, encoder: Encoder, snapshot: Snapshot, at: int, stale: Stale) -> PushError | None:
        """Send a snapshot; returns the error to raise if the server accepted only a part of it."""
        headers = {**self._read_headers(), **self._settings.push.headers}  # none of these may be shown
        try:
            body = encoder.encode(snapshot, at, stale)
            ca_file = self._settings.push.ca_file
            answer = post(self._url, seconds, ca_file, body, {**headers, **encoder.headers, **_AGENT})
        except OSError as error:
            raise PushError(f"{shown(self._url)}: {_without(str(error), headers)}") from error
        reason = f"{shown(self._url)} answered {answer.status}"
        if 200 <= answer.status < 300:
            if answer.page:
                raise PushError(f"{reason} with {answer.page}: {self._not_an_engine()}", is_refusal=True)
            rejected = encoder.rejected(answer)
            if not rejected:
                return None
            return PushError(f"{reason}, but did not accept everything", _without(rejected, headers), is_refusal=True)
        if 300 <= answer.status < 400:
            reason = f"{reason} (a redirect, which is not followed: set push.url to its target)"
        is_refusal = answer.status < 500 and answer.status != 429
        raise PushError(reason, _without(answer.said, headers), answer.retry_after, is_refusal=is_refusal)

    def _not_an_engine(self) -> str:
        form = self._settings.push.format
        return f"no engine answers so; set push.url to where it accepts the format {form}, such as {FORMATS[form][3]}"

    def _encoder_for(self, labels: dict[str, str]) -> Encoder:
        form = self._settings.push.format
        module, name, extra, _ = FORMATS[form]
        info = {
            "service_instance_id": self._instance.uuid,
            "host_name": socket.gethostname(),
            "shmstats_version": __version__,
        }
        view = View(namespace=self._settings.prometheus.namespace, labels=tuple(labels.items()))
        try:
            encoder: Any = getattr(importlib.import_module(f"{__package__}.{module}"), name)
        except ImportError as error:
            raise PushError(f"the format {form} needs shmstats[{extra}]: {error}") from error
        if form == "otlp":
            return encoder(view, info, self._instance.made)  # type: ignore[no-any-return]
        return encoder(view, info)  # type: ignore[no-any-return]

    def _read_headers(self) -> dict[str, str]:
        path = self._settings.push.headers_file
        if path is None:
            return {}
        try:
            with open(path, "rb", opener=without_waiting) as file:
                text = file.read(_HEADERS_BYTES).decode("ascii")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not ASCII"
            raise PushError(f"the headers_file {path} cannot be read: {reason}") from None
        headers = {}
        for number, line in enumerate(text.splitlines(), 1):
            name, colon, value = line.partition(":")
            if not line.strip() or line.startswith("#"):
                continue
            if not colon or not name.replace("-", "").isalnum() or not value.strip().isprintable():
                raise PushError(f"the headers_file {path} has no header in line {number}; allowed: Name: value")
            headers[name] = value.strip()
        return headers


def _without(text: str, headers: Mapping[str, str]) -> str:
    """Return a text without the values of the headers, which a server may repeat."""
    secrets = {word for value in headers.values() for word in (value, *value.split()) if len(word) > 3}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "(not shown)")
    return text
