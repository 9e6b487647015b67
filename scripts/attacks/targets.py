"""The targets of fuzzing: readers and parsers, prepared to get bytes. Each answers, or refuses as documented."""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from .damage import FILLING, Damage, config, directory, fill

#: A target gets bytes. It returns, or raises if something is wrong.
Target = Callable[[bytes], object]


def snapshot() -> Target:
    """Make the target: a snapshot of any bytes, or one of any content with a right checksum; it is shown.

    The first byte modulo 4 is the version of the format, or 0: then the others are the whole file. From 128 on a block
    is restored from it, too, and saved: what is saved must be a snapshot.
    """
    from shmstats.export import FORMATS, View
    from shmstats.registry import Registry
    from shmstats.snapshot.decoding import decode
    from shmstats.snapshot.format import SnapshotError, _prefix

    formats, data = list(FORMATS.values()), directory()
    saved = data / "stats" / "simple.json"
    saved.parent.mkdir()
    logging.disable(logging.CRITICAL)

    def restore(content: bytes) -> None:
        saved.write_bytes(content)
        stats = Registry()
        try:
            stats.init(config(data, persist=True))
            for call in FILLING:
                with suppress(ValueError):  # the snapshot has the metric as another kind
                    call(stats)
            formats[len(content) % len(formats)].render(stats.read(), View())
        finally:
            stats.close()
        left_out = decode(saved, saved.read_bytes()).left_out
        for file in saved.parent.iterdir():
            file.unlink()
        if left_out:
            raise ValueError(f"it was saved and would not be restored: {left_out}")

    def read(content: bytes) -> None:
        first, content = content[0] if content else 0, content[1:]
        version = first % 4
        whole = _prefix(version, content) + content + b"}\n" if version else content
        try:
            found = decode(Path("fuzzed"), whole).snapshot
        except SnapshotError:
            return
        formats[len(content) % len(formats)].render(found, View())
        if first > 127:
            restore(whole)

    return read


def block() -> Target:
    """Make the target: a damaged block, read in every way: the damage is reported, or it is shown in every form."""
    from shmstats.attachment.health import health
    from shmstats.block import BlockError
    from shmstats.block.header import read_header
    from shmstats.block.records import Records
    from shmstats.block.validate import OF_CONTENTS, check_layout, find_damage
    from shmstats.block.workers import WorkerTable
    from shmstats.dashboard.totals import Dashboard
    from shmstats.debug.documents import requests_document, stacks_document
    from shmstats.debug.processes import pool_figures
    from shmstats.export import FORMATS, View
    from shmstats.history.tracks import Tracks
    from shmstats.reading.reader import BlockReader
    from shmstats.snapshot.decoding import decode
    from shmstats.snapshot.format import encode
    from shmstats.terminal.panes import Look, head, metrics_pane, routes_pane, workers_pane
    from shmstats.terminal.watch import Repaint

    damage, formats = Damage(), list(FORMATS.values())
    damage.registry.close()

    def look(reader: BlockReader, form: int) -> None:
        workers = reader.workers.live()
        served = reader.served(workers)
        snapshot = reader.read(by_worker=True)
        formats[form % len(formats)].render(reader.read(), View())
        Repaint().content(snapshot, "fuzzed")
        now = Look(1.0, Dashboard().document(reader, snapshot, served=served), requests_document(served))
        for pane in (workers_pane, routes_pane, metrics_pane):
            pane(now, None, 80)
        head("fuzzed", now, None, 80)
        stacks_document([(worker, None) for worker in workers], served)
        reader.usage()
        reader.notes("c")
        health(reader, "fuzzed")
        pool_figures(reader)
        Tracks([], []).follow(snapshot.names, 1)
        decode(Path("fuzzed"), b"".join(encode(reader.read())))

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
                find_damage(buf, found)
                look(reader, len(content))
                records = Records(buf, found)
                for record in records.records():
                    reader.value(record)
            except BufferError:
                return
            except OF_CONTENTS:
                if not find_damage(buf, found):
                    raise
            finally:
                reader.close()

    return read


def counting() -> Target:
    """Make the target: a process counts into a block that is damaged meanwhile, or was before it came.

    Counting raises nothing, except that a name is of another kind, which another process could have caused, too.
    The latter case is selected by a first byte above 127.
    """
    from shmstats.block import BlockError, DeclarationError, KindError
    from shmstats.registry import Registry

    damage = Damage()
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
            for call in FILLING:
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


class _Locks:
    """Locks of a block that no process holds."""

    slots: Collection[int] = ()

    def held(self, places: Iterator[int]) -> set[int]:
        return set(places)

    def stat(self) -> os.stat_result:
        return os.stat("/")


def questions() -> Target:
    """Make the target: questions to the socket of a worker, and answers from one."""
    from shmstats.attachment import asking, peers

    listener = peers.Listener(str(directory() / "socket"))
    answers = {"stacks": lambda: [1, "é"]}

    def say(content: bytes) -> None:
        asking._parsed(bytearray(content))
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
    from shmstats.export import negotiate

    def choose(content: bytes) -> None:
        form, escaping = negotiate(content.decode("latin-1"))
        if any(character in f"{form.content_type}{escaping}" for character in "\r\n\0"):
            raise ValueError(f"a header would be {form.content_type!r} with {escaping!r}")

    return choose


#: Headers, and a server's facts about the peer, by their WSGI names.
_HEADERS = (
    "HTTP_ACCEPT", "HTTP_AUTHORIZATION", "HTTP_HOST", "HTTP_ORIGIN", "HTTP_REFERER", "HTTP_X_FORWARDED_FOR",
    "HTTP_FORWARDED", "HTTP_ACCEPT_ENCODING", "HTTP_IF_NONE_MATCH", "HTTP_RANGE", "HTTP_COOKIE", "CONTENT_LENGTH",
    "CONTENT_TYPE", "REMOTE_ADDR", "REMOTE_PORT", "SERVER_ADDR", "SCRIPT_NAME",
)  # fmt: skip


def requests() -> Target:
    """Make the target: method, path, query and headers of a request; nothing beside the data directory is touched.

    After the path each line is a header, whose name the first byte selects.
    """
    import shmstats
    from shmstats.web import create_app

    top = directory()
    canary = top / "canary"
    canary.write_text("stays")
    (top / "data").mkdir()
    app = create_app(config(top / "data"))
    fill(shmstats.stats)
    atexit.register(shmstats.close)
    methods = ("GET", "DELETE", "HEAD", "POST")

    def ask(content: bytes) -> None:
        method, content = methods[content[0] % 4] if content else "GET", content[1:]
        asked, *lines = content.decode("latin-1").split("\n")
        path, _, query = asked.partition("?")
        headers = {_HEADERS[ord(line[0]) % len(_HEADERS)]: line[1:] for line in lines if line}
        environ = {
            "REQUEST_METHOD": method, "PATH_INFO": f"/{path}", "QUERY_STRING": query, "SCRIPT_NAME": "",
            "SERVER_NAME": "localhost", "SERVER_PORT": "80", "HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1",
            "wsgi.url_scheme": "http", "wsgi.input": None, "wsgi.errors": sys.stderr, "wsgi.version": (1, 0),
            "wsgi.multithread": False, "wsgi.multiprocess": False, "wsgi.run_once": False, **headers,
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
    """Make the target: the file of the history with any bytes somewhere, or with any tracks, event or rows.

    The latter, which the first byte selects, have right checksums. It is read and shown in every form.
    """
    from shmstats.history import documents, past, ring
    from shmstats.history.recorder import HistoryRecorder

    damage = Damage()
    data = directory()
    file = ring.ring_file(data)
    block = damage.registry.shared.attach()
    recorder = HistoryRecorder(data)
    now = 1_700_000_000
    for second in range(now - 3, now + 1):
        recorder.record(block.reader, damage.registry.read(), second * 10**9)
    recorder.close()
    damage.registry.close()
    whole = file.read_bytes()
    queries = [past.Query(now - 60, now, 1), past.Query(now - 3600, now, 60)]

    def said(content: bytes) -> list[tuple[int, bytes]]:
        """Return what an input writes, and where, with the right checksums."""
        way, content = content[0] % 4, content[1:]
        if way == 0:
            at = 64 * int.from_bytes(content[:2], "little") % len(whole)
            return [(at, content[2:][: len(whole) - at])]
        if way == 1:
            number = 1000
            head = ring.PLACE.struct.pack(number, len(content), crc32(content, number))
            return [(ring._TRACKS[number % 2], head + content)]
        if way == 2:
            moment, length = now * 10**9 + int.from_bytes(content[:4], "little"), int.from_bytes(content[4:6], "little")
            kind, text = content[6:16].ljust(10, b"\0"), content[16:120].ljust(104, b"\0")
            return [(ring._EVENTS_OFFSET, ring._event_record(moment, length, kind, text))]
        values = content[4 : len(content) // 4 * 4]
        tiers = ((tier, now // tier.step - 1) for tier in (ring.SECONDS, ring.MINUTES))
        heads = [
            (tier, number, (number, int.from_bytes(content[:4], "little"), len(values) // 4)) for tier, number in tiers
        ]
        return [
            (
                tier.place(number),
                ring.ROW.struct.pack(*head, crc32(values, crc32(ring.ROW.struct.pack(*head, 0, 0))), 0) + values,
            )
            for tier, number, head in heads
        ]

    def read(content: bytes) -> None:
        written = said(content) if content else []
        with file.open("r+b", buffering=0) as opened:
            for at, put in written:
                os.pwrite(opened.fileno(), put, at)
            for query in queries:
                with suppress(ring.RingError):
                    found = past.read_past(data, query)
                    json.dumps(documents.to_json(found))
                    documents.to_csv(found)
            past.read_recent(data, now)
            for at, put in written:
                os.pwrite(opened.fileno(), whole[at : at + len(put)], at)

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
