"""What a push must know about earlier pushes of the same data directory, in the file ``push.json``."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from shmstats.descriptors import read_file, written_beside

log = logging.getLogger("shmstats")

FILE = "push.json"


class Memory:
    """The last timestamp and labels that were sent, over restarts and in all processes.

    Args:
        directory: of the statistics.

    Attributes:
        labels: common to the series of the last push; None if there was none.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE
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

    def note(self, labels: dict[str, str]) -> None:
        """Save the common labels of the next push's series.

        Raises:
            OSError: it cannot be saved.
        """
        os.replace(written_beside(self._file, json.dumps({"last": self._last, "labels": labels})), self._file)
        self.labels = labels

    def forget(self) -> None:
        """Remove the last labels: all their series have ended."""
        self.labels = None
