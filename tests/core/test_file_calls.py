"""Calls for files that Python lacks: the time of birth, and a rename that replaces nothing."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import ModuleType

import pytest


def test_the_time_of_birth_is_that_of_the_file_system(shmstats: ModuleType, tmp_path: Path) -> None:
    before = time.time_ns()
    made = tmp_path / "made"
    made.mkdir()
    told = shmstats.core.time_of_birth(os.fsencode(made))
    seconds = int(subprocess.run(["stat", "--format=%W", made], check=True, capture_output=True, text=True).stdout)
    if seconds == 0:
        pytest.skip("this file system has no times of birth")
    assert told // 10**9 == seconds
    # the clock of a file system goes by ticks of the kernel
    assert before - 10**8 <= told <= time.time_ns()
    os.utime(made, (1, 1))
    assert shmstats.core.time_of_birth(os.fsencode(made)) == told


def test_a_missing_file_has_no_time_of_birth(shmstats: ModuleType, tmp_path: Path) -> None:
    assert shmstats.core.time_of_birth(os.fsencode(tmp_path / "none")) == 0


def test_a_file_is_renamed_only_if_the_new_name_is_free(shmstats: ModuleType, tmp_path: Path) -> None:
    one, other, new = (tmp_path / name for name in ("one", "other", "new"))
    one.write_text("one")
    other.write_text("other")
    with pytest.raises(FileExistsError, match="other"):
        shmstats.core.rename_to_new(os.fsencode(one), os.fsencode(other))
    shmstats.core.rename_to_new(os.fsencode(one), os.fsencode(new))
    assert (new.read_text(), other.read_text(), one.exists()) == ("one", "other", False)
    with pytest.raises(FileNotFoundError):
        shmstats.core.rename_to_new(os.fsencode(one), os.fsencode(tmp_path / "newer"))
