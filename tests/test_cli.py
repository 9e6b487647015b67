"""The commands, as separate processes, on blocks that other processes count into."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.request import urlopen

import pytest
from click.testing import CliRunner
from helpers import BOUND, Child, PythonRunner, process_state, segment_file, wait_until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shmstats import cli
from shmstats.export import FORMATS

pytestmark = pytest.mark.far_from_core

ROOT = Path(__file__).parents[1]

ENTRIES = {
    "shmstats": "from shmstats.cli import main; main()",
    "shmstats-dump": "from shmstats.cli import dump_main; dump_main()",
}

COUNTING = """
    import shmstats
    from shmstats import stats

    stats.incr("requests", "total", 7)
    stats.incr("requests", "failed", 2)
    stats.incr("users", "anmeldung größe", 3)
    stats.gauge("pool", "open", 1.5)
    print("counted", flush=True)
    while command := input():
        print(eval(command), flush=True)
    shmstats.close()
"""

VALUES = {
    "requests": {"total": 7, "failed": 2},
    "users": {"anmeldung größe": 3},
    "pool": {"open": 1.5},
}

USER = ("--category", "[!s]*")  # not `system`, not `shmstats`


class Result(NamedTuple):
    """The exit code and the output of a command."""

    status: int
    out: str
    err: str


def command_line(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-c", ENTRIES[name], *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def command(tmp_path: Path, configure: object) -> Callable[..., Result]:
    """Run a command to its end: ``command("shmstats-dump", "--format", "csv")``."""

    def run(name: str, *arguments: object, **more: Any) -> Result:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        streams["env"] = environment() | streams.get("env", {})
        done = subprocess.run(command_line(name, *arguments), cwd=tmp_path, timeout=BOUND, **streams)
        return Result(done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode())

    return run


@pytest.fixture
def background(tmp_path: Path, configure: object) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command; it is killed at the end of the test if it still runs."""
    started = []

    def start(name: str, *arguments: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command_line(name, *arguments),
            cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=BOUND)


@pytest.fixture
def worker(python: PythonRunner) -> Child:
    """A process that counted `VALUES` and is still there."""
    child = python.start(COUNTING)
    assert child.hear() == "counted"
    return child


def leave(child: Child) -> None:
    child.tell()
    child.finish()


def dumped(result: Result) -> dict[str, Any]:
    assert (result.status, result.err) == (0, "")
    document: dict[str, Any] = json.loads(result.out)
    return document


def assert_one_line(result: Result, prefix: str) -> str:
    """Check that a command failed with one line, and return that line."""
    assert result.status == 1
    assert re.fullmatch(rf"{prefix}: [^\n]+\n", result.err), result.err
    return result.err


# Shown values ------------------------------------------------------------------------------------


def test_a_dump_of_a_live_block_has_every_value_and_the_system_figures(
    worker: Child, command: Callable[..., Result]
) -> None:
    document = dumped(command("shmstats-dump"))
    system = document.pop("system")
    assert {category: document[category] for category in VALUES} == VALUES
    assert system["workers"] == 1
    assert system["memory_usage"] > 0
    leave(worker)


def test_every_format_has_the_same_values(worker: Child, command: Callable[..., Result]) -> None:
    expected = sorted(value for metrics in VALUES.values() for value in metrics.values())

    def out(form: str) -> str:
        result = command("shmstats-dump", "--format", form, *USER)
        assert (result.status, result.err) == (0, "")
        return result.out

    for form, parse in (("prometheus", parse_text), ("openmetrics", parse_openmetrics)):
        samples = [sample for family in parse(out(form)) for sample in family.samples]
        assert sorted(each.value for each in samples if not each.name.endswith("_created")) == expected
    rows = list(csv.DictReader(io.StringIO(out("csv"))))
    assert sorted(float(row["value"]) for row in rows) == expected
    assert [line.split()[-1] for line in out("table").splitlines()] == ["VALUE", "1.5", "2", "7", "3"]
    leave(worker)


def test_a_dump_neither_writes_to_the_block_nor_attaches(
    worker: Child, data: Path, command: Callable[..., Result]
) -> None:
    block = segment_file(data)
    worker.signal(signal.SIGSTOP)  # its saver writes to the block as well
    wait_until(lambda: process_state(worker.pid) == "T")
    before, files = block.read_bytes(), set(data.rglob("*"))
    allocated = block.stat().st_blocks
    dumped(command("shmstats-dump", "--workers"))
    assert block.read_bytes() == before
    assert block.stat().st_blocks >= allocated
    assert set(data.rglob("*")) == files
    worker.signal(signal.SIGCONT)
    leave(worker)


def test_a_block_whose_processes_were_killed_is_dumped(worker: Child, command: Callable[..., Result]) -> None:
    worker.kill()
    assert dumped(command("shmstats-dump", *USER)) == VALUES
    assert command("shmstats", "reset", "requests").out == "reset 2 statistics\n"
    result = command("shmstats-dump", *USER)
    assert json.loads(result.out)["requests"] == {"total": 0, "failed": 0}
    assert "simple.json" in result.err


def test_without_a_block_the_saved_snapshot_is_dumped_and_stderr_says_so(
    worker: Child, data: Path, command: Callable[..., Result]
) -> None:
    leave(worker)
    result = command("shmstats-dump", *USER)
    assert result.status == 0
    assert json.loads(result.out) == VALUES
    assert re.fullmatch(
        rf"shmstats-dump: no live block for {data}: this is {data}/stats/simple.json, saved .*\n", result.err
    )


def test_a_damaged_snapshot_is_skipped_and_not_moved(worker: Child, data: Path, command: Callable[..., Result]) -> None:
    leave(worker)
    newest, previous = data / "stats/simple.json", data / "stats/simple.json.1"
    previous.write_bytes(newest.read_bytes())
    newest.write_bytes(newest.read_bytes()[:-9])
    result = command("shmstats-dump", *USER)
    assert json.loads(result.out) == VALUES
    assert f"this is {previous}" in result.err
    assert f"{newest} is damaged" in result.err
    assert sorted(data.joinpath("stats").iterdir()) == [newest, previous]
    previous.unlink()
    assert f"{newest} is damaged" in assert_one_line(command("shmstats-dump"), "shmstats-dump")


def test_without_block_and_snapshot_one_line_names_the_data_directory(
    data: Path, command: Callable[..., Result]
) -> None:
    result = command("shmstats-dump")
    assert str(data) in assert_one_line(result, "shmstats-dump")
    assert result.out == ""
    assert assert_one_line(command("shmstats", "dump"), "shmstats dump")


def test_categories_are_selected_by_case_sensitive_globs(worker: Child, command: Callable[..., Result]) -> None:
    assert list(dumped(command("shmstats-dump", "--category", "re*"))) == ["requests"]
    assert set(dumped(command("shmstats-dump", "--category", "users", "--category", "po?l"))) == {
        "users",
        "pool",
    }
    assert list(dumped(command("shmstats-dump", "--category", "system"))) == ["system"]
    none = command("shmstats-dump", "--category", "R*")
    assert (none.status, json.loads(none.out)) == (0, {})
    assert none.err == "shmstats-dump: no category matches 'R*'\n"
    leave(worker)


def test_workers_break_the_values_down_by_row(
    worker: Child, python: PythonRunner, command: Callable[..., Result]
) -> None:
    second = python.start(COUNTING)
    assert second.hear() == "counted"
    total = dumped(command("shmstats-dump", "--workers"))["requests"]["total"]
    assert total == {"total": 14, "workers": {"1": 7, "2": 7}}
    rows = csv.DictReader(io.StringIO(command("shmstats-dump", "--workers", "--format", "csv").out))
    assert {"1", "2", "total"} <= {row["worker"] for row in rows}
    leave(second)
    leave(worker)


# Destinations of the output ----------------------------------------------------------------------


def test_output_replaces_a_file_whole_and_keeps_its_mode(
    worker: Child, tmp_path: Path, command: Callable[..., Result]
) -> None:
    new, old, link = tmp_path / "new.json", tmp_path / "old.json", tmp_path / "link.json"
    old.write_text("the old content")
    old.chmod(0o640)
    link.symlink_to(old)
    reader = old.open()
    for file in (new, link):
        assert command("shmstats-dump", *USER, "--output", file) == Result(0, "", "")
        assert json.loads(file.read_text()) == VALUES
    with reader:
        assert reader.read() == "the old content"
    assert link.is_symlink()
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    usual = tmp_path / "usual"
    usual.touch()
    assert new.stat().st_mode == usual.stat().st_mode
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    leave(worker)


OBEYED = """
    import shmstats
    from shmstats import stats

    for obeyed in ("\\x1b[31m", "\\x9b2J", "\\x07", "\\u202e", "\\u2066", "a\\rb"):
        stats.incr(obeyed, obeyed, labels={"path": obeyed})
    print("counted", flush=True)
    input()
    shmstats.close()
"""


def test_control_characters_do_not_reach_a_terminal(python: PythonRunner, tmp_path: Path) -> None:
    child = python.start(OBEYED)
    assert child.hear() == "counted"
    for form in FORMATS:
        master, slave = pty.openpty()
        with os.fdopen(master, "rb", buffering=0) as terminal:
            process = subprocess.Popen(
                command_line("shmstats-dump", "--format", form, "--category", "[!s]*"),
                cwd=tmp_path, env=environment(), stdout=slave, stderr=slave,
            )  # fmt: skip
            os.close(slave)
            shown = b""
            with suppress(OSError):  # which is how the end of a terminal looks
                while piece := terminal.read(65536):
                    shown += piece
            assert process.wait(BOUND) == (2 if FORMATS[form].binary else 0)
        lines = shown.decode().split("\r\n")
        assert len(lines) > 3
        assert all(line.isprintable() for line in lines), (form, lines)
    child.tell()
    child.finish()


def test_output_to_a_pipe_or_device_writes_to_it(worker: Child, tmp_path: Path, command: Callable[..., Result]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert command("shmstats-dump", *USER, "--output", pipe) == Result(0, "", "")
        assert json.loads(reader.read()) == VALUES
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    leave(worker)


def test_output_that_cannot_be_written_is_an_error_of_one_line(
    worker: Child, tmp_path: Path, command: Callable[..., Result]
) -> None:
    missing = tmp_path / "missing" / "out.json"
    result = command("shmstats-dump", "--output", missing)
    assert f"--output {missing}: No such file" in assert_one_line(result, "shmstats-dump")
    assert f"--output {tmp_path}: Is a directory" in assert_one_line(
        command("shmstats-dump", "--output", tmp_path), "shmstats-dump"
    )
    assert "--output /dev/full: No space left on device" in assert_one_line(
        command("shmstats-dump", "--output", "/dev/full"), "shmstats-dump"
    )
    with open("/dev/full", "wb") as full:
        result = command("shmstats-dump", stdout=full)
    assert "No space left" in assert_one_line(result, "shmstats-dump")
    leave(worker)


def test_a_closed_pipe_is_an_error_of_one_line(worker: Child, command: Callable[..., Result]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = command("shmstats-dump", stdout=writer)
    finally:
        os.close(writer)
    assert "Broken pipe" in assert_one_line(result, "shmstats-dump")
    leave(worker)


def test_watch_repeats_the_dump_and_follows_a_replaced_block(
    worker: Child,
    python: PythonRunner,
    tmp_path: Path,
    data: Path,
    background: Callable[..., subprocess.Popen[bytes]],
) -> None:
    output = tmp_path / "watched.json"
    watching = background("shmstats-dump", *USER, "--watch", "0.05", "--output", output)

    def shown() -> int:
        return int(json.loads(output.read_text())["requests"]["total"]) if output.exists() else 0

    wait_until(lambda: shown() == 7)
    worker.tell("stats.incr('requests', 'total')")
    wait_until(lambda: shown() == 8)
    leave(worker)
    assert not segment_file(data).exists()
    second = python.start(COUNTING)
    wait_until(lambda: shown() == 15)
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=BOUND)
    assert (watching.returncode, out) == (0, b"")
    assert b"Traceback" not in err
    assert second.hear() == "counted"
    leave(second)


def test_a_snapshot_given_by_name_is_read_under_any_configuration(
    worker: Child, data: Path, tmp_path: Path, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(worker)
    file = data / "stats/simple.json"
    broken = tmp_path / "broken.yml"
    broken.write_text("stats: 3")
    monkeypatch.setenv("SHMSTATS_CONFIG", str(broken))
    assert dumped(command("shmstats-dump", "--from", file, *USER)) == VALUES
    assert str(broken) in assert_one_line(command("shmstats-dump", "--from", file, "--config", broken), "shmstats-dump")
    for wrong in (broken, tmp_path / "missing", tmp_path):
        assert str(wrong) in assert_one_line(command("shmstats-dump", "--from", wrong), "shmstats-dump")
    assert f"{broken} is not a snapshot of shmstats" in command("shmstats-dump", "--from", broken).err


# Mistakes ----------------------------------------------------------------------------------------


WRONG_USAGE = [
    ["--format", "xml"],
    ["--watch", "0"],
    ["--watch", "-1"],
    ["--watch", "nan"],
    ["--watch", "often"],
    ["--data", ""],
    ["--output", ""],
    ["--category", "x", "--category", ""],
    ["--from", ""],
    ["--from", "file", "--watch", "1"],
    ["--from", "file", "--data", "data"],
    ["--from", "file", "--workers"],
    ["--since", "1h"],
    ["--step", "10s"],
    ["--history", "--label", "plan"],
    ["--history", "--raw"],
    ["--history", "--watch", "1"],
    ["--workers", "--format", "prometheus"],
    ["--no-such-option"],
    ["an-argument"],
]

RUN_ALL = """
    import json, sys
    from click.testing import CliRunner
    from shmstats import cli
    for arguments in json.loads(sys.argv[1]):
        result = CliRunner().invoke(cli.command("dump"), arguments, prog_name="shmstats-dump")
        print(json.dumps([arguments, result.exit_code, result.stdout, result.stderr]))
"""


def test_wrong_usage_is_exit_code_2(python: PythonRunner) -> None:
    results = [json.loads(line) for line in python.run(RUN_ALL, json.dumps(WRONG_USAGE)).splitlines()]
    assert len(results) == len(WRONG_USAGE)
    for arguments, status, out, err in results:
        assert (status, out) == (2, ""), arguments
        assert err.startswith("Usage: shmstats-dump "), arguments


def test_a_mistake_in_the_configuration_is_an_error_of_one_line(tmp_path: Path, command: Callable[..., Result]) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("stats: {capacity: many}")
    for name, *arguments in (
        ["shmstats-dump"],
        ["shmstats", "info"],
        ["shmstats", "reset", "requests"],
        ["shmstats", "clean"],
        ["shmstats", "serve"],
    ):
        result = command(name, *arguments, "--config", wrong)
        assert "stats.capacity: found 'many'" in assert_one_line(result, " ".join([name, *arguments[:1]]))


def test_a_block_that_others_may_read_is_refused_in_one_line(
    worker: Child, data: Path, command: Callable[..., Result]
) -> None:
    block = segment_file(data)
    block.chmod(0o644)
    for name, *arguments in (["shmstats-dump"], ["shmstats", "reset", "requests"], ["shmstats", "serve"]):
        assert "has mode -rw-r--r--" in assert_one_line(command(name, *arguments), f"{name}.*")
    result = command("shmstats", "info")
    assert result.status == 1
    assert re.search(r"^block +not usable: .* has mode -rw-r--r--", result.out, re.MULTILINE)
    assert result.out.endswith("wrong           the block is not usable\n")
    block.chmod(0o600)
    leave(worker)


# The other commands ------------------------------------------------------------------------------


def test_info_shows_the_installation_and_the_processes_that_count(
    worker: Child, core: str, data: Path, tmp_path: Path, command: Callable[..., Result]
) -> None:
    file = tmp_path / "with-token.yml"
    file.write_text(f"path: {{data: {data}}}\napi: {{token: very-secret}}")
    result = command("shmstats", "info", "--config", file)
    assert (result.status, result.err) == (0, "")
    facts = dict(re.findall(r"^(\S[a-z ]*?) {2,}(.*)$", result.out, re.MULTILINE))
    assert facts["core"] == core
    assert facts["configuration"] == str(file)
    assert facts["data directory"] == str(data)
    assert facts["block"] == segment_file(data).name
    assert facts["protocol"] == {"C": "compare-and-swap", "Python": "record locks"}[core]
    assert facts["names"] == "6 of 1024 in use"
    assert facts["workers"] == "1 live"
    assert f"pid {worker.pid}, row 1\n" in result.out
    assert "very-secret" not in result.out
    leave(worker)
    assert re.search(r"^block +none$", command("shmstats", "info").out, re.MULTILINE)


def test_the_exit_code_of_info_shows_whether_something_is_wrong(
    python: PythonRunner, data: Path, command: Callable[..., Result], configure: Callable[..., object]
) -> None:
    configure(snapshot_interval_ms=100)
    data.mkdir()
    (data / "stats").touch()  # nothing can be saved
    child = python.start(COUNTING)
    assert child.hear() == "counted"
    wait_until(lambda: "saving fails" in command("shmstats", "info").out)
    result = command("shmstats", "info")
    assert result.status == 1
    assert re.search(r"^wrong +saving fails: .*stats", result.out, re.MULTILINE)
    child.kill()
    (data / "stats").unlink()
    assert command("shmstats", "reset", "requests").status == 0  # the last one leaves in an orderly way


def test_info_reports_an_unreadable_block_once(worker: Child, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both of the core of this run.
    block, reading = import_module("shmstats.block"), import_module("shmstats.reading.reader")

    def usage(reader: object, live: object = None) -> NoReturn:
        raise block.BlockError("a half is missing")

    monkeypatch.setattr(reading.BlockReader, "usage", usage)
    result = CliRunner().invoke(import_module("shmstats.cli").commands, ["info", "--data", str(data)])
    assert re.findall(r"^block +(.*)$", result.stdout, re.MULTILINE) == ["not usable: a half is missing"]
    assert "protocol" not in result.stdout
    leave(worker)


def test_reset_and_remove_reach_the_processes_that_count(worker: Child, command: Callable[..., Result]) -> None:
    assert command("shmstats", "reset", "requests", "failed") == Result(0, "reset 1 statistic\n", "")
    assert command("shmstats", "remove", "users") == Result(0, "removed 1 statistic\n", "")
    worker.tell("stats.incr('requests', 'failed') or stats.incr('users', 'anmeldung größe')")
    assert worker.hear() == "None"
    expected = {"requests": {"total": 7, "failed": 1}, "users": {"anmeldung größe": 1}, "pool": {"open": 1.5}}
    assert dumped(command("shmstats-dump", *USER)) == expected
    leave(worker)


def test_resetting_or_removing_an_unknown_name_is_an_error(worker: Child, command: Callable[..., Result]) -> None:
    for action in ("reset", "remove"):
        said = assert_one_line(command("shmstats", action, "nothing"), f"shmstats {action}")
        assert "there is no category 'nothing'" in said
        said = assert_one_line(command("shmstats", action, "pool", "shut"), f"shmstats {action}")
        assert "there is no metric 'shut' of category 'pool'" in said
        assert command("shmstats", action, "system").status == 2
        assert command("shmstats", action).status == 2
    assert dumped(command("shmstats-dump", *USER)) == VALUES
    leave(worker)


def test_reset_creates_no_block(worker: Child, data: Path, command: Callable[..., Result]) -> None:
    leave(worker)
    said = assert_one_line(command("shmstats", "reset", "requests"), "shmstats reset")
    assert f"only the saved snapshot {data}/stats/simple.json" in said
    assert "no live block" in assert_one_line(
        command("shmstats", "remove", "requests", "--data", data / "elsewhere"), "shmstats remove"
    )
    assert not segment_file(data).exists()


def test_without_a_block_remove_changes_the_saved_snapshot(
    worker: Child, data: Path, command: Callable[..., Result]
) -> None:
    leave(worker)
    result = command("shmstats", "remove", "requests")
    assert result == Result(0, "removed 2 statistics from the saved snapshot: there is no live block\n", "")
    assert "requests" not in json.loads(command("shmstats-dump", *USER).out)
    assert_one_line(command("shmstats", "remove", "requests"), "shmstats remove")
    assert not segment_file(data).exists()


def test_reset_with_the_other_core_is_refused(worker: Child, core: str, command: Callable[..., Result]) -> None:
    other = {"C": "1", "Python": "0"}[core]
    result = command("shmstats", "reset", "requests", env={"SHMSTATS_PURE": other})
    if core == "Python" and result.status == 0:
        pytest.skip("there is no other core: the C extension is not built")
    assert "run all processes with the same core" in assert_one_line(result, "shmstats reset")
    leave(worker)


def test_clean_removes_files_of_aborted_saves_and_damaged_files(
    worker: Child, data: Path, command: Callable[..., Result]
) -> None:
    leave(worker)
    directory = data / "stats"
    stale = [
        ".simple.json.1-0",
        ".simple.json.1-12.1",
        "simple.json.1.damaged-20260101T000000",
        "simple.json.damaged-20260101T000000",
    ]
    kept = [".simple.json.1-3", ".simple.json.1-3.1", "notes.txt", "simple.json.1"]
    for name in (*stale, *kept):
        directory.joinpath(name).touch()
    with open(directory / kept[0]) as written_now:
        fcntl.flock(written_now, fcntl.LOCK_EX)
        result = command("shmstats", "clean")
    assert result == Result(0, "".join(f"removed {directory / name}\n" for name in stale), "")
    assert {file.name for file in directory.iterdir()} == {*kept, "simple.json"}
    assert command("shmstats", "clean").out == "".join(f"removed {directory / name}\n" for name in kept[:2])
    assert command("shmstats", "clean") == Result(0, "nothing to remove\n", "")
    (data / "empty").mkdir()
    assert command("shmstats", "clean", "--data", data / "empty").out == "nothing to remove\n"
    assert command("shmstats", "clean", "--data", data / "missing") == Result(
        1, "", f"shmstats clean: there is no data directory {data / 'missing'}\n"
    )


def test_serve_becomes_the_master_of_workers_that_answer(
    worker: Child, background: Callable[..., subprocess.Popen[bytes]]
) -> None:
    server = background("shmstats", "serve", "--bind", "127.0.0.1:0", "--workers", "2")
    assert server.stderr is not None
    log = b""
    while not (listening := re.search(rb"Listening at: (http://127\.0\.0\.1:\d+) \((\d+)\)", log)):
        line = server.stderr.readline()
        assert line, log
        log += line
    assert int(listening[2]) == server.pid
    with urlopen(f"{listening[1].decode()}/stats", timeout=BOUND) as answer:
        document = json.load(answer)
    assert document["simple"]["requests"] == VALUES["requests"]
    taken = background("shmstats", "serve", "--bind", listening[1].decode().removeprefix("http://"))
    assert taken.wait(BOUND) == 1
    server.terminate()
    _, rest = server.communicate(timeout=BOUND)
    assert server.returncode == 0
    assert b"Traceback" not in rest
    leave(worker)


@pytest.mark.parametrize(
    "arguments", [["--bind", "nowhere"], ["--bind", "host:99999"], ["--workers", "0"], ["--workers", "x"]]
)
def test_serve_checks_its_options_by_the_rules_of_the_configuration(
    arguments: list[str], command: Callable[..., Result]
) -> None:
    result = command("shmstats", "serve", *arguments)
    assert result.status == 2
    assert f"found '{arguments[1]}'" in result.err or f"found {arguments[1]}" in result.err
    assert "allowed: " in result.err


def test_serve_refuses_a_data_directory_that_is_a_file(tmp_path: Path, command: Callable[..., Result]) -> None:
    (file := tmp_path / "file").touch()
    (other := tmp_path / "other").mkdir()
    (other / "stats").touch()
    assert command("shmstats", "serve", "--data", file) == Result(
        1, "", f"shmstats serve: the data directory {file} is not a directory\n"
    )
    for data, way in ((file / "below", file), (other, other / "stats")):
        assert command("shmstats", "serve", "--data", data) == Result(
            1, "", f"shmstats serve: the data directory {data} cannot be made: {way} is not a directory\n"
        )


def test_serve_does_not_create_a_missing_data_directory(tmp_path: Path, command: Callable[..., Result]) -> None:
    said = assert_one_line(command("shmstats", "serve", "--data", tmp_path / "typo"), "shmstats serve")
    assert f"there is no data directory {tmp_path / 'typo'}" in said
    assert not (tmp_path / "typo").exists()


def test_an_unexpected_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: str | None, data: str | None) -> NoReturn:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("shmstats.terminal.change.settings_of", broken)
    result = CliRunner().invoke(cli.commands, ["clean"], prog_name="shmstats")
    assert result.exit_code == 1
    assert re.fullmatch(r"shmstats clean: ZeroDivisionError: by zero \(.*please report it\)\n", result.output)


def test_every_command_has_a_help_text(command: Callable[..., Result]) -> None:
    assert re.fullmatch(r"shmstats, version \d+\.\d+\.\d+\S*\n", command("shmstats", "--version").out)
    for action in ("serve", "dump", "info", "reset", "remove", "clean"):
        result = command("shmstats", action, "--help")
        assert (result.status, result.err) == (0, "")
        assert result.out.startswith(f"Usage: shmstats {action} ")
