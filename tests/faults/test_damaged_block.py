"""A damaged block: a clear error, or a fresh start that keeps the damaged one; never a crash, never a hang.

``tests/block/test_block.py`` has headers of other versions or sizes, truncated blocks, other owners, and links. Here
every section gets random bytes while no process uses the block, and a process then calls everything with it, also in a
build with sanitizers.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import PythonRunner, segment_file, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tortures import debug, judge
from tortures.nursery import Nursery
from tortures.storm import remove_block

STATS = {"capacity": 512, "max_workers": 2, "persist": False}

FILL = """
import os, signal
for number in range(30):
    stats.incr('c', f'counter {number}')
    stats.gauge('c', f'gauge {number % 5}', number)
    stats.timing('c', f'timing {number % 3}', number)
    stats.incr('labelled', 'm', labels={'a': str(number % 4)})
stats.declare('declared', 'live', kind='gauge', mode='livesum', help='Some help.')
stats.gauge('declared', 'live', 1)
stats.remove('c', 'counter 3')
os.kill(os.getpid(), signal.SIGKILL)
"""

#: Expected errors and log lines are printed; SIGALRM ends a call that hangs.
TELL = """
import json, logging, os, signal
from pathlib import Path
from shmstats.block import BlockError
from shmstats.reading.reader import read_only
from shmstats.web import create_app

signal.alarm(30)
told = []

class Told(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())

logging.getLogger('shmstats').addHandler(Told())
logging.getLogger('shmstats').propagate = False
"""

USE = """
def look():
    try:
        with read_only(Path(data)) as reader:
            reader.read(by_worker=True)
            reader.usage()
    except (BlockError, FileNotFoundError) as error:
        told.append(f'read: {error}')

look()
try:
    stats.shared.attach()
except BlockError as error:
    told.append(f'attach: {error}')
for turn in range(2):
    for number in range(30):
        stats.incr('c', f'counter {number}')
        stats.gauge('c', f'gauge {number % 5}', number)
        stats.timing('c', f'timing {number % 3}', number)
        stats.incr('labelled', 'm', labels={'a': str(number % 4)})
        stats.incr('new', f'{turn} {number}')
        stats.gauge('declared', 'live', number)
    look()
    stats.snapshot()
    stats.get('c', 'counter 1')
    client = create_app().test_client()
    for path in ('/stats', '/stats/prometheus', '/debug/pool/bytes'):
        assert client.get(path).status_code in (200, 503), path
    stats.reset('c')
    stats.remove('labelled')
shmstats.close()
Path(report).write_text(json.dumps(told))
"""


#: The block is damaged under a process that has it attached, and continues with everything.
GO_ON = """
def count(turn):
    for number in range(30):
        stats.incr('c', f'counter {number}')
        stats.gauge('c', f'gauge {number % 5}', number)
        stats.timing('c', f'timing {number % 3}', number)
        stats.incr('labelled', 'm', labels={'a': str(number % 4)})
        stats.incr('new', f'{turn} {number}')
        stats.gauge('declared', 'live', number)
        handle.incr()

def attempt(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except BlockError as error:
        told.append(f'{call.__name__}: {error}')

handle = stats.counter('c', 'handle')
client = create_app().test_client()
stats.declare('declared', 'live', kind='gauge', mode='livesum', help='Some help.')
count('before')
with open(segment, 'r+b', buffering=0) as file:
    for place, damage in json.loads(Path(damages).read_text()):
        file.seek(place)
        file.write(bytes.fromhex(damage))
for turn in range(2):
    count(turn)
    attempt(stats.snapshot)
    attempt(stats.get, 'c', 'counter 1')
    attempt(stats.get, 'c', 'handle')
    attempt(stats.get_timestamp, 'c', 'when')
    stats.declare('c', f'declared {turn}', kind='histogram', buckets=[1, 2])
    for path in ('/stats', '/stats/prometheus', '/debug/pool/bytes', '/debug/goroutines'):
        assert client.get(path).status_code in (200, 503), path
    attempt(stats.flush)
    attempt(stats.reset, 'c')
    attempt(stats.remove, 'labelled')
count('after')
shmstats.close()
told.append('---')
attempt(stats.init, config)
count('anew')
shmstats.close()
Path(report).write_text(json.dumps(told))
"""


class Image:
    """The block of a killed process, to be damaged repeatedly.

    Args:
        nursery: of the processes that use it.
        directory: for all files.
    """

    def __init__(self, nursery: Nursery, directory: Path) -> None:
        from shmstats.block.layout import HEADER, Layout
        from shmstats.layout import NAME

        self._nursery = nursery
        self.data, self._report = directory / "data", directory / "report"
        nursery.run(FILL, self.data, STATS).wait()
        nursery.crashes.clear()
        self.file = segment_file(self.data)
        self.content = self.file.read_bytes()
        layout = Layout(int(STATS["capacity"]), int(STATS["max_workers"]))
        self.fields = {name: HEADER.offset(name) for name in HEADER.fields}
        names = int.from_bytes(self.content[self.fields["names"] :][:4], "little")
        self.sections = {
            "header": (8, HEADER.size),
            "workers": (layout.workers, layout.workers + 256),
            "pages": (layout.pages, layout.pages + layout.rows * layout.bitmap_bytes),
            "index": (layout.index, layout.names),
            "names": (layout.names, layout.names + names * NAME.size),
            "heap": (layout.heap, layout.heap + 2000),
            "cells": (layout.cells, layout.size),
        }

    def use(self, content: bytes) -> list[str]:
        """Make a process use a block with this content; return its report."""
        remove_block(self.data)
        self.file.touch(0o600)
        self.file.write_bytes(content)
        self._report.unlink(missing_ok=True)
        worker = self._nursery.run(TELL + USE, self.data, STATS, data=str(self.data), report=str(self._report))
        assert worker.wait() == 0, self._nursery.crashes
        told: list[str] = json.loads(self._report.read_text())
        return told

    def damage_attached(self, section: str, way: int, seed: int, buffered: bool) -> list[str]:
        """Damage a block under a process that has it attached; return its report."""
        remove_block(self.data)
        self._report.unlink(missing_ok=True)
        content = self.damaged(section, way, seed)
        first, end = self.sections[section]
        damages = self.data.parent / "damages"
        damages.write_text(json.dumps([(first, content[first:end].hex())]))
        config = STATS | {"no_buffer": not buffered, "buffer_size": 10}
        worker = self._nursery.run(
            *(TELL + GO_ON, self.data, config),
            segment=str(self.file),
            damages=str(damages),
            report=str(self._report),
            config={"path": {"data": str(self.data)}, "stats": config},
        )
        assert worker.wait() == 0, self._nursery.crashes
        told: list[str] = json.loads(self._report.read_text())
        return told

    def damaged(self, section: str, way: int, seed: int) -> bytes:
        """Return the content with random bytes somewhere in a section, or all over it."""
        chance = random.Random(seed)
        first, end = self.sections[section]
        content = bytearray(self.content)
        if way == 0:
            content[first:end] = chance.randbytes(end - first)
        elif way == 1:
            for _ in range(chance.randrange(1, 6)):
                content[chance.randrange(first, end)] = chance.randrange(256)
        elif way == 2:
            place = chance.randrange(first, end - 3) & ~3
            content[place : place + 4] = chance.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f", b"\1\0\0\0"])
        else:
            content[first:end] = bytes(end - first)
        return bytes(content)


@pytest.fixture
def image(nursery: Nursery, tmp_path: Path, shmstats: ModuleType) -> Iterator[Image]:
    made = Image(nursery, tmp_path)
    yield made
    nursery.crashes.clear()
    remove_block(made.data)


SECTIONS = ["header", "workers", "pages", "index", "names", "heap", "cells"]


def fuzz(image: Image, section: str, examples: int) -> None:
    @settings(
        derandomize=True, deadline=None, database=None, max_examples=examples, suppress_health_check=list(HealthCheck)
    )
    @given(way=st.integers(0, 3), seed=st.integers(0, 2**32))
    def check(way: int, seed: int) -> None:
        image.use(image.damaged(section, way, seed))

    check()


@pytest.mark.far_from_core
@pytest.mark.parametrize("section", SECTIONS)
def test_random_bytes_in_a_section_neither_crash_nor_hang_a_process(image: Image, section: str) -> None:
    fuzz(image, section, 5)


@pytest.mark.storm
@pytest.mark.parametrize("section", SECTIONS)
def test_many_random_bytes_in_a_section_neither_crash_nor_hang_a_process(image: Image, section: str) -> None:
    fuzz(image, section, 400)


def fuzz_attached(image: Image, section: str, examples: int) -> list[str]:
    told: set[str] = set()

    @settings(
        derandomize=True, deadline=None, database=None, max_examples=examples, suppress_health_check=list(HealthCheck)
    )
    @given(way=st.integers(0, 3), seed=st.integers(0, 2**32), buffered=st.booleans())
    def check(way: int, seed: int, buffered: bool) -> None:
        told.update(image.damage_attached(section, way, seed, buffered))

    check()
    return sorted(told)


@pytest.mark.far_from_core
@pytest.mark.parametrize("section", SECTIONS)
def test_damage_under_a_process_fails_no_counting_call_and_other_calls_report_it(image: Image, section: str) -> None:
    told = fuzz_attached(image, section, 5)
    if section in ("names", "heap"):
        assert [line for line in told if line.startswith("snapshot: ") and "damaged" in line], told


@pytest.mark.parametrize(
    ("field", "byte", "damage"),
    [("kind", 9, "a kind that cannot be"), ("key", 255, "a place for its key that cannot be")],
)
def test_pages_of_a_damaged_block_answer_503_and_name_the_damage(
    stats: Any, field: str, byte: int, damage: str
) -> None:
    from shmstats.layout import NAME
    from shmstats.web import create_app

    stats.incr("c", "m")
    client = create_app().test_client()
    block = stats.shared.attach()
    number, (offset, size) = block.names.find(b"c\0m").number, NAME.fields[field]
    at = block.layout.names + number * NAME.size + offset + size - 1
    right, block._buf[at] = block._buf[at], byte
    for path in ("/stats", "/stats?format=v2", "/stats?format=csv", "/stats/prometheus", "/stats/live/data"):
        answer = client.get(path)
        assert answer.status_code == 503, path
        assert f"damaged: record {number} has {damage}" in answer.get_json()["error"]
    block._buf[at] = right  # the process leaves in an orderly way, and no file stays


@pytest.mark.storm
@pytest.mark.parametrize("section", SECTIONS)
def test_much_damage_under_a_process_fails_no_counting_call(image: Image, section: str) -> None:
    fuzz_attached(image, section, 400)


def test_an_undamaged_block_is_adopted_unchanged(image: Image) -> None:
    assert image.use(image.content) == []


@pytest.mark.parametrize("field", ["names", "cells", "heap", "slots"])
def test_a_block_with_an_impossible_header_is_set_aside(image: Image, field: str) -> None:
    content = bytearray(image.content)
    content[image.fields[field] : image.fields[field] + 4] = b"\xff\xff\xff\x7f"
    told = image.use(bytes(content))
    assert [line for line in told if f"its header has {field} 2147483647; the limit is" in line], told
    aside = Path(f"{image.file}.damaged")
    assert aside.read_bytes() == bytes(content)
    assert aside.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("zeroed", [8, 4096])
def test_a_block_whose_beginning_was_zeroed_is_set_aside(image: Image, zeroed: int) -> None:
    """Unlike a block whose creator was killed, it has counts."""
    content = bytes(zeroed) + image.content[zeroed:]
    told = image.use(content)
    assert [line for line in told if "its beginning was zeroed; it was set aside as" in line], told
    assert Path(f"{image.file}.damaged").read_bytes() == content


def test_a_block_zeroed_at_its_beginning_while_in_use_is_refused_and_saved(
    stats: Any, python: PythonRunner, data: Path
) -> None:
    stats.incr("c", "m", 7)
    # Another process writes: this one would drop its record locks on the file when it closes it.
    code = """
        import sys
        import shmstats
        with open(sys.argv[1], "r+b") as file:
            file.write(bytes(8))
        try:
            shmstats.init()
        except shmstats.BlockError as error:
            print(error)
        """
    assert "processes use it: stop them first" in python.run(code, segment_file(data))
    stats.incr("c", "m", 100)
    stats.close()
    assert stats.get("c", "m") == 107


def test_if_the_block_is_damaged_the_snapshot_is_restored(
    nursery: Nursery, tmp_path: Path, shmstats: ModuleType
) -> None:
    """The block is newer than the snapshot, but cannot be trusted."""
    data = tmp_path / "data"
    config = {"capacity": 256, "max_workers": 2}
    assert nursery.run("stats.incr('c', 'saved', 7); shmstats.close()", data, config).wait() == 0
    leave = "import os, signal; stats.incr('c', 'later'); os.kill(os.getpid(), signal.SIGKILL)"
    assert nursery.run(leave, data, config).wait() == -9
    content = bytearray(segment_file(data).read_bytes())
    place = content.index(b"c\0saved")
    content[place] = 0xFF
    segment_file(data).write_bytes(content)
    assert nursery.run("stats.incr('c', 'saved'); shmstats.close()", data, config).wait() == 0
    found = judge.values(data)
    assert found["c", "saved"] == 8
    assert ("c", "later") not in found
    assert bytes(content) == Path(f"{segment_file(data)}.damaged").read_bytes()
    remove_block(data)


@pytest.mark.parametrize("filling", [b"\xff", b"\x01", b"\x07"])
def test_an_index_of_random_bytes_is_rebuilt(image: Image, nursery: Nursery, filling: bytes) -> None:
    first, end = image.sections["index"]
    content = bytearray(image.content)
    content[first:end] = filling * (end - first)
    remove_block(image.data)
    image.file.touch(0o600)
    image.file.write_bytes(content)
    code = "import time; stats.incr('c', 'counter 1'); stats.incr('c', 'next'); open(there, 'w'); time.sleep(99)"
    there = image.data.parent / "there"
    worker = nursery.run(code, image.data, STATS, there=str(there))
    wait_until(there.exists)
    judge.check_structure(image.data)
    found = judge.values(image.data)
    assert found["c", "counter 1"] == 2
    assert found["c", "next"] == 1
    assert found["labelled", "m", "0"] == 8
    worker.kill()


def test_an_index_that_is_damaged_while_in_use_hangs_no_process(attach: Callable[..., Any], stats: Any) -> None:
    """A name that cannot be registered is dropped and counted; the next process to attach rebuilds the index."""
    stats.incr("c", "before")
    block = stats.shared.attach()
    first, end = block.layout.index, block.layout.names
    block._buf[first:end] = b"\1\0\0\0" * ((end - first) // 4)
    stats.incr("c", "meanwhile")
    for number in range(5):
        stats.incr("c", f"after {number}")
    stats.remove("c", "after 2")
    stats.incr("c", "before")
    found = stats.snapshot()["c"]
    assert found["before"] == 2
    assert {found[f"after {number}"] for number in (0, 1, 3, 4)} == {1}
    assert found.get("meanwhile", 0) + stats.get("shmstats", "operations_dropped") == 1


@settings(derandomize=True, deadline=None, database=None, max_examples=200)
@given(content=st.binary(max_size=9000), magic=st.booleans())
def test_a_file_with_any_content_is_attached_or_refused(content: bytes, magic: bool) -> None:
    from shmstats.block import BlockError
    from shmstats.block.header import read_header
    from shmstats.block.layout import MAGIC
    from shmstats.block.validate import check_layout

    buf = memoryview(MAGIC.to_bytes(8, "little") + content if magic else content)
    with pytest.raises(BlockError):
        check_layout("of a test", read_header(buf), len(buf))


# With sanitizers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sanitized(tmp_path: Path, _before_all: None) -> Iterator[tuple[Nursery, Path]]:
    """A nursery with a core under AddressSanitizer and UndefinedBehaviorSanitizer, and its log."""
    asan = debug.sanitizer()
    if asan is None:
        if os.environ.get("CI"):
            pytest.fail("there is no gcc with its sanitizers, and CI must test with them")
        pytest.skip("there is no gcc with its sanitizers")
    log = tmp_path / "sanitizers"
    environment = {"LD_PRELOAD": str(asan), "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1"}
    cells = debug.build(tmp_path, *debug.SANITIZERS)
    with Nursery(cells=cells, log=log, environment=environment) as nursery:
        yield nursery, log


@pytest.mark.thorough
@pytest.mark.parametrize("core", ["C"], indirect=True)
def test_the_sanitizers_find_nothing_with_any_content_of_the_block(
    sanitized: tuple[Nursery, Path], tmp_path: Path, core: str, shmstats: ModuleType
) -> None:
    nursery, log = sanitized
    image = Image(nursery, tmp_path)
    image.use(image.content)
    for section in SECTIONS:
        for seed in range(2):
            image.use(image.damaged(section, seed, seed))
    remove_block(image.data)
    assert "Sanitizer" not in log.read_text()
    assert "runtime error" not in log.read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("core", ["C"], indirect=True)
def test_the_sanitizers_find_a_read_outside_of_memory(sanitized: tuple[Nursery, Path], core: str) -> None:
    """Shows that the sanitizers work."""
    nursery, log = sanitized
    code = "import ctypes as c; c.CDLL(None).memcpy(c.create_string_buffer(8), c.create_string_buffer(8), 4096)"
    assert nursery.run(code, log.parent / "data", STATS).wait() != 0
    assert "AddressSanitizer" in log.read_text()
