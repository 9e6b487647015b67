"""The entries of the middlewares in the table of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from shmstats import registry
from shmstats.integrations import asgi, wsgi


def served(statistics: registry.Registry) -> list[str]:
    """The requests in the table of this process."""
    reader = statistics.shared.attach().reader  # type: ignore[union-attr]
    return [request.text for each in reader.served(reader.workers.live()) for request in each.requests]


def test_a_wsgi_request_is_recorded_with_its_whole_path_until_it_ends(statistics: registry.Registry) -> None:
    seen: list[list[str]] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(served(statistics))
        start_response("200 OK", [])
        yield b"a"
        seen.append(served(statistics))

    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/shop",
        "PATH_INFO": "/käse".encode().decode("latin-1"),
        "QUERY_STRING": "secret=1",
    }
    response = wsgi.ShmStatsMiddleware(app)(environ, lambda *_: lambda data: None)
    assert list(response) == [b"a"]
    response.close()  # type: ignore[attr-defined]
    assert seen == [["GET /shop/käse"]] * 2
    assert served(statistics) == []


def test_a_request_after_the_block_was_left_is_recorded_in_the_next_block(statistics: registry.Registry) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode(), *(text.encode() for text in served(statistics))]

    middleware = wsgi.ShmStatsMiddleware(app)
    for _ in range(2):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/a"}
        assert list(middleware(environ, lambda *_: lambda data: None)) == [b"/a", b"GET /a"]
        statistics.close()


def test_concurrent_asgi_requests_are_all_recorded(statistics: registry.Registry) -> None:
    async def run() -> list[str]:
        go_on = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await go_on.wait()
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})

        async def send(message: Any) -> None:
            pass

        async def receive() -> Any:
            return {"type": "http.request"}

        middleware = asgi.ShmStatsMiddleware(app)
        calls = [
            asyncio.create_task(middleware({"type": "http", "method": "GET", "path": f"/{name}"}, receive, send))
            for name in ("a", "b", "ü")
        ]
        await asyncio.sleep(0)
        seen = served(statistics)
        go_on.set()
        await asyncio.gather(*calls)
        return seen

    assert sorted(asyncio.run(run())) == ["GET /a", "GET /b", "GET /ü"]
    assert served(statistics) == []
