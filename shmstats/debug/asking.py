"""Asking every worker of a block what its threads do, from a process that has it attached or one that only reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..attachment.peers import ask_all, socket_path
from ..block import Worker
from ..reading.requests import Served
from .folding import stacks_of
from .requests import requests_document
from .stacks import no_answer


def ask_workers(
    name: str, workers: Sequence[Worker], question: str, own: Callable[[], Any] | None = None, pid: int = 0
) -> list[tuple[Worker, Any | None]]:
    """Return what each worker answers, without those that ended meanwhile.

    Args:
        name: of the block's segment.
        workers: to ask.
        question: that they are asked.
        own: gives the answer of this process, which must not wait for itself, where it is one of them.
        pid: of this process, if ``own`` is given.
    """
    others = {worker.pid: socket_path(name, worker.slot) for worker in workers if worker.pid != pid}
    answers = ask_all(others, question)
    if own is not None:
        answers[pid] = own()
    return [(worker, answers[worker.pid]) for worker in workers if answers[worker.pid] is not None or worker.shown]


def stacks_document(answers: Sequence[tuple[Worker, Any | None]], served: Sequence[Served]) -> list[dict[str, Any]]:
    """Return for each process its ``pid``, the ``requests`` that it serves, and its ``stacks`` for people."""
    serving = {each.worker.pid: requests_document([each])["requests"] for each in served}
    return [
        {
            "pid": worker.pid,
            "requests": serving.get(worker.pid, []),
            "stacks": stacks_of([{"goroutine": no_answer(worker.pid), "count": 1}] if answer is None else answer),
        }
        for worker, answer in answers
    ]
