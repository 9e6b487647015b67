"""A release changes what a metric is: everything starts, every page is valid, and the newest declaration is shown."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from helpers import PythonRunner
from shared_metrics import INSTALLED

pytestmark = pytest.mark.far_from_core

only_the_c_core = pytest.mark.parametrize("core", ["C"], indirect=True)

#: The metric ``{name}`` in versions of an application: how it is created and used.
VERSIONS = '''
def counter(name):
    made = Counter(name, "As a counter.")
    return made, lambda: made.inc(0.5)
def total(name):
    made = Gauge(f"{name}_total", "As a gauge that is called like a counter's sample.")
    return made, lambda: made.set(3)
def gauge(name):
    made = Gauge(name, "As a gauge.")
    return made, lambda: made.set(3)
def livesum(name):
    made = Gauge(name, "As a sum.", multiprocess_mode="livesum")
    return made, lambda: made.inc()
def histogram(name):
    made = Histogram(name, "As a histogram.", buckets=(1, 5))
    return made, lambda: made.observe(2)
def buckets(name):
    made = Histogram(name, "With other buckets.", buckets=(1, 2, 3))
    return made, lambda: made.observe(2)
def summary(name):
    made = Summary(name, "As a summary.")
    return made, lambda: made.observe(2)
def info(name):
    made = Info(name, "As an info.")
    return made, lambda: made.info({"version": "1"})
def state(name):
    made = Enum(name, "As an enum.", states=["a", "b"])
    return made, lambda: made.state("b")
def labelled(name):
    made = Counter(name, "With labels.", ["a"])
    return made, lambda: made.labels("x").inc()
def relabelled(name):
    made = Counter(name, "With more labels.", ["a", "b"])
    return made, lambda: made.labels("x", "y").inc()

LEAVES = {"counter": ("total",), "total": ("total",), "labelled": ("total",), "relabelled": ("total",),
          "info": ("info",), "histogram": ("bucket", "count", "sum"), "buckets": ("bucket", "count", "sum"),
          "summary": ("count", "sum")}

PAIRS = [(gauge, histogram), (counter, histogram), (counter, livesum), (info, livesum), (gauge, livesum),
         (livesum, gauge), (histogram, buckets), (summary, histogram), (counter, total), (total, counter),
         (state, gauge), (info, counter), (counter, summary), (labelled, relabelled), (counter, labelled),
         (histogram, info)]

def page():
    """The samples by name, each name and label set once and each family of one type: `scrape` checks the former."""
    text = pc.generate_latest().decode()
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types)), text
    return scrape()

def names(shown, name):
    return {key.split(",")[0] for key in shown if key.startswith(name)}
'''


@pytest.fixture
def program(python: PythonRunner, configure: Callable[..., object]) -> Callable[..., str]:
    configure(durable_exposition=False)  # a test requests many pages a second
    return lambda code, *arguments: python.run(INSTALLED + VERSIONS + code, *arguments, quiet=False)


@only_the_c_core
def test_versions_that_run_at_once_all_have_a_valid_page_of_the_newest_definition(program: Callable[..., str]) -> None:
    """Old, new, and old again, with every pair of types: the earlier processes count on without an error."""
    program(
        """
def version(number, turn):
    def work():
        for i, pair in enumerate(PAIRS):
            made[turn, i] = pair[number](f"m{i:02}_")
            made[turn, i][1]()
    def more():
        for i, _ in enumerate(PAIRS):
            made[turn, i][1]()
            made[turn, i][0].collect()
    def shown():
        return page()
    return Worker(work, shown, more, shown, more, shown)

made = {}
turns = []
for turn, number in enumerate((0, 1, 0)):
    turns.append(version(number, turn))
    turns[-1].call()
    for worker in turns:
        seen = worker.call()
        for i, pair in enumerate(PAIRS):
            name, kind = f"m{i:02}_", pair[number].__name__
            expected = {f"{name}_{leaf}" for leaf in LEAVES.get(kind, ())} or {name}
            assert names(seen, name) == expected, (turn, kind, seen)
        if turn < 2:
            worker.call()
for worker in turns:
    worker.kill()
page()
"""
    )


@only_the_c_core
def test_series_of_an_older_definition_are_removed_when_no_process_counts_into_them(
    program: Callable[..., str],
) -> None:
    program(
        """
from shmstats.block import outdated
def names_in_use():
    return stats.shared.attach().reader.usage()["names"].used
def old():
    made[0] = Counter("queue", "Old.", ["a"])
    for number in range(20):
        made[0].labels(str(number)).inc()
def more():
    for number in range(20):
        made[0].labels(str(number)).inc()
made = {}
worker = Worker(old, more)
worker.call()
before = names_in_use()
gauge = Gauge("queue", "New.", multiprocess_mode="livesum")
gauge.set(7)
worker.call()
outdated.GRACE_SECONDS = 0
assert outdated.remove_outdated(stats.shared.attach()) == 0, "a process counts into it"
assert names_in_use() > before
assert page() == {"queue": 7}
worker.kill()
assert outdated.remove_outdated(stats.shared.attach()) == 20
assert names_in_use() < before and page() == {"queue": 7}
"""
    )


@only_the_c_core
def test_an_old_process_that_does_not_use_a_metric_does_not_keep_its_old_series(program: Callable[..., str]) -> None:
    """A master is attached all the time, and never uses the metric."""
    program(
        """
from shmstats.block import outdated
stats.incr("c", "of the master")
def version(code):
    return Worker(lambda: exec(code), lambda: page())
old = version("Counter('queue', 'Old.').inc()")
old.call(), old.kill()
new = version("Gauge('queue', 'New.', multiprocess_mode='livesum').set(7)")
new.call()
used = stats.shared.attach().reader.usage()["names"].used
outdated.GRACE_SECONDS = 0
assert outdated.remove_outdated(stats.shared.attach()) == 1
assert new.call() == {"queue": 7}
new.end()
"""
    )


@only_the_c_core
def test_a_child_of_an_older_master_does_not_restore_the_older_definition(
    program: Callable[..., str],
) -> None:
    program(
        """
import shmstats
counter = Counter("queue", "Of the master.")
counter.inc()
def new():
    Gauge("queue", "New.", multiprocess_mode="livesum").set(7)
def fresh():
    return Worker(counter.inc, lambda: page())
import subprocess
code = 'from shmstats.integrations import prometheus_client as s; s.install()' + '''
from prometheus_client import Gauge
Gauge("queue", "New.", multiprocess_mode="livesum").set(7)
input()
'''
other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
end = time.monotonic() + 30
while page() != {"queue": 7}:
    assert time.monotonic() < end, page()
worker = fresh()
worker.call()
assert worker.call() == {"queue": 7} == page()
worker.end()
other.communicate(b"\\n")
"""
    )


@only_the_c_core
def test_states_of_an_enum_are_matched_by_name(program: Callable[..., str]) -> None:
    program(
        """
def version(states):
    made = {}
    def work():
        made["enum"] = Enum("job", "J.", ["a"], states=states)
        made["enum"].labels("x").state("running")
    def current():
        return {key.rpartition("=")[2]: 1 for key, value in page().items() if value}
    return Worker(work, current, lambda: made["enum"].labels("x").state(states[0]), current)
old = version(["starting", "running"])
old.call()
new = version(["paused", "starting", "done", "running"])
new.call()
assert new.call() == {"running": 1} == old.call()
new.call(), old.call()
assert new.call() == {"starting": 1} == old.call()
old.kill(), new.kill()
page()
"""
    )


NATIVE = """
import json, sys
from shmstats import stats
exec(sys.argv[1])
for line in sys.stdin:
    exec(line)
    values = stats.snapshot().get("c", {}).items()
    print(json.dumps({metric: getattr(value, "buckets", value) for metric, value in values}), flush=True)
"""

MS_7 = [0] * 55 + [1] + [0] * 106  # the bucket of 7 ms


@pytest.mark.parametrize(
    ("old", "old_use", "new", "new_use", "shown"),
    [
        ("pass", "stats.incr('c', 'm')", "kind='histogram'", "stats.timing('c', 'm', 7)", {"m": MS_7}),
        (
            "stats.declare('c', 'm', kind='counter', labelnames=('a',))",
            "stats.incr('c', 'm', labels={'a': '1'})",
            "kind='counter', labelnames=('a', 'b')",
            "stats.incr('c', 'm', labels={'a': '1', 'b': '2'})",
            {'m{a="1",b="2"}': 1},
        ),
        (
            "stats.declare('c', 'm', kind='gauge', mode='max')",
            "stats.gauge('c', 'm', 9)",
            "kind='gauge', mode='livesum'",
            "stats.gauge('c', 'm', 2)",
            {"m": 2},
        ),
        (
            "stats.declare('c', 'm', kind='gauge', unit='bytes')",
            "stats.gauge('c', 'm', 9)",
            "kind='gauge', unit='kilobytes'",
            "stats.gauge('c', 'm', 2)",
            {"m": 2},
        ),
        (
            "stats.declare('c', 'm', kind='histogram', buckets=(1, 2))",
            "stats.timing('c', 'm', 1)",
            "kind='histogram', buckets=(1, 2, 3)",
            "stats.timing('c', 'm', 3)",
            {"m": [0, 0, 1, 0]},
        ),
        # These show the newer text; the counts continue.
        (
            "stats.declare('c', 'm', kind='counter', help='Old.')",
            "stats.incr('c', 'm')",
            "kind='counter', help='New.', unit='bytes'",
            "stats.incr('c', 'm')",
            {"m": 4},
        ),
        ("pass", "stats.incr('c', 'm')", "kind='counter', help='New.'", "stats.incr('c', 'm')", {"m": 4}),
    ],
)
def test_a_native_metric_may_be_declared_differently_while_an_old_process_runs(
    python: PythonRunner, old: str, old_use: str, new: str, new_use: str, shown: dict[str, object]
) -> None:
    first, third = python.start(NATIVE, old), python.start(NATIVE, "pass")
    first.tell(old_use)
    first.hear()
    second = python.start(NATIVE, f"stats.declare('c', 'm', {new})")
    second.tell(new_use)
    second.hear()
    for _ in range(2):
        first.tell(old_use)
        first.hear()
    for child in (first, second, third):
        child.tell("pass")
        assert json.loads(child.hear()) == shown
    for child in (first, third):
        child.finish()
    second.tell("pass")
    assert json.loads(second.hear()) == shown
    second.finish(quiet=False)
    told = second.stderr.count("is declared as")
    assert told == (0 if old == "pass" and shown == {"m": 4} else 1), second.stderr


@only_the_c_core
def test_after_a_full_restart_the_page_shows_only_the_declarations_of_the_release(
    program: Callable[..., str],
) -> None:
    """There and back again: nothing of the earlier definition is left."""
    code = """
import shmstats
number, count = int(sys.argv[1]), int(sys.argv[2])
for i, pair in enumerate(PAIRS):
    made = pair[number](f"m{i:02}_")
    for _ in range(count):
        made[1]()
shown = page()
for i, pair in enumerate(PAIRS):
    name, kind = f"m{i:02}_", pair[number].__name__
    expected = {f"{name}_{leaf}" for leaf in LEAVES.get(kind, ())} or {name}
    assert names(shown, name) == expected, (kind, shown)
    if kind in ("livesum", "counter", "labelled", "relabelled"):
        value = count * (0.5 if kind == "counter" else 1)
        assert {shown[key] for key in shown if key.startswith(name)} == {value}, (kind, shown)
shmstats.close()
"""
    program(code, 0, 2)
    program(code, 1, 3)
    program(code, 0, 1)


USES = (
    "stats.incr('c', '{m}')",
    "stats.gauge('c', '{m}', 3.5)",
    "stats.timing('c', '{m}', 7)",
    "stats.timestamp('c', '{m}', datetime(2026, 1, 1, tzinfo=UTC))",
    "stats.incr('c', '{m}', labels={{'a': '1'}})",
    "stats.timing('c', '{m}', 7, labels={{'a': '1'}})",
)
MOMENT = 1_767_225_600_000_000  # in microseconds
OLD_USES = (
    *(("pass", use) for use in USES),
    ("stats.declare('c', '{m}', kind='counter')", USES[0]),
    ("stats.declare('c', '{m}', kind='gauge', mode='livesum')", USES[1]),
    ("stats.declare('c', '{m}', kind='histogram', buckets=(1, 2))", USES[2]),
    ("stats.declare('c', '{m}', kind='counter', labelnames=('b',))", "stats.incr('c', '{m}', labels={{'b': '1'}})"),
)

#: Runs its argument, and after each line that it reads, the lines of the argument without declarations again.
RELEASE = """
import json, sys
from datetime import UTC, datetime
from shmstats import stats
lines = json.loads(sys.argv[1])
for _ in sys.stdin:
    for line in lines:
        exec(line)
    lines = [line for line in lines if "declare" not in line]
    values = stats.snapshot().get("c", {}).items()
    print(json.dumps({metric: getattr(value, "count", value) for metric, value in values}), flush=True)
"""


@pytest.mark.parametrize("lives", [False, True])
def test_a_release_may_use_a_metric_otherwise_without_declaring_it(
    configure: Callable[..., object], python: PythonRunner, lives: bool
) -> None:
    """No call raises, in the new process and the old one, and the new use is shown if none that lives has declared."""
    configure(capacity=8192)
    pairs = [(*old, new) for old in OLD_USES for new in USES if new != old[1]]
    named = [[text.format(m=f"m{number}") for text in pair] for number, pair in enumerate(pairs)]
    first = python.start(RELEASE, json.dumps([line for old, use, _ in named for line in (old, use)]))
    first.tell("")
    first.hear()
    if not lives:
        first.finish()
    second = python.start(RELEASE, json.dumps([new for *_, new in named]))
    second.tell("")
    second.hear()
    if lives:
        first.tell("")
        first.hear()
        first.finish()
    second.tell("")
    shown = json.loads(second.hear())
    for number, (old, use, new) in enumerate(pairs):
        if old == "pass" or not lives:
            value = shown[f"m{number}" + ('{a="1"}' if "labels" in new else "")]
            moved = {new, use} == {
                *USES[:2]
            }  # a counter or gauge stays what it is, whichever of the two calls moves it
            assert moved or value == (3.5 if new == USES[1] else 2 if new != USES[3] else MOMENT), (
                pairs[number],
                shown,
            )
    second.finish(quiet=False)
    assert ("but not shown" in second.stderr) == lives
