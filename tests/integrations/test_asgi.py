"""The ASGI middleware: routes of Starlette and FastAPI through mounts, disconnects, websockets, and other scopes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from counted import AsgiCall, Counts
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from shmstats.integrations.asgi import ShmStatsMiddleware

Read = Callable[[], Counts]
DISCONNECT = {"type": "http.disconnect"}


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def fail(request: Request) -> PlainTextResponse:
    raise LookupError("no such thing")


def recorded(*routes: Any, **options: Any) -> Starlette:
    """A Starlette application with the middleware."""
    return Starlette(routes=list(routes), middleware=[Middleware(ShmStatsMiddleware, **options)])


def bare(*messages: dict[str, Any], raises: BaseException | None = None) -> ShmStatsMiddleware:
    """An application without a framework that sends these messages and may then raise."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        if raises is not None:
            raise raises

    return ShmStatsMiddleware(app)


def start(status: int = 200, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, **more}


def body(chunk: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": chunk, "more_body": more}


def test_a_request_is_recorded_with_method_route_status_and_sizes(counts: Read) -> None:
    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body(), 201)

    app = recorded(Route("/items/{item:int}", echo, methods=["POST"]))
    told = [{"type": "http.request", "body": b"1234", "more_body": True},
            {"type": "http.request", "body": b"567", "more_body": False}]  # fmt: skip
    call = AsgiCall(app, "/items/5", "POST", told=told)
    assert (call.status, call.body) == (201, b"1234567")
    now, labels = counts(), {"method": "POST", "route": "/items/{item:int}"}
    assert now.of("http_requests", status="201", **labels) == 1
    assert now.sum("http_request_size", **labels) == now.sum("http_response_size", **labels) == 7
    assert 0 < now.sum("http_request_duration", **labels) < 10_000
    assert now.of("http_requests_in_progress") == 0
    assert now.outcomes == (1, 1, 0)


def test_requests_without_a_matching_route_share_one_value(counts: Read) -> None:
    app = recorded(Route("/here", hello), Route("/slash/", hello))
    for path, method, status in (("/no", "GET", 404), ("/here", "BREW", 405), ("/slash", "GET", 307)):
        assert AsgiCall(app, path, method).status == status
    assert counts().of("http_requests", route="<unmatched>", status="404") == 1
    assert counts().of("http_requests", route="/here", status="405", method="OTHER") == 1
    assert counts().of("http_requests", route="<unmatched>", status="307") == 1
    assert counts().outcomes == (3, 1, 2)


def inner() -> Starlette:
    return Starlette(routes=[Route("/in/{thing}", hello), Mount("/deep/{level}", routes=[Route("/end", hello)])])


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/a/in/secret", "/a/in/{thing}"),
        ("/b/secret/in/secret", "/b/{tenant}/in/{thing}"),
        ("/b/secret/deep/secret/end", "/b/{tenant}/deep/{level}/end"),
        ("/b/secret/secret", "/b/{tenant}/{path}"),
        ("/b/secret/deep/secret/secret", "/b/{tenant}/deep/{level}/{path}"),
        ("/files/secret/secret", "/files/{path}"),
        ("/fast/secret/api/v1/items/secret", "/fast/{tenant}/api/v1/items/{item}"),
        ("/fast/secret/secret", "/fast/{tenant}/{path}"),
        ("/in/secret", "/in/{thing}"),
        ("/deep/secret/end", "/deep/{level}/end"),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/proxied"])
def test_a_route_below_mounts_has_all_templates_and_no_part_of_the_path(
    counts: Read, path: str, route: str, root_path: str
) -> None:
    async def files(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("file")(scope, receive, send)

    shared = inner()
    app = recorded(
        Mount("/a", shared), Mount("/b/{tenant}", shared), Mount("/files", files),
        Mount("/fast/{tenant}", fast()), Host("shop.example", inner()),
    )  # fmt: skip
    AsgiCall(app, root_path + path, root_path=root_path, headers=[(b"host", b"shop.example")])
    assert counts().values_of("route") == {route}


def fast() -> FastAPI:
    app, api, version = FastAPI(), APIRouter(prefix="/api"), APIRouter(prefix="/v1")

    @version.get("/items/{item}")
    async def item(item: str) -> str:
        return item

    @app.get("/plain/{item}")
    async def plain(item: int) -> int:
        return item

    api.include_router(version)
    app.include_router(api)
    app.include_router(version, prefix="/again")
    return app


@pytest.mark.parametrize(
    ("path", "method", "status", "route"),
    [
        ("/plain/5", "GET", 200, "/plain/{item}"),
        ("/plain/five", "GET", 422, "/plain/{item}"),
        ("/plain/5", "POST", 405, "/plain/{item}"),
        ("/api/v1/items/secret", "GET", 200, "/api/v1/items/{item}"),
        ("/api/v1/items/secret", "POST", 405, "/api/v1/items/{item}"),
        ("/again/v1/items/secret", "GET", 200, "/again/v1/items/{item}"),
        ("/sub/secret/api/v1/items/secret", "GET", 200, "/sub/{tenant}/api/v1/items/{item}"),
        ("/sub/secret/secret", "GET", 404, "/sub/{tenant}/{path}"),
        ("/included/secret/in/secret", "GET", 200, "/included/{tenant}/in/{thing}"),
        ("/included/secret/secret", "GET", 404, "/included/{tenant}/{path}"),
        ("/included/plain/secret", "GET", 200, "/included/plain/{x}"),
        ("/secret", "GET", 404, "<unmatched>"),
        ("/openapi.json", "GET", 200, "/openapi.json"),
    ],
)
def test_routes_of_fastapi_have_the_prefixes_of_their_routers(
    counts: Read, path: str, method: str, status: int, route: str
) -> None:
    app = fast()
    app.mount("/sub/{tenant}", fast())
    mounting = APIRouter()
    mounting.add_route("/plain/{x}", hello)
    mounting.mount("/{tenant}", inner())
    app.include_router(mounting, prefix="/included")
    app.add_middleware(ShmStatsMiddleware)
    assert AsgiCall(app, path, method).status == status
    assert counts().of("http_requests", route=route, status=str(status)) == counts().of("http_requests") == 1


def test_the_route_of_an_older_starlette_is_found_by_its_endpoint(counts: Read) -> None:
    async def respond(scope: Any, receive: Any, send: Any) -> None:
        scope.pop("route", None)  # removes the key of newer versions
        await PlainTextResponse("hello")(scope, receive, send)

    class Endpoint:
        def __init__(self, scope: Any, receive: Any, send: Any) -> None:
            self.answer = respond(scope, receive, send)

        def __await__(self) -> Any:
            return self.answer.__await__()

    routes = [Route("/one/{x}", Endpoint), Route("/other/{x}", Endpoint)]
    app = Starlette(routes=[*routes, Mount("/sub/{y}", Starlette(routes=routes[:1]))])
    for path in ("/one/secret", "/other/secret", "/sub/secret/one/secret"):
        AsgiCall(ShmStatsMiddleware(app), path)
    assert counts().values_of("route") == {"/one/{x}", "/other/{x}", "/sub/{y}/one/{x}"}


def test_the_route_can_be_set_by_the_application_or_a_callable(counts: Read) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["shmstats.route"] = "/told/{id}"
        await PlainTextResponse("")(scope, receive, send)

    AsgiCall(ShmStatsMiddleware(app), "/told/5")
    AsgiCall(ShmStatsMiddleware(app, route=lambda scope: scope["path"][:2]), "/b/5")
    assert counts().values_of("route") == {"/told/{id}", "/b"}


def test_a_callable_that_raises_is_logged_once_and_fails_no_request(
    counts: Read, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(scope: Any) -> Any:
        raise RuntimeError("callable")

    app = recorded(Route("/", hello), route=failing, labelnames=["tenant"], label_values=failing)
    for _ in range(3):
        assert AsgiCall(app).body == b"hello"
    assert counts().of("http_requests", route="<unmatched>", tenant="", status="200") == 3
    assert len(caplog.records) == 2


def test_further_labels_come_from_the_scope(counts: Read) -> None:
    app = recorded(
        Route("/{tenant}", hello),
        labelnames=["tenant"],
        label_values=lambda scope: [scope["path_params"]["tenant"]],
    )
    AsgiCall(app, "/a")
    AsgiCall(app, "/b")
    assert counts().of("http_requests", tenant="a") == counts().of("http_request_duration", tenant="b") == 1


def test_excluded_paths_and_routes_are_not_recorded(counts: Read) -> None:
    app = recorded(Route("/items/{x}", hello), Route("/health", hello), exclude=["/health", "/items/{x}", "/static/*"])
    for path in ("/items/3", "/health", "/proxied/health", "/static/x", "/proxied/static/x", "/none"):
        AsgiCall(app, path, root_path="/proxied" if path.startswith("/proxied") else "")
    assert counts().outcomes == (1, 0, 1)
    assert counts().of("http_requests_in_progress") == 0


def test_a_streaming_response_is_in_progress_until_its_last_part_is_sent(counts: Read) -> None:
    seen = []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            seen.append((counts().of("http_requests_in_progress"), counts().outcomes))
            yield b"1234"

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks())

    app = recorded(Route("/", stream))
    call = AsgiCall(app, asgi={"version": "3.0", "spec_version": "2.4"})
    assert call.body == b"1234" * 3
    assert seen == [(1, (0, 0, 0))] * 3
    assert counts().of("http_requests_in_progress") == 0
    assert counts().sum("http_response_size") == 12
    assert counts().outcomes == (1, 1, 0)


def test_work_after_the_response_is_not_part_of_the_request(counts: Read) -> None:
    seen = []

    async def background() -> None:
        seen.append((counts().of("http_requests_in_progress"), counts().outcomes))
        raise ArithmeticError("background")

    async def view(request: Request) -> PlainTextResponse:
        return PlainTextResponse("done", background=BackgroundTask(background))

    AsgiCall(recorded(Route("/", view)))
    assert seen == [(0, (1, 1, 0))]
    assert counts().outcomes == (1, 1, 0)
    assert counts().of("http_exceptions", type="ArithmeticError", route="/") == 1


@pytest.mark.parametrize("outermost", [False, True])
def test_an_exception_of_the_application_is_counted_and_raised(counts: Read, outermost: bool) -> None:
    app: Any = recorded(Route("/fail/{x}", fail))
    if outermost:
        app = ShmStatsMiddleware(Starlette(routes=[Route("/fail/{x}", fail)]))
    call = AsgiCall(app, "/fail/3")
    assert call.status == 500
    assert isinstance(call.error, LookupError)
    assert counts().of("http_requests", route="/fail/{x}", status="500") == 1
    assert counts().of("http_exceptions", route="/fail/{x}", type="LookupError") == 1
    assert counts().outcomes == (1, 0, 1)
    assert counts().of("http_requests_in_progress") == 0


def test_a_response_cut_by_an_exception_keeps_its_status_and_is_failed(counts: Read) -> None:
    AsgiCall(bare(start(), body(b"12", True), raises=ValueError("mid")))
    assert counts().of("http_requests", status="200") == 1
    assert counts().of("http_exceptions", type="ValueError") == 1
    assert counts().outcomes == (1, 0, 1)


def test_an_application_that_returns_too_early_has_failed(counts: Read) -> None:
    AsgiCall(bare())
    AsgiCall(bare(start(), body(b"12", True)))
    assert counts().of("http_requests", status="500") == counts().of("http_requests", status="200") == 1
    assert counts().outcomes == (2, 0, 2)


def test_a_client_that_disconnects_during_a_streaming_response_has_status_499(counts: Read) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.001)

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks())

    call = AsgiCall(recorded(Route("/", stream)), told=[DISCONNECT])
    assert call.status in (200, None)
    assert counts().of("http_requests", status="499") == counts().of("http_requests") == 1
    assert counts().of("http_exceptions") == 0
    assert counts().outcomes == (1, 0, 1)


@pytest.mark.parametrize("when", ["http.response.start", "http.response.body"])
def test_an_error_of_the_server_shows_that_the_client_has_disconnected(counts: Read, when: str) -> None:
    async def broken(message: Any) -> None:
        if message["type"] == when:
            raise ConnectionResetError("gone")

    call = AsgiCall(recorded(Route("/", hello)), send=broken)
    assert isinstance(call.error, ConnectionResetError)
    assert counts().of("http_requests", status="499") == counts().of("http_requests") == 1
    assert counts().of("http_exceptions") == 0


def test_a_client_that_disconnects_during_its_request_has_status_499(counts: Read) -> None:
    async def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    told = [{"type": "http.request", "body": b"1234", "more_body": True}, DISCONNECT]
    AsgiCall(recorded(Route("/", read, methods=["POST"])), method="POST", told=told)
    assert counts().of("http_requests", status="499") == counts().of("http_requests") == 1
    assert counts().sum("http_request_size") == 4
    assert counts().of("http_exceptions") == 0


def test_a_cancelled_task_has_status_499(counts: Read) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        AsgiCall(ShmStatsMiddleware(app))
    assert counts().of("http_requests", status="499") == 1
    assert counts().of("http_exceptions") == 0
    assert counts().of("http_requests_in_progress") == 0


def test_a_disconnect_after_the_response_is_not_counted(counts: Read) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("done")(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass

    AsgiCall(ShmStatsMiddleware(app))
    assert counts().of("http_requests", status="200") == counts().of("http_requests") == 1


def test_a_disconnect_while_the_last_part_is_sent_is_not_counted(counts: Read) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await asyncio.gather(send(body(b"all")), receive())

    async def slow(message: Any) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    AsgiCall(ShmStatsMiddleware(app), told=(), send=slow)
    assert counts().of("http_requests", status="200") == counts().of("http_requests") == 1


def test_a_file_that_the_server_sends_has_its_declared_size(counts: Read, tmp_path: Any) -> None:
    (tmp_path / "file").write_bytes(b"x" * 321)

    async def file(request: Request) -> FileResponse:
        return FileResponse(tmp_path / "file")

    call = AsgiCall(recorded(Route("/", file)), extensions={"http.response.pathsend": {}})
    assert [message["type"] for message in call.sent] == ["http.response.start", "http.response.pathsend"]
    assert counts().sum("http_response_size") == 321
    assert counts().outcomes == (1, 1, 0)


def test_the_body_of_an_answer_to_head_is_not_sent(counts: Read) -> None:
    AsgiCall(recorded(Route("/", hello)), method="HEAD")
    assert counts().of("http_response_size", method="HEAD", route="/") == 1
    assert counts().sum("http_response_size") == 0


def test_a_websocket_is_open_until_it_is_closed_and_then_counted(counts: Read) -> None:
    seen = []

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        seen.append((counts().of("http_websockets_in_progress"), counts().of("http_websockets")))
        assert await websocket.receive_text() == "hi"
        await websocket.send_text("ho")
        await websocket.close()

    async def refuse(websocket: WebSocket) -> None:
        await websocket.close()

    async def crash(websocket: WebSocket) -> None:
        await websocket.accept()
        raise LookupError

    app = recorded(
        WebSocketRoute("/talk/{x}", talk), WebSocketRoute("/refuse", refuse), WebSocketRoute("/crash", crash)
    )
    connect = {"type": "websocket.connect"}
    call = AsgiCall(app, "/talk/secret", type="websocket", told=[connect, {"type": "websocket.receive", "text": "hi"}])
    assert [message["type"] for message in call.sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    AsgiCall(app, "/refuse", type="websocket", told=[connect])
    AsgiCall(app, "/none", type="websocket", told=[connect])
    assert isinstance(AsgiCall(app, "/crash", type="websocket", told=[connect]).error, LookupError)
    now = counts()
    assert seen == [(1, 0)]
    assert now.of("http_websockets", route="/talk/{x}", status="101") == 1
    assert now.of("http_websockets", route="/refuse", status="403") == 1
    assert now.of("http_websockets", route="<unmatched>", status="403") == 1
    assert now.of("http_websockets", route="/crash", status="101") == 1
    assert now.of("http_exceptions", route="/crash", type="LookupError") == 1
    assert now.of("http_websockets_in_progress") == 0
    assert now.outcomes == (0, 0, 0)


def test_lifespan_is_passed_through(counts: Read) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((dict(scope), await receive()))
        await send({"type": "lifespan.startup.complete"})

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
    call = AsgiCall(ShmStatsMiddleware(app), told=[{"type": "lifespan.startup"}], **scope)
    assert call.sent == [{"type": "lifespan.startup.complete"}]
    assert seen[0][0]["type"] == "lifespan"
    assert "shmstats.recorded" not in call.scope
    assert seen[0][1] == {"type": "lifespan.startup"}
    assert counts().outcomes == (0, 0, 0)


def test_the_block_is_left_when_the_application_is_shut_down(counts: Read, tmp_path: Any) -> None:
    app = recorded(Route("/", hello))
    AsgiCall(app)
    saved = tmp_path / "data/stats/simple.json"
    assert not saved.exists()
    told = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    call = AsgiCall(app, type="lifespan", told=told)
    assert [message["type"] for message in call.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert saved.exists()
    AsgiCall(app)
    assert counts().outcomes == (2, 2, 0)


def test_a_request_through_two_middlewares_is_recorded_only_once(counts: Read) -> None:
    AsgiCall(ShmStatsMiddleware(recorded(Route("/", hello))))
    assert counts().outcomes == (1, 1, 0)


def test_the_endpoints_in_an_asgi_application_are_not_recorded(counts: Read) -> None:
    from a2wsgi import WSGIMiddleware

    from shmstats.web import create_app

    app = recorded(Mount("/monitor", WSGIMiddleware(create_app())), Route("/", hello))
    AsgiCall(app)
    call = AsgiCall(app, "/monitor/stats/prometheus")
    assert b'http_requests_total{category="http",method="GET",route="/",status="200"} 1\n' in call.body
    assert counts().outcomes == (1, 1, 0)
    assert counts().of("http_requests_in_progress") == 0


def test_many_tasks_at_once_are_counted_exactly(counts: Read) -> None:
    async def slow(request: Request) -> PlainTextResponse:
        await asyncio.sleep(0)
        return PlainTextResponse("slow")

    app: Callable[..., Awaitable[None]] = recorded(Route("/", slow), Mount("/r", Router([Route("/{x}", slow)])))

    async def one(number: int) -> None:
        path = "/" if number % 2 else f"/r/{number}"
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "root_path": "",
            "headers": [],
            "query_string": b"",
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            await asyncio.sleep(0)

        await app(scope, receive, send)

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(1000)))

    asyncio.run(all_of_them())
    assert counts().of("http_requests", route="/") == counts().of("http_requests", route="/r/{x}") == 500
    assert counts().outcomes == (1000, 1000, 0)
    assert counts().of("http_requests_in_progress") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"app": 5}, r"app must be callable, not int \(5\)"),
        ({"app": None}, "app must be callable, not NoneType"),
        ({"route": 5}, r"route must be callable, not int \(5\)"),
    ],
)
def test_a_wrong_argument_of_the_asgi_middleware_is_an_error_that_names_it(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        ShmStatsMiddleware(**{"app": bare()} | arguments)
