"""Three machines under load, with each way to an engine, over kills, power losses, wrong clocks: the sum is exact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from debian import newer
from lab import BOUND, ENGINE_PORT, HUB, SITE_PORT, Engine, Lab, Machine, Visitors, require
from servers import wait_until

pytestmark = pytest.mark.thorough

_ROOT = f"http://{HUB}:{ENGINE_PORT}"

#: Each way: the program, and what machines push; None: they are scraped.
#: With OTLP the label of a machine has the name that OpenTelemetry gives it.
WAYS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "pull": ("prometheus", None),
    "remote write to Prometheus": ("prometheus", {"url": f"{_ROOT}/api/v1/write"}),
    "remote write to VictoriaMetrics": ("victoria-metrics", {"url": f"{_ROOT}/api/v1/write"}),
    "text import": ("victoria-metrics", {"url": f"{_ROOT}/api/v1/import/prometheus", "format": "import"}),
    "otlp": ("newer", {"url": f"{_ROOT}/opentelemetry/v1/metrics", "format": "otlp"}),
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    require()
    with Lab(tmp_path) as lab:
        yield lab


@pytest.mark.parametrize("way", WAYS)
def test_the_sum_over_machines_is_exact_over_kills_power_losses_and_clocks(way: str, lab: Lab, tmp_path: Path) -> None:
    program, push = WAYS[way]
    if program == "newer":
        found = newer("victoria-metrics", tmp_path / "newer")
        assert found is not None, "NOT TESTED with a real engine: VictoriaMetrics of Debian's sid is not available here"
        program = found
    settings = {**push, "interval_seconds": 1, "timeout_seconds": 2, "labels": {"job": "shop"}} if push else None
    machines = [lab.machine(number, settings) for number in range(3)]
    engine = Engine(lab, program, [] if push else [machine.address for machine in machines])
    try:
        engine.start()
        for machine in machines:
            machine.start()
        with Visitors(lab, machines) as visitors:
            lost = happen(engine, machines, visitors)
        judge(engine, machines, visitors, lost)
    finally:
        for machine in machines:
            machine.close()
        engine.stop()


def happen(engine: Engine, machines: list[Machine], visitors: Visitors) -> int:
    """Cause all events; return how many hits a power loss may have lost at most."""
    first, second, third = machines
    seen(engine, visitors)
    engine.stop()
    more(visitors, 100)
    engine.start()
    seen(engine, visitors)
    exposed = engine.value(f"sum(hits_total{{{label_of(first)}}})")
    assert exposed is not None
    counted = visitors.answered[first.name] + visitors.failed[first.name]
    first.cut_power()
    more(visitors, 50)
    first.start()
    restored = first.total()
    assert restored is not None
    assert restored >= exposed
    second.kill_saver()
    seen(engine, visitors)
    third.stop()
    third.start(level_kind="counter")
    seen(engine, visitors)
    second.set_clock(-3600)
    seen(engine, visitors)
    second.stop()
    second.start()
    seen(engine, visitors)
    return counted


def label_of(machine: Machine) -> str:
    """The label by which the engine knows a machine."""
    if machine.push is None:
        return f'instance="{machine.address}:{SITE_PORT}"'
    uuid = json.loads((machine.disk / "data/stats/identity.json").read_text())["uuid"]
    name = r"service\.instance\.id" if machine.push.get("format") == "otlp" else "instance"
    return f'{name}="{uuid}"'


def more(visitors: Visitors, number: int) -> None:
    """Wait until that many more visits were answered."""
    goal = visitors.answered.total() + number
    wait_until(lambda: visitors.answered.total() >= goal, f"{number} more visits", BOUND)


def seen(engine: Engine, visitors: Visitors) -> None:
    """Wait until the engine has the current counts of all machines."""
    more(visitors, 30)
    before = engine.value("sum(hits_total)") or 0
    wait_until(lambda: engine.value("count(hits_total)") == 3, "all machines", BOUND)
    wait_until(lambda: (engine.value("sum(hits_total)") or 0) > before, "a higher sum", BOUND)


def judge(engine: Engine, machines: list[Machine], visitors: Visitors, lost: int) -> None:
    """Check that the engine has the counts of the machines, they have all answered hits, and no total went back."""
    totals = [machine.total() for machine in machines]
    wait_until(lambda: engine.value("sum(hits_total)") == sum(map(int, totals)), f"the sum of {totals}", BOUND)
    first, *others = machines
    for machine, total in zip(others, totals[1:], strict=True):
        answered, failed = visitors.answered[machine.name], visitors.failed[machine.name]
        assert answered <= int(total or 0) <= answered + failed, machine.name
    assert int(totals[0] or 0) <= visitors.answered[first.name] + visitors.failed[first.name]
    assert int(totals[0] or 0) >= visitors.answered[first.name] - lost
    assert engine.value("sum(resets(hits_total[30m]))") == 0
    grown = engine.value("sum(max_over_time(hits_total[30m]) - min_over_time(hits_total[30m]))")
    begun = engine.value("sum(min_over_time(hits_total[30m]))")
    assert grown is not None
    assert begun is not None
    assert begun + grown == sum(map(int, totals))
    level = "sum(level_total)"
    wait_until(lambda: engine.value(level) is not None, "the metric whose kind was changed", BOUND)
