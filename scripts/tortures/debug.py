"""Builds of the C core for tests: with stop points, or with the sanitizers of gcc."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "shmstats" / "core" / "_cells.c"

STOP_POINTS = ("-O2", "-DSHMSTATS_STOP_POINTS")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")


def compiler() -> str | None:
    """Return the C compiler; None if there is none, or no headers of Python."""
    found = shutil.which("gcc") or shutil.which("cc")
    return found if Path(sysconfig.get_path("include"), "Python.h").exists() else None


def sanitizer() -> Path | None:
    """Return the library of gcc's AddressSanitizer, to be loaded before all others; None if there is none."""
    cc = compiler()
    if cc is None:
        return None
    done = subprocess.run([cc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    found = Path(done.stdout.strip())
    return found.resolve() if found.is_absolute() else None


def build(directory: Path, *options: str, source: Path = SOURCE) -> Path:
    """Build the C core, or a copy of it, with further options, and return the path of the extension.

    Raises:
        RuntimeError: there is no compiler, or it failed.
    """
    cc = compiler()
    if cc is None:
        raise RuntimeError("there is no C compiler with the headers of Python")
    target = directory / f"_cells{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [cc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", *options]
    command += [f"-I{sysconfig.get_path('include')}", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return target
