"""The C core built with AddressSanitizer and UndefinedBehaviorSanitizer: its own tests, and damaged blocks.

A copy of the package gets the instrumented extension; the interpreter is the one of this run, with the sanitizer's
library loaded first. A finding of the sanitizers ends the process with a report.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
from machine import PACKAGE, Plant, compiler, copy_core

pytestmark = pytest.mark.sanitizer

TESTS = Path(__file__).parents[1]
FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]


def library(name: str) -> str:
    """Return the path of one of the compiler's libraries."""
    found = subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True)
    return found.stdout.strip()


def instrumented(copy: Path, *plants: Plant) -> dict[str, str]:
    """Make a copy of the package with an instrumented C core; returns the environment of a process that uses it."""
    if shutil.which(compiler()) is None or not os.path.isabs(library("libasan.so")):
        pytest.skip("there is no C compiler with AddressSanitizer")
    shutil.copytree(PACKAGE, copy / "shmstats", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    source = copy_core(copy / "shmstats" / "core", plants)
    extension = source.with_name(f"_cells{sysconfig.get_config_var('EXT_SUFFIX')}")
    include = sysconfig.get_paths()["include"]
    command = [compiler(), "-shared", "-fPIC", "-std=c11", "-D_GNU_SOURCE", *FLAGS, f"-I{include}", source]
    subprocess.run([*command, "-o", extension], check=True)
    return os.environ | {
        "PYTHONPATH": str(copy),
        "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:handle_segv=1",  # CPython keeps memory to its end
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",  # otherwise AddressSanitizer does not know the bounds of objects
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that uses an instrumented C core."""
    return instrumented(tmp_path_factory.mktemp("sanitized"))


OUTSIDE = """
    from shmstats.core._cells import Cells

    cells = Cells(memoryview(bytearray(8192)), 4096, 1, 256, 4096, 32, 1, bool, None)
    try:
        cells.load(0, 600)
    except IndexError:
        print("refused")
"""


def test_a_load_outside_of_the_block_is_refused_or_reported(tmp_path: Path) -> None:
    plant = Plant("cells.h", " || column > self->capacity - width)", ")")
    outputs = []
    for plants in ((), (plant,)):
        environment = instrumented(tmp_path / str(len(plants)), *plants)
        command = [sys.executable, "-c", textwrap.dedent(OUTSIDE)]
        ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        outputs.append(ran.stdout + ran.stderr)
    assert outputs[0] == "refused\n"
    assert "AddressSanitizer: heap-buffer-overflow" in outputs[1]


REBOUND = """
    import threading
    from shmstats.bounds import scale_of
    from shmstats.core._cells import Cells, Counter, Gauge, Histogram

    memory = bytearray(8192)
    memory[32] = 1  # the generation
    asked = threading.Event()
    SCALE = scale_of((1.0,))

    def is_live(word):
        asked.set()
        return True

    make = lambda: Cells(memoryview(memory), 4096, 1, 256, 4096, 32, 7, is_live, None)
    for handle in (Counter(print, "a", "b"), Gauge(print, "a", "c"), Histogram(print, "a", "d")):
        bind = lambda cells: handle._bind(cells, 0, 0, 6, 1, False, *([SCALE] if type(handle) is Histogram else []))
        first, other = make(), make()
        bind(first)
        memory[4096] = 99  # the lock of the cell
        asked.clear()
        waiter = threading.Thread(target=getattr(handle, "incr", None) or handle.observe, args=(1,))
        waiter.start()
        assert asked.wait(60)
        bind(other)
        del first
        memory[4096] = 0
        waiter.join()
    print("counted")
"""


def test_the_cells_of_a_waiter_are_kept_while_its_handle_is_bound_to_others(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(REBOUND)]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.stdout + ran.stderr == "counted\n"


def test_the_tests_of_cells_pass(environment: dict[str, str], tmp_path: Path) -> None:
    names = (
        "core/test_cells.py",
        "block/test_names.py",
        "core/test_section.py",
        "attachment/test_buffer.py",
        "snapshot/test_decoding.py",
    )
    files = [str(TESTS / name) for name in names]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-k",
        "not Python",
        *files,
    ]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-6000:]


#: Damages one section after the other, with several kinds of content, and calls everything on each damaged block.
#: A call may raise any Exception or be refused; the process must end by itself.
DAMAGE = """
    import faulthandler, gc, logging, os, random, shutil, sys
    from pathlib import Path

    logging.disable(logging.CRITICAL)
    from shmstats.block import Block
    from shmstats.reading.reader import read_only
    from shmstats.core import CORE
    from shmstats.block.layout import HEADER, Layout
    from shmstats.layout import PAGE
    from shmstats.block import identify
    from shmstats.registry import Registry

    assert CORE == "C"
    data, section = Path(sys.argv[1]), sys.argv[2]
    chance = random.Random(section)
    faulthandler.dump_traceback_later(100, exit=True)
    config = {"path": {"data": str(data)}, "stats": {"capacity": 256, "max_workers": 2, "persist": False}}
    data.mkdir()
    file = Path(identify(data).segment)
    layout = Layout(256, 2)
    sections = {
        "header": (8, HEADER.size),
        "workers": (layout.workers, layout.workers + 4 * 64),
        "pages": (layout.pages, layout.pages + layout.rows * layout.bitmap_bytes),
        "index": (layout.index, layout.index + 4 * layout.index_slots),
        "names": (layout.names, layout.names + 12 * 64),
        "heap": (layout.heap, layout.heap + 1024),
        "cells": (layout.cells, layout.cells + 32 * 16),
    }

    def use(stats):
        yield lambda: stats.incr("c", "m")
        yield lambda: stats.counter("c", "m").incr(3)
        yield lambda: stats.gauge("c", "g", 2.5)
        yield lambda: stats.timing("c", "t", 12.5)
        yield lambda: stats.incr("c", "labelled", labels={"l": str(chance.random())})
        yield lambda: stats.incr("c", f"new{chance.random()}")
        yield lambda: stats.get("c", "t")
        yield stats.snapshot
        yield lambda: stats.reset("c", "t")
        yield lambda: stats.remove("c", "g")

    def make():
        stats = Registry()
        stats.init(config)
        for call in list(use(stats))[:7]:
            call()
        content = file.read_bytes()
        return stats, content

    def damaged(content, section):
        start, end = sections[section]
        kind = chance.choice(("random", "zero", "ones", "bits", "words"))
        part = bytearray(content[start:end])
        if kind == "random":
            part[:] = chance.randbytes(len(part))
        elif kind == "zero":
            part[:] = bytes(len(part))
        elif kind == "ones":
            part[:] = b"\\xff" * len(part)
        elif kind == "bits":
            for _ in range(8):
                part[chance.randrange(len(part))] ^= 1 << chance.randrange(8)
        else:
            for _ in range(4):
                place = chance.randrange(len(part) // 4) * 4
                part[place : place + 4] = chance.choice((0, 1, 255, 256, 2**31, 2**32 - 1)).to_bytes(4, "little")
        return start, bytes(part)

    raised = {}

    def attempt(what, call):
        try:
            call()
        except Exception as error:
            raised.setdefault(what, repr(error)[:150])

    for turn in range(int(sys.argv[3])):
        stats, content = make()
        start, part = damaged(content, section)
        if turn % 2:  # under a process that has it attached
            with open(file, "r+b") as block:
                block.seek(start)
                block.write(part)
            for number, call in enumerate(use(stats)):
                attempt(f"{section}, attached, call {number}", call)
        attempt(f"{section}, close", stats.close)
        gc.collect()
        for left in file.parent.glob(file.name + "*"):
            left.unlink()
        if not turn % 2:  # left behind by processes that are gone
            with open(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as block:
                block.write(content)
                block.seek(start)
                block.write(part)
            again = Registry()
            attempt(f"{section}, init", lambda: again.init(config))
            for number, call in enumerate(use(again)):
                attempt(f"{section}, found, call {number}", call)

            def read():
                with read_only(data) as reader:
                    reader.read(by_worker=True)
                    reader.usage()

            attempt(f"{section}, read", read)
            attempt(f"{section}, close", again.close)
            for left in file.parent.glob(file.name + "*"):
                left.unlink()
        shutil.rmtree(data / "stats", ignore_errors=True)
    for what, error in sorted(raised.items()):
        print(what, error)
    print("survived")
"""


@pytest.mark.parametrize("section", ["header", "workers", "pages", "index", "names", "heap", "cells"])
def test_no_damage_of_a_block_crashes_the_interpreter(
    environment: dict[str, str], tmp_path: Path, section: str
) -> None:
    script = tmp_path / "damage.py"
    script.write_text(textwrap.dedent(DAMAGE))
    command = [sys.executable, "-X", "faulthandler", str(script), str(tmp_path / "data"), section, "10"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-6000:]
    assert ran.stdout.endswith("survived\n")
