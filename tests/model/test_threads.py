"""The C core's locks and names in real threads under ThreadSanitizer: memory order, which the model leaves out."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest
from machine import Plant, compiler, copy_core

#: The part of _cells.c that calls Python is not reached from threads.c, and need not be linked.
FLAGS = ["-fsanitize=thread", "-g", "-O1", "-std=gnu11", "-w", "-fno-pie", "-no-pie"]
LINKED = ["-Wl,--unresolved-symbols=ignore-all", "-lm", "-lpthread"]


@pytest.fixture(scope="module", autouse=True)
def _thread_sanitizer(tmp_path_factory: pytest.TempPathFactory) -> None:
    source = tmp_path_factory.mktemp("sanitizer") / "nothing.c"
    source.write_text("int main(void) { return 0; }")
    built = subprocess.run([compiler(), "-fsanitize=thread", source, "-o", source.with_suffix("")], capture_output=True)
    if built.returncode != 0 or subprocess.run([source.with_suffix("")], capture_output=True).returncode != 0:
        pytest.skip("there is no C compiler with ThreadSanitizer")


def run(directory: Path, *plants: Plant, source: str = "threads.c") -> subprocess.CompletedProcess[str]:
    """Build and run a program over _cells.c with faults planted in it."""
    copy_core(directory, plants)
    program = directory / "threads"
    include = sysconfig.get_paths()["include"]
    here = Path(__file__).with_name(source)
    command = [compiler(), *FLAGS, f"-I{directory}", f"-I{include}", here, "-o", program, *LINKED]
    subprocess.run(command, check=True)
    return subprocess.run([program], capture_output=True, text=True, timeout=120)


def test_threads_count_exactly_and_locks_order_memory(tmp_path: Path) -> None:
    ran = run(tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ok 2\n", "")


FAULTS = {
    "a released lock orders nothing": Plant(
        "cell.h",
        "__atomic_store_n(&cell->lock, 0, __ATOMIC_RELEASE);",
        "__atomic_store_n(&cell->lock, 0, __ATOMIC_RELAXED);",
    ),
    "a taken lock orders nothing": Plant(
        "cell.h",
        "&cell->lock, &free, owner, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)",
        "&cell->lock, &free, owner, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)",
    ),
    "a lock of a live process is taken over": Plant("cell.h", "if (!lives && __atomic", "if (__atomic"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(tmp_path: Path, fault: str) -> None:
    ran = run(tmp_path, FAULTS[fault])
    assert ran.returncode != 0
    assert "data race" in ran.stderr or ", not " in ran.stdout


def test_a_name_that_is_being_changed_is_found_whole_or_not_at_all(tmp_path: Path) -> None:
    ran = run(tmp_path, source="name_threads.c")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ok\n", "")


def test_a_name_that_is_found_too_early_is_reported(tmp_path: Path) -> None:
    plant = Plant(
        "names.h",
        "#define PUT(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)",
        "#define PUT(place, value) __atomic_store_n((place), (value), __ATOMIC_RELAXED)",
    )
    ran = run(tmp_path, plant, source="name_threads.c")
    assert ran.returncode != 0
    assert "data race" in ran.stderr or "beside" in ran.stdout
