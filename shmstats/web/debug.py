"""``/debug``: what the workers do, and how much memory they use.

An answer is about every live worker of the block, whichever process gives it. That one asks the others by
their sockets (`shmstats.attachment.peers`), and tells for itself what they are asked. What the system knows of a
process, and what stands in the block, is there for a worker that does not answer as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from flask import Response, abort, request

from ..attachment.peers import ask_all, socket_path
from ..block import Block, Worker
from ..debug.processes import memory, pool_figures, process_memory
from ..debug.requests import requests_document, serving
from ..debug.stacks import grouped, stacks
from .blueprint import attached, blueprint, mark_unseen
from .responses import json_response


@blueprint.get("/debug/goroutines")
@blueprint.get("/debug/threads")
def goroutines() -> Response:
    """Answer what every thread, asyncio task and greenlet of every worker does, grouped by equal stacks."""
    block = attached().attach()
    answers = _ask(block, block.reader.workers.live(), "stacks", stacks)
    return json_response(grouped({worker.pid: answer for worker, answer in answers}))


@blueprint.get("/debug/pool/bytes")
def pool_bytes() -> Response:
    """Answer how much of the block is in use, and how much memory each worker uses."""
    block = attached().attach()
    answers = _ask(block, block.reader.workers.live(), "memory", memory)
    document = {
        "block": pool_figures(block.reader),
        "workers": [_worker_figures(worker, answer) for worker, answer in answers],
    }
    return json_response(document)


@blueprint.get("/debug/requests")
def requests() -> Response:
    """Answer what every worker serves, and since when; of those that take longer than ``older_than`` seconds."""
    mark_unseen()
    text = request.args.get("older_than", "0")
    try:
        older_than = float(text)
    except ValueError:
        abort(400, f"older_than must be a number of seconds, not {text!r:.80}")
    reader = attached().attach().reader
    return json_response(requests_document(serving(reader, reader.workers.live()), older_than))


def _worker_figures(worker: Worker, answer: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "row": worker.row,
        "answered": answer is not None,
        **process_memory(worker.pid),
        "buffered_operations": worker.held,
        **(answer or {"allocator": None, "gc": None}),
    }


def _ask(block: Block, workers: list[Worker], question: str, own: Callable[[], Any]) -> list[tuple[Worker, Any | None]]:
    """Return what each worker answers, without those that ended meanwhile.

    Args:
        block: that they count into.
        workers: to ask.
        question: that they are asked.
        own: gives the answer of this process, which must not wait for itself.
    """
    others = [worker for worker in workers if worker.pid != os.getpid()]
    paths = {worker.pid: socket_path(block.name, worker.slot) for worker in others}
    answers = {**ask_all(paths, question), os.getpid(): own()}
    return [(worker, answers[worker.pid]) for worker in workers if answers[worker.pid] is not None or worker.lives]
