"""Prometheus text import, for VictoriaMetrics' ``/api/v1/import/prometheus``: the scraped page with a time, gzipped.

The format cannot end a series: removed series stay on graphs for five minutes.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from typing import ClassVar

from shmstats.export.prometheus import sample_text
from shmstats.export.renderer import Renderer
from shmstats.export.view import View
from shmstats.series import Snapshot
from shmstats.sinks.push.encoder import Encoder, Stale

_LEVEL = 1  # twice the bytes of level 6 in a fifth of the time

_COMMENT = re.compile(rb"\n#.*")


class TextImport(Encoder):
    """Encodes snapshots as lines of text. The engine reports lines that it leaves out only in its log.

    Args:
        view: the prefix of names, and the labels of every series, including ``job`` and ``instance``.
        info: further labels of ``target_info``.
    """

    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "text/plain; charset=utf-8", "Content-Encoding": "gzip"}
    can_forget = False

    def __init__(self, view: View, info: Mapping[str, str]) -> None:
        self._view = view
        self._info = f"{sample_text('target_info', (*view.labels, *info.items()))} 1\n".encode()
        self._renderer = Renderer()

    def encode(self, snapshot: Snapshot, at: int, stale: Stale) -> bytes:
        """Return the body of a request."""
        samples = _COMMENT.sub(b"", self._info + self._renderer.text(snapshot, self._view))
        return gzip.compress(samples.replace(b"\n", b" %d\n" % at), _LEVEL)
