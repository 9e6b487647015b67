"""The one place that decides between the C core and its pure Python fallback.

``SHMSTATS_PURE=1`` in the environment selects the fallback. It is also used, with a warning, if the extension
was not built. An extension that exists but cannot be loaded is an ImportError, because processes that do load it could
not share a block with this one. All other modules import from here.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import struct
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ..layout import CELL, NAME

log = logging.getLogger("shmstats")


def _use_fallback() -> Any:
    """Return the fallback instead of an extension that was not built, and log that."""
    # The name of an extension contains Python's version and the machine: .cpython-311-x86_64-linux-gnu.so
    tag = "-".join(EXTENSION_SUFFIXES[0].split("-")[:2])
    built = sorted(Path(__file__).parent.glob("_cells.*.so"))
    for file in built:
        if file.name.startswith(f"_cells{tag}"):
            _refuse(str(file), f"its name should end in {EXTENSION_SUFFIXES[0]}")
    log.warning(
        "the C core of shmstats is not built for this Python%s: the pure Python fallback is used, which takes about 200"
        " times as long (5 µs a call instead of 20 ns). Install shmstats with a C compiler, or set SHMSTATS_PURE=1 to"
        " choose the fallback",
        f" (only {', '.join(file.name for file in built)})" if built else "",
    )
    return _load_fallback()


def _load_fallback() -> Any:
    try:
        from . import _cells_py
    except ImportError as error:
        _refuse(str(Path(__file__).with_name("_cells_py.py")), error, "pure Python")
    return _cells_py


def _is_cut_off(file: str) -> bool:
    """Whether an ELF file ends before its last table: loading it would end the process by SIGBUS."""
    with open(file, "rb") as opened:
        head, size = opened.read(64), os.fstat(opened.fileno()).st_size
    if not head.startswith(b"\x7fELF\2") or len(head) < 64:
        return False  # not 64 bits: left to the loader
    order = "<" if head[5] == 1 else ">"
    (table,) = struct.unpack_from(f"{order}Q", head, 0x28)
    entry_size, entries = struct.unpack_from(f"{order}HH", head, 0x3A)
    return bool(table + entry_size * entries > size)


def _refuse(file: str | None, reason: object, kind: str = "C") -> NoReturn:
    if "interpreter" in str(reason):
        way_out = (
            "only one interpreter of a process can use shmstats (mod_wsgi: WSGIApplicationGroup %{GLOBAL}); run"
            " others in another process"
        )
    else:
        way_out = (
            "it is damaged, or was built for another machine, C library or Python. Install shmstats again (pip install"
            " --force-reinstall shmstats), or set SHMSTATS_PURE=1 for all processes of the data directory"
        )
    raise ImportError(
        f"the {kind} core of shmstats, {file}, cannot be loaded: {reason}; {way_out}",
        name="shmstats.core._cells",
        path=file,
    )


# The twin's types stand for both cores: `tests/core/test_twins.py` checks that C has its names and parameters.
if TYPE_CHECKING:
    from . import _cells_py as core
    from ._bulk import Bulk
elif os.environ.get("SHMSTATS_PURE", "") not in ("", "0"):
    core = _load_fallback()
else:
    _found = importlib.util.find_spec("._cells", __package__)
    if _found is None:
        core = _use_fallback()
    else:
        if _is_cut_off(_found.origin):
            _refuse(_found.origin, "the file is cut off")
        try:
            from . import _cells as core
        except ImportError as error:
            _refuse(_found.origin, error)

CORE, PROTOCOL = core.CORE, core.PROTOCOL

#: The functions that only C has; None in Python.
bulk: Bulk | None = cast("Bulk", core) if CORE == "C" else None

Cells = core.Cells
Children = core.Children
Counter = core.Counter
Gauge = core.Gauge
Histogram = core.Histogram
NameIndex = core.NameIndex
Recorder = core.Recorder
Registrar = core.Registrar
Requests = core.Requests
Section = core.Section
Series = core.Series
Stopwatch = core.Stopwatch
fence = core.fence
hash_key = core.hash_key
list_series = core.list_series
rename_to_new = core.rename_to_new
time_of_birth = core.time_of_birth

for _what, _structure, _built in ("cells", CELL, core.CELL_LAYOUT), ("records", NAME, core.RECORD_LAYOUT):
    _expected = _structure.fields | {"size": _structure.size}
    if _built != _expected:
        raise ImportError(f"the {CORE} core was built for {_what} of {_built}, the layout has {_expected}")
