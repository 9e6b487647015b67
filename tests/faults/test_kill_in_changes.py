"""SIGKILL while a block is created, attached, adopted, left and unlinked, and while names and snapshots change.

A worker is killed before a random line of the operation; the storm does it before every line. The next process must
find a valid structure, no name twice and all counts, and be able to continue. See also ``tests/block/test_names.py``
(the table of names) and ``tests/attachment/test_saver.py`` (kills while saving).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import pytest
from tortures.nursery import Nursery
from tortures.storm import Storm, Tally

STATS = {"capacity": 512, "max_workers": 2, "snapshot_interval_ms": 86_400_000}
SAMPLES = {"C": 7, "Python": 3}


class Operation(NamedTuple):
    """An operation during which a worker is killed.

    Attributes:
        code: of it.
        before: code that the worker runs before.
        left: code of another process, which is then killed; empty: there is none.
        joined: whether another process has the block attached all the time.
        more: further configuration.
        kept: names that must exist after a kill at any line.
    """

    code: str
    before: str = "stats.incr('c', 'kept')"
    left: str = ""
    joined: bool = False
    more: Mapping[str, Any] = MappingProxyType({})
    kept: Mapping[str, int] = MappingProxyType({})


_NAMES = """
stats.incr('c', 'kept')
for name in ('one', 'two', 'three'):
    stats.incr('goes', name, 5)
stats.gauge('goes', 'gauge', 5)
stats.timing('goes', 'timing', 5)
"""

_COUNTED = (
    _NAMES
    + """
stats.declare('goes', 'labelled', kind='counter')
stats.absolute('goes', 'labelled', 5, labels={'a': 'x'})
"""
)

OPERATIONS = {
    "create and restore": Operation("stats.shared.attach()", before=""),
    "attach": Operation("stats.shared.attach()", before="", joined=True),
    "adopt": Operation("stats.shared.attach()", before="", left="pass"),
    "register a counter": Operation("stats.incr('c', 'new', 5)"),
    "register a gauge": Operation("stats.gauge('c', 'new', 5)", joined=True),
    "register a histogram": Operation("stats.timing('c', 'new', 5)"),
    "register a label set": Operation("stats.incr('c', 'new', 5, labels={'a': 'x'})"),
    "register a label set beside others": Operation(
        "stats.incr('goes', 'labelled', 5, labels={'a': 'y'})",
        before=_NAMES + "stats.incr('goes', 'labelled', 5, labels={'a': 'x'})",
        joined=True,
    ),
    "register a label set beyond the limit": Operation(
        "stats.incr('goes', 'labelled', 5, labels={'a': 'y'})",
        before=_NAMES + "stats.incr('goes', 'labelled', 5, labels={'a': 'x'})",
        more={"max_series_per_metric": 1},
    ),
    "declare": Operation("stats.declare('c', 'new', kind='gauge', mode='sum', help='New.')"),
    "declare a metric differently than before": Operation(
        "stats.declare('goes', 'one', kind='counter', help='A longer text than the one before. ' * 9)",
        before="stats.shared.attach()",
        left="stats.declare('goes', 'one', kind='counter', help='One.')",
    ),
    "declare otherwise than others that count": Operation(
        "stats.declare('goes', 'labelled', kind='gauge', mode='livesum', labelnames=('a', 'b'))",
        before=_COUNTED,
        joined=True,
    ),
    "repeat an earlier declaration": Operation(
        "stats.declare('goes', 'labelled', kind='counter')",
        before=_COUNTED + "stats.declare('goes', 'labelled', kind='gauge', mode='livesum')",
        joined=True,
    ),
    "declare other buckets than before": Operation(
        "stats.declare('goes', 'labelled', kind='histogram', buckets=(1, 2, 50))",
        before="stats.shared.attach()",
        left="stats.declare('goes', 'labelled', kind='histogram', buckets=(1, 10))\n"
        "[stats.timing('goes', 'labelled', 5, labels={'a': 'x'}) for _ in range(5)]",
        kept={'goes labelled{a="x"}': 5},
    ),
    "declare buckets of an undeclared metric": Operation(
        "stats.declare('goes', 'timing', kind='histogram', buckets=(1, 2, 50))",
        before="stats.shared.attach()",
        left="[stats.timing('goes', 'timing', 5) for _ in range(5)]",
        kept={"goes timing": 5},
    ),
    "set a gauge of each worker": Operation(
        "stats.gauge('goes', 'mine', 5)",
        before=_NAMES + "stats.declare('goes', 'mine', kind='gauge', mode='livesum')",
        joined=True,
    ),
    "register a gauge of each worker": Operation(
        "stats.gauge('goes', 'mine', 5, labels={'a': 'y'})",
        before=_NAMES
        + "stats.declare('goes', 'mine', kind='gauge', mode='livesum', labelnames=('a',))\n"
        + "stats.gauge('goes', 'mine', 5, labels={'a': 'x'})",
        joined=True,
    ),
    "remove": Operation("stats.remove('goes')", before=_NAMES),
    "reset": Operation("stats.reset('goes')", before=_NAMES, joined=True),
    "take over a removed name": Operation(
        "stats.incr('c', 'new', 5)", before=_NAMES + "stats.remove('goes')", joined=True
    ),
    "decrement": Operation("stats.decr('goes', 'one', 5)", before=_NAMES),
    "make a gauge of a counter": Operation("stats.gauge('goes', 'one', 0.5)", before=_NAMES),
    "save and unlink": Operation("shmstats.close()", before=_NAMES),
    "leave others alone": Operation("shmstats.close()", joined=True),
    "save": Operation("stats.shared._saver.save_or_tell()", before=_NAMES),
    "flush": Operation(
        "stats.flush()",
        before=_NAMES + "stats.flush()\nfor _ in range(5): stats.incr('c', 'held'); stats.incr('goes', 'two', 10)",
        more={"no_buffer": False, "flush_interval_ms": 3_600_000},
    ),
}

VICTIM = """
import os, signal
exec(before)
files = tuple(f"shmstats/{name}.py" for name in (
    "block/block", "block/names", "block/records", "block/registering", "block/repairing", "block/stripes",
    "block/declaring", "block/outdated", "block/rebucketing", "core/_names_py",
    "block/restoring", "block/header", "block/attaching",
    "block/workers", "block/segment", "block/lock", "attachment/buffer", "core/_cells_py", "attachment/slow_path",
    "attachment/attachment", "attachment/changes", "attachment/saver", "attachment/agent", "snapshot/store",
    "registry"))
lines = works.do_at_line(number, files, lambda: os.kill(os.getpid(), signal.SIGKILL), often=2)
exec(operation)
works.do_at_line(-1, (), None)
with open(report, "w") as file:
    file.write(str(lines()))
"""

#: The operations that C does completely or for the most part.
AT_ONCE = (
    *("register a counter", "register a histogram", "register a label set", "register a label set beside others"),
    *("register a gauge of each worker", "take over a removed name", "remove"),
)

STEPPED = """
exec(before)
works.stop_at_step(number)
exec(operation)
works.stop_at_step(-1)
"""

LEFT = """
import os, signal
stats.incr('c', 'kept')
exec(left)
os.kill(os.getpid(), signal.SIGKILL)
"""

NEXT = """
import json
from pathlib import Path
from tortures import judge
stats.incr('c', 'next')
judge.check_structure(Path(data))
found = {f"{category} {metric}": sum(value.buckets) if hasattr(value, "buckets") else value
         for category, metrics in stats.snapshot().items() for metric, value in metrics.items()
         if category != "shmstats"}
assert stats.get('shmstats', 'operations_dropped') == 0
for _ in range(3):
    stats.incr('fresh', 'one')
    stats.gauge('fresh', 'gauge', 2.5)
    stats.timing('fresh', 'timing', 5)
assert stats.get('fresh', 'one') == sum(stats.get('fresh', 'timing').buckets) == 3
stats.remove('fresh')
stats.remove('goes')
stats.remove('c', 'new')
judge.check_structure(Path(data))
shmstats.close()
with open(report, "w") as file:
    json.dump(found, file)
"""


class Trials:
    """One operation, again and again, in one data directory.

    Args:
        nursery: of the workers.
        directory: for all files.
        operation: the operation.
    """

    def __init__(self, nursery: Nursery, directory: Path, operation: Operation) -> None:
        self._nursery, self._operation = nursery, operation
        self._data, self._report = directory / "data", directory / "report"
        self._stats = STATS | dict(operation.more)
        self.kept = self.nexts = 0

    def run(self, code: str, **names: Any) -> int:
        return self._nursery.run(code, self._data, self._stats, report=str(self._report), **names).wait()

    def victim(self, number: int) -> int:
        """Do the operation in a process that is killed before a line; return the number of lines, or -1."""
        if self._operation.left:
            assert self.run(LEFT, left=self._operation.left) == -9
        status = self.run(VICTIM, number=number, before=self._operation.before, operation=self._operation.code)
        assert status in (0, -9), self._nursery.crashes
        if self._operation.left or self._operation.before:
            self.kept += 1
        return int(self._report.read_text()) if status == 0 else -1

    def victim_at_step(self, steps: Nursery, number: int) -> bool:
        """Do the operation in a process that is killed after so many steps in C; return whether it got that far."""
        operation = {"before": self._operation.before, "operation": self._operation.code}
        victim = steps.run(STEPPED, self._data, self._stats, number=number, **operation)
        stopped = victim.wait_for_state("TZ") == "T"
        if stopped:
            victim.kill()
        else:
            assert victim.wait() == 0, steps.crashes
        self.kept += 1
        return stopped

    def next(self) -> dict[str, int]:
        """Start another process; return the values that it found."""
        assert self.run(NEXT, data=str(self._data)) == 0, self._nursery.crashes
        found: dict[str, int] = json.loads(self._report.read_text())
        self.nexts += 1
        assert found.pop("c kept", 0) == self.kept
        assert found.pop("c next") == self.nexts
        assert found.items() >= self._operation.kept.items()
        return found


@pytest.fixture
def trials(nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trials]:
    operation = OPERATIONS[request.param]
    keeper = None
    if operation.joined:
        code = "import time; stats.incr('k', 'm'); open(report, 'w').close(); time.sleep(1000)"
        keeper = nursery.run(code, tmp_path / "data", STATS, report=str(tmp_path / "there"))
        from helpers import wait_until

        wait_until((tmp_path / "there").exists)
    nursery.crashes.clear()
    yield Trials(nursery, tmp_path, operation)
    nursery.crashes.clear()
    if keeper is not None:
        keeper.kill()
        nursery.run("stats.incr('c', 'm'); shmstats.close()", tmp_path / "data", STATS).wait()


def check(trials: Trials, core: str, samples: int | None) -> None:
    lines = trials.victim(10**9)
    trials.next()
    assert lines > 10 or core == "C"  # most of it is done in C there
    numbers = range(lines)
    for number in numbers if samples is None else random.Random(lines).sample(numbers, min(samples, lines)):
        trials.victim(number)
        found = trials.next()
        assert found.pop("c held", 0) % 5 == 0
        assert all(value in (0, 0.5, 1, 5, 55) for value in found.values()), found


@pytest.mark.parametrize("trials", OPERATIONS, indirect=True)
def test_after_a_kill_in_an_operation_the_next_process_continues(trials: Trials, core: str) -> None:
    check(trials, core, SAMPLES[core])


@pytest.mark.parametrize(
    "trials",
    ["register a label set", *(pytest.param(each, marks=pytest.mark.thorough) for each in AT_ONCE)],
    indirect=True,
)
def test_after_a_kill_at_any_step_of_a_change_in_c_the_next_process_continues(
    trials: Trials, steps: Nursery, core: str
) -> None:
    if core == "Python":
        pytest.skip("the lines of the twin are killed at one by one")
    number = 0
    while trials.victim_at_step(steps, number):
        assert all(value in (0, 1, 5) for value in trials.next().values())
        number += 1
    trials.next()  # after the trial that came to its end
    assert number > 10


@pytest.mark.storm
@pytest.mark.parametrize("trials", OPERATIONS, indirect=True)
def test_after_a_kill_at_any_line_of_an_operation_the_next_process_continues(trials: Trials, core: str) -> None:
    check(trials, core, None)
    print(f"{trials.nexts} trials")


def test_a_reader_sees_each_name_once_while_names_are_added_and_removed(
    storm: Callable[..., Storm], tally: Tally
) -> None:
    """`judge.values` fails if a name is there twice."""
    storms = storm(works=("change",), workers=3)
    storms.fill()
    storms.let_count(0, 5, bound=20)
    for _ in range(80):
        storms.read()
    storms.finish()
    assert tally.clean, tally


def test_names_that_change_during_a_reading_are_left_out(
    attach: Callable[..., Any], shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is removed and added again during each reading, and another name has its cells meanwhile."""
    block = attach()
    counter, names, merged = shmstats.series.Kind.COUNTER, (b"c\0one", b"c\0two"), block.reader.columns.merged
    for name in names:
        record = block.find_or_add(name, counter)
        block.cells.add(block.row_for(record), record.cell, record.number + 1, block.cells.generation)

    def change(*arguments: Any) -> Any:
        for key in (b"c\0one", b"c\0other"):
            block.remove([(block.find(key) or block.find_or_add(b"c\0one", counter)).number])
            block.find_or_add(b"c\0other" if key == b"c\0one" else b"c\0one", counter)
        return merged(*arguments)

    monkeypatch.setattr(block.reader.columns, "merged", change)
    read = block.reader.read(by_worker=True)
    assert [(name.metric, value) for name, value in zip(read.names, read.values, strict=True)] == [("two", 2)]
