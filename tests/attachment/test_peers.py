"""Workers answer questions through their sockets; silent and faulty clients do not delay others."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import BOUND, SHARED_MEMORY, Child, PythonRunner, process_state, wait_until

from shmstats.attachment import asking
from shmstats.attachment import peers as questions
from shmstats.attachment.asking import ask_all
from shmstats.attachment.peers import Listener, remove_stale, socket_path

ROOT = Path(__file__).parents[2]

#: Serves its socket in a thread, and runs in its main thread the code that it reads.
WORKER = """
import os, select, sys, threading, time
from shmstats.attachment.peers import Listener

def serve(listener):
    while True:
        poll = select.poll()
        for number, events in listener.descriptors():
            poll.register(number, events)
        poll.poll()
        listener.serve({"pid": os.getpid, "large": lambda: "x" * 5_000_000})

threading.Thread(target=serve, args=(Listener(sys.argv[1]),), daemon=True).start()
print("ready", flush=True)
exec(sys.stdin.readline())
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


@pytest.fixture
def listener(path: str) -> Iterator[Listener]:
    with closing(Listener(path)) as listener:
        yield listener


@pytest.fixture
def python(tmp_path: Path) -> Iterator[PythonRunner]:
    runner = PythonRunner(tmp_path, ROOT)
    yield runner
    runner.kill_all()


@pytest.fixture
def start(python: PythonRunner, tmp_path: Path) -> Callable[..., tuple[Child, str]]:
    """Start a worker; returns it and the path of its socket."""
    number = iter(range(100))

    def start(occupation: str = "pass") -> tuple[Child, str]:
        path = str(tmp_path / f"{next(number)}.sock")
        worker = python.start(WORKER, path)
        assert worker.hear() == "ready"
        worker.tell(occupation)
        return worker, path

    return start


def client(listener: Listener, said: bytes = b"") -> socket.socket:
    """Connect as a client that sends any bytes."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(BOUND)
    connection.connect(listener.path)
    connection.sendall(said)
    return connection


def serve_until(listener: Listener, condition: Callable[[], object], **answers: Callable[[], Any]) -> None:
    def served() -> object:
        listener.serve(answers)
        return condition()

    wait_until(served)


@contextmanager
def served(listener: Listener, **answers: Callable[[], Any]) -> Iterator[None]:
    """Serve in a thread, as the agent does."""
    stop = threading.Event()
    thread = threading.Thread(target=serve_until, args=(listener, stop.is_set), kwargs=answers)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(BOUND)


def asked(listener: Listener, question: str = "name", **answers: Callable[[], Any]) -> Any:
    """Ask a listener of this process while it serves."""
    with served(listener, **{"name": lambda: "me", **answers}):
        return ask_all({os.getpid(): listener.path}, question, BOUND)[os.getpid()]


def is_closed(connection: socket.socket) -> bool:
    """Return whether the peer has closed the connection without sending anything."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_all_workers_are_asked_at_once(start: Callable[..., tuple[Child, str]]) -> None:
    paths = {worker.pid: path for worker, path in (start() for _ in range(4))}
    assert ask_all(paths, "pid", BOUND) == {pid: pid for pid in paths}


def test_workers_beyond_the_limit_of_concurrent_questions_are_asked_in_turn(
    start: Callable[..., tuple[Child, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_AT_ONCE", 1)
    paths = {worker.pid: path for worker, path in (start() for _ in range(3))}
    assert ask_all(paths, "pid", BOUND) == {pid: pid for pid in paths}


def test_without_workers_nothing_is_asked() -> None:
    assert ask_all({}, "pid") == {}


def test_a_worker_in_a_long_sleep_answers(start: Callable[..., tuple[Child, str]]) -> None:
    worker, path = start("print('asleep', flush=True); time.sleep(600)")
    assert worker.hear() == "asleep"
    assert ask_all({worker.pid: path}, "pid", BOUND) == {worker.pid: worker.pid}


def test_a_worker_in_blocking_io_answers(start: Callable[..., tuple[Child, str]]) -> None:
    worker, path = start("print('reading', flush=True); os.read(os.pipe()[0], 1)")
    assert worker.hear() == "reading"
    assert ask_all({worker.pid: path}, "pid", BOUND) == {worker.pid: worker.pid}


def test_a_stopped_worker_does_not_delay_the_answers_of_others(
    start: Callable[..., tuple[Child, str]],
) -> None:
    workers = [start() for _ in range(3)]
    stopped = workers[1][0]
    stopped.signal(signal.SIGSTOP)
    wait_until(lambda: process_state(stopped.pid) == "T")
    answers = ask_all({worker.pid: path for worker, path in workers}, "pid")
    assert answers == {worker.pid: None if worker is stopped else worker.pid for worker, _ in workers}
    stopped.signal(signal.SIGCONT)
    assert ask_all({stopped.pid: workers[1][1]}, "pid", BOUND) == {stopped.pid: stopped.pid}


def test_a_worker_that_does_not_let_its_threads_run_does_not_answer(
    start: Callable[..., tuple[Child, str]],
) -> None:
    worker, path = start("sys.setswitchinterval(1000); print('busy', flush=True)\nwhile True: pass")
    assert worker.hear() == "busy"
    other, other_path = start()
    answers = ask_all({worker.pid: path, other.pid: other_path}, "pid", 0.5)
    assert answers[other.pid] == other.pid


def test_a_killed_worker_does_not_answer(start: Callable[..., tuple[Child, str]]) -> None:
    worker, path = start()
    worker.kill()
    assert os.path.exists(path)
    assert ask_all({worker.pid: path}, "pid", 0.1) == {worker.pid: None}


def test_a_missing_socket_gives_no_answer(tmp_path: Path) -> None:
    assert ask_all({os.getpid(): str(tmp_path / "none")}, "pid", 0.1) == {os.getpid(): None}


def test_a_worker_that_begins_to_listen_during_the_question_answers(path: str) -> None:
    answers: dict[int, Any] = {}
    asker = threading.Thread(target=lambda: answers.update(ask_all({os.getpid(): path}, "name", BOUND)))
    asker.start()
    with closing(Listener(path)) as listener:
        serve_until(listener, lambda: answers, name=lambda: "late")
    asker.join(BOUND)
    assert answers == {os.getpid(): "late"}


def test_the_socket_of_another_process_gives_no_answer(start: Callable[..., tuple[Child, str]]) -> None:
    _, path = start()
    assert ask_all({os.getpid(): path}, "pid", 0.1) == {os.getpid(): None}


def test_an_answer_larger_than_the_socket_buffer_arrives_complete(start: Callable[..., tuple[Child, str]]) -> None:
    worker, path = start()
    assert ask_all({worker.pid: path}, "large", BOUND) == {worker.pid: "x" * 5_000_000}


def test_an_answer_beyond_the_limit_is_refused(
    start: Callable[..., tuple[Child, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWER_LIMIT", 2**20)
    worker, path = start()
    assert ask_all({worker.pid: path}, "large", BOUND) == {worker.pid: None}


@pytest.mark.parametrize("said", [b"", b"{", b"\n", b"[]\n", b"{}\n", b"\xff\n", b'{"answer":1}', b"[" * 99999 + b"\n"])
def test_an_invalid_answer_counts_as_no_answer(path: str, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        assert ask_all({os.getpid(): path}, "name", BOUND) == {os.getpid(): None}
        thread.join(BOUND)


def test_an_unknown_question_raises_an_error(listener: Listener) -> None:
    with client(listener, b"nonsense\n") as connection, served(listener):
        assert json.loads(connection.makefile().readline()) == {"error": "unknown question"}
    assert asked(listener, "nonsense") is None


def test_an_answer_that_raises_is_logged_and_the_next_question_is_answered(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    assert asked(listener, "bad", bad=lambda: 1 // 0) is None
    assert asked(listener, "strange", strange=object) is None
    assert "'bad' could not be answered: ZeroDivisionError" in caplog.text
    assert "'strange' could not be answered: TypeError" in caplog.text
    assert asked(listener) == "me"


@pytest.mark.parametrize("said", [b"x" * 64, b"x" * 10000, b"\0" * 65])
def test_an_endless_question_is_cut_off(listener: Listener, said: bytes) -> None:
    with client(listener, said) as connection:
        serve_until(listener, lambda: is_closed(connection))
    assert asked(listener) == "me"


@pytest.mark.parametrize("said", [b"\n", b"\r\n", b"\xff\xfe\n", b"name\0\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_garbage_is_answered_with_an_error(listener: Listener, said: bytes) -> None:
    with client(listener, said) as connection, served(listener, name=lambda: "me"):
        assert "error" in json.loads(connection.makefile().readline())


def test_a_question_may_arrive_in_pieces(listener: Listener) -> None:
    with client(listener, b"na") as connection, served(listener, name=lambda: "me"):
        assert asked_beside(listener) == "me"
        connection.sendall(b"me\n")
        assert connection.makefile().read() == '{"answer":"me"}\n'


def asked_beside(listener: Listener) -> Any:
    return ask_all({os.getpid(): listener.path}, "name", BOUND)[os.getpid()]


def test_a_client_that_does_not_read_does_not_delay_others(listener: Listener) -> None:
    with client(listener, b"large\n") as connection:
        assert asked(listener, large=lambda: "x" * 5_000_000) == "me"
        assert len(connection.recv(10)) == 10


def test_very_many_silent_clients_do_not_delay_others(listener: Listener) -> None:
    silent = []
    before = len(os.listdir("/proc/self/fd"))
    try:
        for _ in range(10):
            silent += [client(listener) for _ in range(20)]
            assert asked(listener) == "me"
        assert len(os.listdir("/proc/self/fd")) - before - len(silent) <= questions._CLIENTS + 1
    finally:
        for connection in silent:
            connection.close()


def test_a_full_queue_of_connections_is_waited_for(listener: Listener) -> None:
    silent = []
    try:
        while True:
            connection = socket.socket(socket.AF_UNIX)
            silent.append(connection)
            connection.setblocking(False)
            try:
                connection.connect(listener.path)
            except BlockingIOError:
                break
        assert asked(listener) == "me"
    finally:
        for connection in silent:
            connection.close()


def test_a_client_that_takes_too_long_is_disconnected(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_CLIENT_SECONDS", 0.0)
    with client(listener, b"na") as connection:
        serve_until(listener, lambda: is_closed(connection))


def test_a_client_that_has_disconnected_is_not_answered(listener: Listener) -> None:
    calls: list[int] = []
    for _ in range(5):
        client(listener, b"name\n").close()
    assert asked(listener, "other", name=lambda: calls.append(1), other=lambda: "me") == "me"
    assert not calls


def test_the_socket_is_private_to_its_user_under_any_umask(path: str) -> None:
    for mask in (0o000, 0o022, 0o777):
        before = os.umask(mask)
        try:
            listener = Listener(path)
        finally:
            os.umask(before)
        with closing(listener):
            assert stat.filemode(os.lstat(path).st_mode) == "srw-------"
            assert asked(listener) == "me"


def test_the_socket_of_a_dead_worker_is_replaced(start: Callable[..., tuple[Child, str]]) -> None:
    worker, path = start()
    worker.kill()
    with closing(Listener(path)) as listener:
        assert asked(listener) == "me"


def test_a_link_in_place_of_the_socket_is_refused(tmp_path: Path, path: str) -> None:
    target = tmp_path / "target"
    os.symlink(target, path)
    with pytest.raises(FileExistsError, match="must be a socket"):
        Listener(path)
    assert not target.exists()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(target))
        with pytest.raises(FileExistsError, match="must be a socket"):
            Listener(path)
    assert target.exists()


def test_a_file_in_place_of_the_socket_is_refused_and_kept(path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(FileExistsError, match=r"-rw-.* must be a socket"):
        Listener(path)
    assert Path(path).read_text() == "mine"


def test_a_listener_that_cannot_be_created_leaves_no_socket(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        Listener(str(tmp_path / "none" / "socket"))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_closing_removes_the_socket(path: str) -> None:
    listener = Listener(path)
    connection = client(listener)
    listener.serve({})
    listener.close()
    listener.close()
    assert is_closed(connection)
    connection.close()
    assert not os.path.lexists(path)


def test_closing_leaves_the_socket_of_a_successor(path: str) -> None:
    first = Listener(path)
    with closing(Listener(path)) as second:
        first.close()
        assert asked(second) == "me"


def test_a_forked_child_does_not_take_the_socket_of_its_parent(python: PythonRunner, path: str) -> None:
    code = """
    import os, select, socket, sys
    from shmstats.attachment.peers import Listener

    none = len(os.listdir("/proc/self/fd"))
    listener = Listener(sys.argv[1])
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(sys.argv[1])
    listener.serve({})
    pid = os.fork()
    if not pid:
        connected.close()
        listener.close()
        os._exit(len(os.listdir("/proc/self/fd")) - none)
    assert os.waitpid(pid, 0)[1] == 0
    connected.send(b"name\\n")
    while not select.select([connected], [], [], 0)[0]:
        listener.serve({"name": lambda: "parent"})
    print(connected.recv(100).decode(), flush=True)
    connected.close()
    listener.close()
    """
    assert json.loads(python.run(code, path)) == {"answer": "parent"}
    assert not os.path.lexists(path)


def test_a_path_fits_a_socket_address() -> None:
    name = f"shmstats_{2**32 - 1:x}_{2**64 - 1:x}_{2**63 - 1:x}"
    assert len(socket_path(name, 4094)) < 108
    assert socket_path(name, 7) == f"/dev/shm/{name}.7.sock"


def test_only_sockets_of_dead_workers_are_removed() -> None:
    name = f"shmstats_test_{secrets.token_hex(8)}"
    kept = [
        f"{name}.1.sock",
        f"{name}x.2.sock",
        f"{name}.2.sock.x",
        f"{name}.2.socks",
        f"{name}.1.04d2",
        f"{name}.x.sock",
        f"{name}.3.sock",
        f"{name}.lock",
    ]
    gone = [f"{name}.0.sock", f"{name}.2.sock", f"{name}.17.sock", f"{name}.2.04d2"]
    try:
        for each in (*kept, *gone):
            if each == f"{name}.3.sock":
                Path(SHARED_MEMORY, each).write_text("no socket")
            else:
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(f"{SHARED_MEMORY}/{each}")
        remove_stale(name, {1})
        assert {each for each in os.listdir(SHARED_MEMORY) if each.startswith(name)} == set(kept)
    finally:
        for each in (*kept, *gone):
            Path(SHARED_MEMORY, each).unlink(missing_ok=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_answered(python: PythonRunner) -> None:
    code = """
    import os, socket, sys

    connection = socket.socket(socket.AF_UNIX)
    os.setresuid(65534, 65534, 65534)
    connection.connect(sys.argv[1])
    try:
        connection.sendall(b"name\\n")
        print("heard", connection.recv(100))
    except (ConnectionResetError, BrokenPipeError):
        print("heard", b"")
    connection.close()
    """
    with closing(Listener(f"{SHARED_MEMORY}/shmstats_test_{secrets.token_hex(8)}")) as listener:
        os.chmod(listener.path, 0o666)  # so that only the credentials are checked
        with served(listener, name=lambda: "me"):
            assert python.run(code, listener.path) == "heard b''\n"
