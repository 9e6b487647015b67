"""Builds C methods that do nothing: the lower limit of the cost of a C call from Python."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("_nothing.c")


@functools.cache
def nothing_directory() -> str:
    """Compile the module ``_nothing`` and return the directory that it is in; "" if there is no compiler."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return ""
    directory = tempfile.mkdtemp(prefix="shmstats-bench-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    target = Path(directory, f"_nothing{sysconfig.get_config_var('EXT_SUFFIX')}")
    include = sysconfig.get_path("include")
    command = [compiler, "-O3", "-shared", "-fPIC", f"-I{include}", str(_SOURCE), "-o", str(target)]
    subprocess.run(command, check=True)
    return directory
