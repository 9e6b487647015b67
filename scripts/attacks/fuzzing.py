"""Readers and parsers against bytes that nobody wrote: each answers, or refuses in the way that it says.

With `atheris` they are guided by what the bytes reach; without it the corpus is changed at random. The corpus is in
``tests/attacks/corpus``, a folder for each target: what was once answered wrongly stays there.

    python -m attacks.fuzzing TARGET SECONDS     with atheris, until something is wrong, or the time is up
    python -m attacks.fuzzing --mutate N         each target with its corpus, and N inputs made of it
"""

from __future__ import annotations

import atexit
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parents[2] / "tests" / "attacks" / "corpus"

#: What a target is given: bytes. It returns, or raises what is wrong.
Target = Callable[[bytes], object]

_LONGEST = 4096


def snapshot_bytes() -> Target:
    """Make the target: a snapshot of any bytes."""
    from shmstats.snapshot import SnapshotError
    from shmstats.snapshot.format import decode

    def read(content: bytes) -> None:
        with suppress(SnapshotError):
            decode(Path("fuzzed"), content)

    return read


def snapshot_content() -> Target:
    """Make the target: a snapshot that says anything, with a checksum that is right; what is left of it is shown."""
    from shmstats.export import FORMATS, View
    from shmstats.snapshot import SnapshotError
    from shmstats.snapshot.format import _prefix, decode

    def read(content: bytes) -> None:
        version, content = {b"1": 1, b"2": 2}.get(content[:1], 3), content[1:]
        try:
            snapshot, _ = decode(Path("fuzzed"), _prefix(version, content) + content + b"}\n")
        except SnapshotError:
            return
        for form in FORMATS.values():
            form.render(snapshot, View())

    return read


def block_section(section: str) -> Target:
    """Make the target: a block with any bytes somewhere in a section; it is read as `/stats` reads it."""
    from shmstats.attachment.health import health
    from shmstats.block import BlockError, identify
    from shmstats.block.header import read_header
    from shmstats.block.layout import HEADER, NAME, Layout
    from shmstats.block.validate import OF_CONTENTS, check_layout, find_damage
    from shmstats.block.workers import WorkerTable
    from shmstats.reading import BlockReader
    from shmstats.registry import Registry

    data = _directory()
    registry = Registry()
    registry.init({"path": {"data": str(data)}, "stats": {"capacity": 256, "max_workers": 2, "persist": False}})
    _fill(registry)
    image = Path(identify(data).segment).read_bytes()
    registry.close()
    layout = Layout(256, 2)
    start, length = {
        "header": (0, HEADER.itemsize),
        "workers": (layout.workers, 256),
        "pages": (layout.pages, layout.rows * layout.bitmap_bytes),
        "index": (layout.index, 4 * layout.index_slots),
        "names": (layout.names, 16 * NAME.itemsize),
        "heap": (layout.heap, 2048),
        "cells": (layout.cells, 4096),
    }[section]

    def read(content: bytes) -> None:
        at, content = start + int.from_bytes(content[:2], "little") % length, content[2:]
        changed = bytearray(image)
        changed[at : at + len(content)] = content[: len(changed) - at]
        buf = memoryview(changed).toreadonly()
        with suppress(BlockError):
            header = read_header(buf)
            if header["magic"] == 0:
                return
            found = check_layout("fuzzed", header, len(buf))
            reader = BlockReader(buf, found, WorkerTable(buf, found, _Locks()))  # type: ignore[arg-type]
            try:
                reader.read(by_worker=True)
                reader.usage()
                reader.notes("c")
                reader.served(reader.workers.live())
                health(reader, "fuzzed")
            except BufferError:
                return
            except OF_CONTENTS:
                if not find_damage(buf, found):
                    raise
            finally:
                reader.close()

    return read


class _Locks:
    """Locks of a block that nobody has."""

    slots: Collection[int] = ()

    def held(self, places: Iterator[int]) -> set[int]:
        return set(places)

    def stat(self) -> os.stat_result:
        return os.stat("/")


def _fill(stats: Any) -> None:
    stats.incr("c", "m", 3)
    stats.gauge("c", "g", 2.5)
    stats.timing("c", "t", 12.5)
    stats.declare("c", "live", kind="gauge", mode="livesum", help="A gauge.")
    stats.gauge("c", "live", 4)
    stats.declare("c", "all", kind="gauge", mode="all")
    stats.gauge("c", "all", 4)
    stats.declare("c", "exponential", kind="histogram", buckets="exponential", range=(1, 1000))
    stats.timing("c", "exponential", 7)
    stats.incr("c", "labelled", labels={"a": "é", "b": '"'})
    stats.timestamp("c", "moment")


def questions() -> Target:
    """Make the target: what somebody may say to the socket where workers are asked."""
    from shmstats.attachment import peers

    listener = peers.Listener(str(_directory() / "socket"))
    answers = {"stacks": lambda: [1, "é"]}

    def say(content: bytes) -> None:
        pieces = content.split(b"\0")[:4]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(listener.path)
            listener.serve(answers)
            for piece in pieces:
                with suppress(OSError):
                    client.sendall(piece)
                listener.serve(answers)
            listener.serve(answers)
            client.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                answer = client.recv(65536)
                if answer:
                    json.loads(answer)

    return say


def accept() -> Target:
    """Make the target: a header Accept."""
    from shmstats.export.negotiation import negotiate

    def choose(content: bytes) -> None:
        choice = negotiate(content.decode("latin-1"))
        if any(character in choice.content_type for character in "\r\n\0"):
            raise ValueError(f"a header would be {choice.content_type!r}")

    return choose


def requests() -> Target:
    """Make the target: method, path and query of a request; nothing beside the data directory is touched."""
    import shmstats
    from shmstats.web import create_app

    top = _directory()
    canary = top / "canary"
    canary.write_text("stays")
    (top / "data").mkdir()
    config = {"path": {"data": str(top / "data")}, "stats": {"capacity": 256, "max_workers": 2, "persist": False}}
    app = create_app(config)
    _fill(shmstats.stats)
    atexit.register(shmstats.close)
    methods = ("GET", "DELETE", "HEAD", "POST")

    def ask(content: bytes) -> None:
        method, content = methods[content[0] % 4] if content else "GET", content[1:]
        path, _, query = content.decode("latin-1").partition("?")
        environ = {
            "REQUEST_METHOD": method, "PATH_INFO": f"/{path}", "QUERY_STRING": query, "SCRIPT_NAME": "",
            "SERVER_NAME": "localhost", "SERVER_PORT": "80", "HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1",
            "wsgi.url_scheme": "http", "wsgi.input": None, "wsgi.errors": sys.stderr, "wsgi.version": (1, 0),
            "wsgi.multithread": False, "wsgi.multiprocess": False, "wsgi.run_once": False,
        }  # fmt: skip
        answered: list[str] = []
        body = app.wsgi_app(environ, lambda status, headers, *more: answered.append(status))
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()
        if answered[0][0] == "5" or not canary.exists():
            raise ValueError(f"{method} {path!r} {query!r}: {answered}, {canary.exists()}")

    return ask


def history() -> Target:
    """Make the target: the file of the history with any bytes somewhere."""
    from shmstats.history import past, ring

    data = _directory()
    file = ring.ring_file(data)
    file.parent.mkdir()
    ring.make_ring(file).close()

    def read(content: bytes) -> None:
        at, content = 64 * int.from_bytes(content[:2], "little"), content[2:]
        with file.open("r+b") as opened:
            opened.seek(at)
            before = opened.read(len(content))
            opened.seek(at)
            opened.write(content[: len(before)])
        try:
            with suppress(ring.RingError, FileNotFoundError):
                past.read_past(data, past.Query.made())
        finally:
            with file.open("r+b") as opened:
                opened.seek(at)
                opened.write(before)

    return read


TARGETS: dict[str, Callable[[], Target]] = {
    "snapshot-bytes": snapshot_bytes,
    "snapshot-content": snapshot_content,
    **{
        f"block-{section}": lambda section=section: block_section(section)  # type: ignore[misc]
        for section in ("header", "workers", "pages", "index", "names", "heap", "cells")
    },
    "questions": questions,
    "accept": accept,
    "requests": requests,
    "history": history,
}


def _directory() -> Path:
    directory = tempfile.mkdtemp(prefix="fuzz-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def corpus(name: str) -> list[bytes]:
    """Return the inputs of a target that are kept."""
    return [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]


def mutated(inputs: list[bytes], chance: random.Random) -> bytes:
    """Return an input that is made of one or two others."""
    content = bytearray(chance.choice(inputs))
    for _ in range(chance.randrange(1, 5)):
        at, other = chance.randrange(len(content) + 1), chance.choice(inputs)
        way = chance.randrange(5)
        if way == 0 and content:
            content[at % len(content)] ^= 1 << chance.randrange(8)
        elif way == 1:
            content[at : at + chance.randrange(8)] = chance.randbytes(chance.randrange(8))
        elif way == 2:
            content[at:at] = other[chance.randrange(len(other) + 1) :][:64]
        elif way == 3:
            content[at : at + 8] = chance.choice((0, 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)).to_bytes(8, "little")
        else:
            del content[at : at + chance.randrange(64)]
    return bytes(content[:_LONGEST])


def mutate(number: int, seed: int) -> int:
    """Give each target its corpus, and so many inputs made of it; return how many inputs there were."""
    done = 0
    for name, make in TARGETS.items():
        chance, target, inputs = random.Random(f"{seed} {name}"), make(), corpus(name) or [b""]
        for content in [*inputs, *(mutated(inputs, chance) for _ in range(number))]:
            try:
                target(content)
            except Exception as error:
                error.add_note(f"{name} was given {content!r}")
                raise
            done += 1
    return done


def fuzz(name: str, seconds: int) -> None:
    """Fuzz a target with atheris; this process ends with it."""
    import atheris

    with atheris.instrument_imports(include=["shmstats"]):
        target = TARGETS[name]()
    new = _directory()
    options = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-timeout=20", "-rss_limit_mb=2048"]
    options += [f"-artifact_prefix={os.environ.get('FUZZ_ARTIFACTS', '.')}/"]
    atheris.Setup([sys.argv[0], *options, str(new), str(CORPUS / name)], target)
    atheris.Fuzz()


def run(name: str, seconds: int) -> tuple[int, str]:
    """Fuzz a target in a process of its own; return how many inputs there were, and what was wrong."""
    command = [sys.executable, "-m", "attacks.fuzzing", name, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    inputs = [int(number) for number in re.findall(r"^#(\d+)\t", done.stderr, re.M)]
    said = "".join(line for line in (done.stdout + done.stderr).splitlines(True) if not line.startswith("INFO"))
    return max(inputs, default=0), "" if done.returncode == 0 else said[-4000:]


def main() -> None:
    """Run as the module says."""
    if sys.argv[1] == "--mutate":
        print(mutate(int(sys.argv[2]), 1))
    else:
        fuzz(sys.argv[1], int(sys.argv[2]))


if __name__ == "__main__":
    main()
