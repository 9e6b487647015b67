"""Readers and parsers against bytes that nobody wrote: each answers, or refuses in the way that it says.

With `atheris` they are guided by what the bytes reach; without it the corpus is changed at random. The corpus is in
``tests/attacks/corpus``, a folder for each target: what was once answered wrongly stays there.

    python -m attacks.fuzzing TARGET SECONDS [DIR]   with atheris, until something is wrong, or the time is up
    python -m attacks.fuzzing --mutate N             each target with its corpus, and N inputs made of it
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

CORPUS = Path(__file__).parents[2] / "tests" / "attacks" / "corpus"

#: What a target is given: bytes. It returns, or raises what is wrong.
Target = Callable[[bytes], object]

_LONGEST = 4096


def snapshot() -> Target:
    """Make the target: a snapshot of any bytes, or one that says anything with a checksum that is right; it is shown.

    The first byte is the version of the format, or 0: then the others are the whole file.
    """
    from shmstats.export import FORMATS, View
    from shmstats.snapshot import SnapshotError
    from shmstats.snapshot.decoding import decode
    from shmstats.snapshot.format import _prefix

    formats = list(FORMATS.values())

    def read(content: bytes) -> None:
        version, content = int(content[:1].hex() or "0", 16) % 4, content[1:]
        whole = _prefix(version, content) + content + b"}\n" if version else content
        try:
            found = decode(Path("fuzzed"), whole).snapshot
        except SnapshotError:
            return
        formats[len(content) % len(formats)].render(found, View())

    return read


def block() -> Target:
    """Make the target: a damaged block that is read as `/stats` and the page of Prometheus read it."""
    from shmstats.attachment.health import health
    from shmstats.block import BlockError
    from shmstats.block.header import read_header
    from shmstats.block.validate import OF_CONTENTS, check_layout, find_damage
    from shmstats.block.workers import WorkerTable
    from shmstats.export import FORMATS, View
    from shmstats.reading.reader import BlockReader

    damage, formats = _Damage(), list(FORMATS.values())
    damage.registry.close()

    def read(content: bytes) -> None:
        at, put = damage.of(content)
        changed = bytearray(damage.image)
        changed[at : at + len(put)] = put
        buf = memoryview(changed).toreadonly()
        with suppress(BlockError):
            header = read_header(buf)
            if header["magic"] == 0:
                return
            found = check_layout("fuzzed", header, len(buf))
            reader = BlockReader(buf, found, WorkerTable(buf, found, _Locks()))  # type: ignore[arg-type]
            try:
                reader.read(by_worker=True)
                formats[len(content) % len(formats)].render(reader.read(), View())
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


def counting() -> Target:
    """Make the target: a process counts into a block that is damaged meanwhile, or was so when it came.

    Counting raises nothing, but that a name is of another kind: what damage can say is what another process may have
    said. The latter is where the first byte of the input is above 127.
    """
    from shmstats.block import BlockError, DeclarationError, KindError
    from shmstats.registry import Registry

    damage = _Damage()
    damage.registry.close()
    place = damage.file.parent
    logging.disable(logging.CRITICAL)

    def count(content: bytes) -> None:
        at, put = damage.of(content)
        found, meanwhile = (put, b"") if content[:1] > b"\x7f" else (b"", put)
        image = bytearray(damage.image)
        image[at : at + len(found)] = found
        damage.file.touch(0o600)
        damage.file.write_bytes(image)
        stats = Registry()
        try:
            with suppress(BlockError):
                stats.init(damage.config)
            handle = stats.counter("c", "m")
            handle.incr()
            with damage.file.open("r+b") as file:
                file.seek(at)
                file.write(meanwhile)
            handle.incr()
            for call in _FILLING:
                with suppress(KindError, DeclarationError):
                    call(stats)
            for refused in (
                lambda: stats.get("c", "t"), lambda: stats.get_timestamp("c", "moment"), stats.snapshot, stats.flush,
                lambda: stats.reset("c", "t"), lambda: stats.remove("c", "g"),
            ):  # fmt: skip
                with suppress(BlockError):
                    refused()
            with suppress(KindError, DeclarationError):
                stats.incr("c", "g")
        finally:
            stats.close()
            for left in place.glob(f"{damage.file.name}*"):
                left.unlink()

    return count


class _Damage:
    """A block as a process has left it, and where bytes may be put into it.

    Of an input the first byte chooses a section, the next two the place in it, and the others are what is put there.

    Attributes:
        registry: that has it attached.
        config: of that.
        file: where the block is.
        image: what is in it.
    """

    def __init__(self) -> None:
        from shmstats.block import identify
        from shmstats.block.layout import HEADER, NAME, Layout
        from shmstats.registry import Registry

        data = _directory()
        self.registry, self.config = Registry(), _config(data)
        self.registry.init(self.config)
        _fill(self.registry)
        self.file = Path(identify(data).segment)
        self.image = self.file.read_bytes()
        layout = Layout(*_SIZES.values())
        self._sections = (
            (0, HEADER.size),
            (layout.workers, 256),
            (layout.pages, layout.rows * layout.bitmap_bytes),
            (layout.index, 4 * layout.index_slots),
            (layout.names, 16 * NAME.size),
            (layout.heap, 2048),
            (layout.cells, 4096),
        )

    def of(self, content: bytes) -> tuple[int, bytes]:
        """Return where something is put, and what."""
        start, length = self._sections[(content[0] if content else 0) % len(self._sections)]
        at = start + int.from_bytes(content[1:3], "little") % length
        return at, content[3 : 3 + len(self.image) - at]


class _Locks:
    """Locks of a block that nobody has."""

    slots: Collection[int] = ()

    def held(self, places: Iterator[int]) -> set[int]:
        return set(places)

    def stat(self) -> os.stat_result:
        return os.stat("/")


_SIZES = {"capacity": 256, "max_workers": 2}


def _config(data: Path) -> dict[str, Any]:
    return {"path": {"data": str(data)}, "stats": {**_SIZES, "persist": False}}


#: Calls that count in every way.
_FILLING: tuple[Callable[[Any], object], ...] = (
    lambda stats: stats.incr("c", "m", 3),
    lambda stats: stats.gauge("c", "g", 2.5),
    lambda stats: stats.timing("c", "t", 12.5),
    lambda stats: stats.declare("c", "live", kind="gauge", mode="livesum", help="A gauge."),
    lambda stats: stats.gauge("c", "live", 4),
    lambda stats: stats.declare("c", "all", kind="gauge", mode="all"),
    lambda stats: stats.declare("c", "phase", kind="state", states=["up", "down"]),
    lambda stats: stats.gauge("c", "all", 4),
    lambda stats: stats.declare("c", "exponential", kind="histogram", buckets="exponential", range=(1, 1000)),
    lambda stats: stats.timing("c", "exponential", 7),
    lambda stats: stats.incr("c", "labelled", labels={"a": "é", "b": '"'}),
    lambda stats: stats.timestamp("c", "moment"),
    lambda stats: stats.info("c", "about", {"version": "1"}),
    lambda stats: stats.state("c", "phase", "up"),
    lambda stats: stats.incr("c", "exemplary", exemplar={"trace": "7"}),
    lambda stats: stats.incr("c", "labelled", labels={"a": "new", "b": "new"}),
)


def _fill(stats: Any) -> None:
    for call in _FILLING:
        call(stats)


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
    app = create_app(_config(top / "data"))
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
    "snapshot": snapshot,
    "block": block,
    "counting": counting,
    "questions": questions,
    "accept": accept,
    "requests": requests,
    "history": history,
}


def _directory() -> Path:
    directory = tempfile.mkdtemp(prefix="fuzz-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def corpus(name: str) -> Path:
    """Return where the inputs of a target are kept."""
    return CORPUS / ("block" if name == "counting" else name)


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
        chance, target, inputs = (
            random.Random(f"{seed} {name}"),
            make(),
            [file.read_bytes() for file in sorted(corpus(name).iterdir())],
        )
        for content in [*inputs, *(mutated(inputs, chance) for _ in range(number))]:
            try:
                target(content)
            except Exception as error:
                error.add_note(f"{name} was given {content!r}")
                raise
            done += 1
    return done


def fuzz(name: str, seconds: int, kept: Path | None) -> None:
    """Fuzz a target with atheris, and keep in a directory what leads to what was not seen; this process ends with it.

    What is answered wrongly is kept there too, as ``crash-...``, ``timeout-...`` or ``oom-...``.
    """
    import atheris

    with atheris.instrument_imports(include=["shmstats"]):
        target = TARGETS[name]()
    kept = kept or _directory()
    kept.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-timeout=60", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={kept}/", str(kept), str(corpus(name))], target)
    atheris.Fuzz()


class Fuzzed(NamedTuple):
    """What came of fuzzing a target.

    Attributes:
        name: of the target.
        inputs: that it was given.
        seconds: of a processor.
        wrong: what was wrong; empty where nothing was.
    """

    name: str
    inputs: int
    seconds: float
    wrong: str


def run(name: str, seconds: int) -> Fuzzed:
    """Fuzz a target in a process of its own."""
    command = [sys.executable, "-m", "attacks.fuzzing", name, str(seconds)]
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(command, stdout=said, stderr=said, text=True) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.readlines()
    inputs = [int(number) for number in re.findall(r"^#(\d+)\t", "".join(lines), re.M)]
    wrong = "".join(line for line in lines if not line.startswith(("INFO", "#")))
    return Fuzzed(
        name, max(inputs, default=0), usage.ru_utime + usage.ru_stime, wrong[-4000:] if process.returncode else ""
    )


def run_all(seconds: int) -> Iterator[Fuzzed]:
    """Fuzz every target for so long, as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(run, TARGETS, repeat(seconds))


def main() -> None:
    """Run as the module says."""
    if sys.argv[1] == "--mutate":
        print(mutate(int(sys.argv[2]), 1))
    else:
        fuzz(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)


if __name__ == "__main__":
    main()
