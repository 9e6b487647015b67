"""Asks every worker of a block a question, from a process that has the block attached or only reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..block import Worker
from .peers import ask_all, socket_path


def ask_workers(
    name: str, workers: Sequence[Worker], question: str, own: Callable[[], Any] | None = None, pid: int = 0
) -> list[tuple[Worker, Any | None]]:
    """Return the answer of each worker, without those that have ended meanwhile.

    Args:
        name: of the block's segment.
        workers: to ask.
        question: for the workers.
        own: returns the answer of this process, which must not wait for itself, if it is one of them.
        pid: of this process, if ``own`` is given.
    """
    others = {worker.pid: socket_path(name, worker.slot) for worker in workers if worker.pid != pid}
    answers = ask_all(others, question)
    if own is not None:
        answers[pid] = own()
    return [(worker, answers[worker.pid]) for worker in workers if answers[worker.pid] is not None or worker.shown]
