"""``/debug``: what the workers do, and how much memory they use.

An answer covers every live worker of the block, whichever process gives it. That process asks the others through
their sockets (`shmstats.attachment.peers`), and answers for itself. The figures of the operating system and of
the block are complete even if a worker does not answer.
"""

from __future__ import annotations

from typing import Any

from flask import Response, abort, request

from ..attachment.asking import ask_workers
from ..block import Worker
from ..debug.documents import requests_document, stacks_document
from ..debug.processes import memory, pool_figures, process_memory
from ..debug.stacks import grouped, stacks
from .blueprint import attached, blueprint, json_response, mark_unseen, number_argument


@blueprint.get("/debug/goroutines")
@blueprint.get("/debug/threads")
def goroutines() -> Response:
    """Answer with the stacks of every thread, asyncio task and greenlet of every worker, equal stacks grouped."""
    _, block = attached()
    answers = ask_workers(block.name, block.reader.workers.live(), "stacks", stacks)
    return json_response(grouped({worker.pid: answer for worker, answer in answers}))


@blueprint.get("/debug/stacks")
def folded_stacks() -> Response:
    """Answer for people with what each worker does, or that of ``pid``: its requests, and its stacks folded."""
    mark_unseen()
    _, block = attached()
    wanted = request.args.get("pid")
    workers = [worker for worker in block.reader.workers.live() if wanted in (None, str(worker.pid))]
    if not workers:
        abort(404, f"there is no worker {wanted!r:.80}")
    answers = ask_workers(block.name, workers, "stacks", stacks)
    return json_response(stacks_document(answers, block.reader.served(workers)))


@blueprint.get("/debug/pool/bytes")
def pool_bytes() -> Response:
    """Answer with how full the block is, and how much memory each worker uses."""
    _, block = attached()
    answers = ask_workers(block.name, block.reader.workers.live(), "memory", memory)
    document = {
        "block": pool_figures(block.reader),
        "workers": [_worker_figures(worker, answer) for worker, answer in answers],
    }
    return json_response(document)


@blueprint.get("/debug/requests")
def requests() -> Response:
    """Answer with the requests that every worker serves, if they take longer than ``older_than`` seconds."""
    mark_unseen()
    reader = attached()[1].reader
    return json_response(requests_document(reader.served(reader.workers.live()), number_argument("older_than") or 0.0))


def _worker_figures(worker: Worker, answer: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "row": worker.row,
        "answered": answer is not None,
        **process_memory(worker.pid),
        "buffered_operations": worker.held,
        **(answer or {"allocator": None, "gc": None}),
    }
