"""The explorer itself: it finds the faults of wrong algorithms of text books, and none in correct ones."""

from __future__ import annotations

from typing import Any

import pytest
from explorer import MAX_STEPS, Access, Ending, Steps, ViolationError, explore


class Variables:
    """A machine of a few variables and locks: the state has (name, value) and (lock, process)."""

    def known(self, access: Access) -> tuple[Any] | None:
        return None

    def is_settled(self, state: Any, index: int, access: Access, others: frozenset[int]) -> bool:
        return False

    def do(self, state: Any, index: int, access: Access) -> tuple[Any, Any] | None:
        values = dict(state)
        name, *rest = access.arguments
        if access.kind == "get":
            return values[name], state
        if access.kind == "set":
            return None, frozenset((values | {name: rest[0]}).items())
        if access.kind == "lock":
            return (None, frozenset((values | {name: index}).items())) if values.get(name) is None else None
        assert access.kind == "wait"
        return (None, state) if values[name] == rest[0] else None

    def kill(self, state: Any, index: int) -> Any:
        return state


def state(**values: object) -> frozenset[tuple[str, object]]:
    return frozenset(values.items())


def value(ending: Ending, name: str) -> Any:
    return dict(ending.state)[name]


def increment(steps: Steps) -> None:
    steps.do("set", "x", steps.do("get", "x", silent=True) + 1)
    steps.note("done")


def test_every_interleaving_is_seen() -> None:
    seen = set()
    explored = explore([increment] * 2, Variables(), state(x=0), lambda ending: seen.add(value(ending, "x")))
    assert seen == {1, 2}
    assert explored.endings == 2


def test_a_lost_update_is_found_and_shown() -> None:
    def check(ending: Ending) -> None:
        assert value(ending, "x") == 2, "an update is lost"

    with pytest.raises(ViolationError, match="an update is lost") as caught:
        explore([increment] * 2, Variables(), state(x=0), check)
    steps = str(caught.value).partition("after:\n")[2].splitlines()
    assert sorted(steps) == sorted(
        f"{index}: {step}" for index in (0, 1) for step in ("get ('x',) -> 0", "set ('x', 1) -> None")
    )


def test_a_deadlock_is_an_ending_with_waiting_processes() -> None:
    def take(*locks: str) -> Any:
        def program(steps: Steps) -> None:
            for lock in locks:
                steps.do("lock", lock)
            for lock in locks:
                steps.do("set", lock, None)

        return program

    waiting = []
    explore(
        [take("a", "b"), take("b", "a")],
        Variables(),
        state(),
        lambda ending: waiting.append(len(ending.waiting)),
    )
    assert sorted(waiting) == [0, 2]
    waiting.clear()
    explore(
        [take("a", "b"), take("a", "b")],
        Variables(),
        state(),
        lambda ending: waiting.append(len(ending.waiting)),
    )
    assert waiting == [0]


def peterson(turn_first: bool) -> Any:
    """Peterson's algorithm (1981), which is correct, and wrong with its first two stores exchanged."""

    def program(steps: Steps) -> None:
        me, other = steps.index, 1 - steps.index
        stores = [(f"wants{me}", True), ("turn", other)]
        for name, to in reversed(stores) if turn_first else stores:
            steps.do("set", name, to)
        while steps.do("get", f"wants{other}", silent=True) and steps.do("get", "turn", silent=True) == other:
            steps.do("wait", "changed", True)  # never set: only a wrong search takes this path
        increment(steps)
        steps.do("set", f"wants{me}", False)

    return program


def test_a_correct_algorithm_passes_and_fails_with_two_stores_exchanged() -> None:
    start = state(x=0, turn=0, wants0=False, wants1=False, changed=False)

    def check(ending: Ending) -> None:
        assert ending.waiting or value(ending, "x") == 2

    explore([peterson(False)] * 2, Variables(), start, check)
    with pytest.raises(ViolationError):
        explore([peterson(True)] * 2, Variables(), start, check)


def test_kills_are_between_any_two_steps_and_no_more_than_allowed() -> None:
    def three(steps: Steps) -> None:
        for n in (1, 2, 3):
            steps.do("set", f"x{steps.index}", n)

    for kills, most in ((0, 0), (1, 1), (2, 2)):
        seen = set()

        def note(ending: Ending, seen: set[Any] = seen) -> None:
            seen.add((value(ending, "x0"), value(ending, "x1"), len(ending.killed)))

        explore([three] * 2, Variables(), state(x0=0, x1=0), note, kills=kills)
        assert {(3, n, 1) for n in range(3)} <= seen or not kills
        assert ((0, 0, 2) in seen) == (kills == 2)
        assert max(killed for *_, killed in seen) == most
    seen.clear()
    explore([three] * 2, Variables(), state(x0=0, x1=0), note, kills=2, mortal=[0])
    assert {x1 for _, x1, _ in seen} == {3}


def test_an_exception_of_a_program_is_a_violation() -> None:
    def program(steps: Steps) -> None:
        if steps.do("get", "x"):
            raise IndexError("of a stranger")

    explore([program], Variables(), state(x=0), lambda ending: None)
    with pytest.raises(ViolationError, match="process 0 raises IndexError"):
        explore([program], Variables(), state(x=1), lambda ending: None)


def test_an_endless_loop_is_a_violation() -> None:
    def program(steps: Steps) -> None:
        while steps.do("get", "x") == 0:
            steps.do("set", "y", steps.do("get", "y") + 1)

    with pytest.raises(ViolationError, match="does not end"):
        explore([program], Variables(), state(x=0, y=0), lambda ending: None)
    assert MAX_STEPS < 1000
