"""Explores every interleaving of a few processes, with a kill between any two steps.

A *program* is a Python function that runs the package's code; it calls `Steps.do` for each access to shared state. To
reach a state, the explorer runs it again from its beginning with the results given so far, and stops it at the next
step. A `Machine` defines the steps, which are sequentially consistent; for reordering by processors see threads.c.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

#: A process that takes more steps than this counts as an endless loop.
MAX_STEPS = 400


class Stop(BaseException):
    """Stops a program at a step whose result is not known."""


class ViolationError(AssertionError):
    """An interleaving breaks a rule; the message describes that interleaving."""


class Access(NamedTuple):
    """One step.

    Attributes:
        kind: one of the kinds of the machine.
        arguments: of it.
        silent: whether killing the process just before it is the same as killing it later.
    """

    kind: str
    arguments: tuple[Any, ...]
    silent: bool


class Steps:
    """The argument of a program: takes its steps and keeps its notes.

    Args:
        index: of the process.
        history: the results of its first steps.
        known: returns the result of a step with a fixed outcome, as (result,); else None.
    """

    def __init__(self, index: int, history: tuple[Any, ...], known: Callable[[Access], Any] | None = None) -> None:
        self.index = index
        self.notes: list[Hashable] = []
        self.pending: Access | None = None
        self._history = history
        self._position = 0
        self._known = known

    def do(self, kind: str, *arguments: Any, silent: bool = False) -> Any:
        """Take one step and return its result."""
        access = Access(kind, arguments, silent)
        if self.pending is None:
            known = self._known(access) if self._known is not None else None
            if known is not None:
                return known[0]
            if self._position < len(self._history):
                self._position += 1
                return self._history[self._position - 1]
            self.pending = access
        raise Stop

    def note(self, *what: Hashable) -> None:
        """Note that this point was reached; belongs to the step before."""
        if self.pending is None:
            self.notes.append(what)


class Machine(Protocol):
    """The shared state, which is any hashable value."""

    def known(self, access: Access) -> tuple[Any] | None:
        """Return the result, in a tuple, of an operation that is not a step; None for a step."""

    def is_settled(self, state: Any, index: int, access: Access, others: frozenset[int]) -> bool:
        """Tell whether a silent step changes nothing, and no other process can change its result before it is done.

        Then it is enough to explore the step done at once. ``others`` are the processes that can still do
        anything.
        """

    def do(self, state: Any, index: int, access: Access) -> tuple[Any, Any] | None:
        """Do a step of a process; returns its result and the state after it, or None if it must wait."""

    def kill(self, state: Any, index: int) -> Any:
        """Return the state after the death of a process."""


class _Node:
    """A process after so many steps.

    Attributes:
        history: the results that it was given.
        pending: its next step; None at its end.
        notes: of the process.
        failure: the exception that it raised.
        after: the nodes behind, by the result of the next step.
    """

    __slots__ = ("after", "failure", "history", "notes", "pending")

    def __init__(self, history: tuple[Any, ...], steps: Steps, failure: BaseException | None) -> None:
        self.history = history
        self.pending = steps.pending
        self.notes = tuple(steps.notes)
        self.failure = failure
        self.after: dict[Any, _Node] = {}


class Ending(NamedTuple):
    """A state in which no process can take a step.

    Attributes:
        state: of the machine.
        notes: of each process.
        killed: the processes that were killed.
        waiting: the locks that are still waited for, by process.
    """

    state: Any
    notes: tuple[tuple[Hashable, ...], ...]
    killed: frozenset[int]
    waiting: dict[int, Access]


class Explored(NamedTuple):
    """The size of the search.

    Attributes:
        states: different ones.
        endings: states of these in which no process continues.
    """

    states: int
    endings: int


def explore(
    programs: Sequence[Callable[[Steps], object]],
    machine: Machine,
    initial: Hashable,
    check: Callable[[Ending], object],
    kills: int = 0,
    mortal: Sequence[int] | None = None,
    max_states: int = 2_000_000,
) -> Explored:
    """Go through every interleaving.

    Args:
        programs: of the processes.
        machine: the shared state.
        initial: its state at the beginning.
        check: called with each ending; an AssertionError that it raises is a violation.
        kills: how many processes may be killed.
        mortal: the processes that may be killed; None: all.
        max_states: the number of states at which the search fails.

    Raises:
        ViolationError: an ending did not pass the check, a program raised, or does not end.
    """
    search = _Search(programs, machine, check, frozenset(range(len(programs)) if mortal is None else mortal))
    return search.run(initial, kills, max_states)


class _State(NamedTuple):
    shared: Any
    nodes: tuple[_Node, ...]
    killed: frozenset[int]


class _Search:
    def __init__(
        self,
        programs: Sequence[Callable[[Steps], object]],
        machine: Machine,
        check: Callable[[Ending], object],
        mortal: frozenset[int],
    ) -> None:
        self._programs, self._machine, self._check, self._mortal = programs, machine, check, mortal
        self._ends: dict[tuple[int, tuple[Hashable, ...]], _Node] = {}
        self._path: list[str] = []

    def run(self, initial: Any, kills: int, max_states: int) -> Explored:
        start = _State(initial, tuple(self._node(index, ()) for index in range(len(self._programs))), frozenset())
        shared_numbers: dict[Any, int] = {initial: 0}
        seen = {self._key(start, shared_numbers)}
        endings = 0
        branches = [self._moves(start, kills)]
        while branches:
            move = next(branches[-1], None)
            if move is None:
                branches.pop()
                del self._path[len(branches) - 1 if branches else 0 :]
                continue
            label, state = move
            key = self._key(state, shared_numbers)
            if key in seen:
                continue
            seen.add(key)
            assert len(seen) <= max_states, f"more than {max_states} states; make the programs smaller"
            self._path.append(label)
            branch = self._moves(state, kills)
            first = next(branch, None)
            if first is None:
                endings += 1
                self._end(state)
                self._path.pop()
                continue
            branches.append(_chain(first, branch))
        return Explored(len(seen), endings)

    def _moves(self, state: _State, kills: int) -> Iterator[tuple[str, _State]]:
        """Go through the states that one step, or one death, leads to."""
        may_die = len(state.killed) < kills
        pending = [
            (index, node.pending)
            for index, node in enumerate(state.nodes)
            if node.pending is not None and index not in state.killed
        ]
        active = frozenset(index for index, _ in pending)
        for index, access in pending:
            if access.silent and self._machine.is_settled(state.shared, index, access, active - {index}):
                step = self._step(state, index, access)
                if step is not None:
                    yield step
                    return
        for index, access in pending:
            step = self._step(state, index, access)
            if step is not None:
                yield step
            if may_die and index in self._mortal and not access.silent:
                yield (
                    f"{index} is killed",
                    _State(self._machine.kill(state.shared, index), state.nodes, state.killed | {index}),
                )

    def _step(self, state: _State, index: int, access: Access) -> tuple[str, _State] | None:
        done = self._machine.do(state.shared, index, access)
        if done is None:
            return None
        result, shared = done
        node = state.nodes[index]
        after = node.after.get(result)
        if after is None:
            after = node.after[result] = self._node(index, (*node.history, result))
        label = f"{index}: {access.kind} {access.arguments} -> {result!r}"
        return label, _State(shared, _replaced(state.nodes, index, after), state.killed)

    def _node(self, index: int, history: tuple[Any, ...]) -> _Node:
        steps = Steps(index, history, self._machine.known)
        failure: BaseException | None = None
        try:
            self._programs[index](steps)
        except Stop:
            pass
        except Exception as error:
            if steps.pending is None:
                failure = error
        if failure is not None:
            self._fail(f"process {index} raises {failure!r}", failure)
        if len(history) > MAX_STEPS:
            self._fail(f"process {index} does not end: {history[-20:]}")
        node = _Node(history, steps, failure)
        if node.pending is None:
            # At their end processes differ only by their notes.
            node = self._ends.setdefault((index, node.notes), node)
        return node

    def _key(self, state: _State, shared_numbers: dict[Any, int]) -> tuple[Hashable, ...]:
        shared = shared_numbers.setdefault(state.shared, len(shared_numbers))
        nodes = (node.notes if index in state.killed else id(node) for index, node in enumerate(state.nodes))
        return (shared, *nodes)

    def _end(self, state: _State) -> None:
        waiting = {
            index: node.pending
            for index, node in enumerate(state.nodes)
            if node.pending is not None and index not in state.killed
        }
        try:
            self._check(Ending(state.shared, tuple(node.notes for node in state.nodes), state.killed, waiting))
        except AssertionError as error:
            self._fail(str(error), error)

    def _fail(self, what: str, cause: BaseException | None = None) -> None:
        raise ViolationError("\n".join([what, "after:", *self._path])) from cause


def _replaced(nodes: tuple[_Node, ...], index: int, node: _Node) -> tuple[_Node, ...]:
    return (*nodes[:index], node, *nodes[index + 1 :])


def _chain(first: tuple[str, _State], rest: Iterator[tuple[str, _State]]) -> Iterator[tuple[str, _State]]:
    yield first
    yield from rest
