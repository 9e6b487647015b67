"""The Flask extension: routes by their rules, exceptions that Flask handles, endpoints that are not recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from counted import Answer, Counts
from flask import Blueprint, Flask, abort, g, redirect, request, stream_with_context

from shmstats.integrations.flask import ShmStats
from shmstats.integrations.wsgi import ShmStatsMiddleware

pytestmark = pytest.mark.usefixtures("plain_case")

Read = Callable[[], Counts]


def shop() -> Flask:
    """An application with typical views."""
    app = Flask("shop")
    api = Blueprint("api", "api", url_prefix="/api")

    @app.get("/items/<int:item>")
    def item(item: int) -> str:
        return f"item {item}"

    @api.post("/orders/<order>")
    def order(order: str) -> tuple[str, int]:
        return request.get_data(as_text=True) or order, 201

    @app.get("/fail/<kind>")
    def fail(kind: str) -> str:
        raise {"key": KeyError, "value": ValueError, "exit": SystemExit, "zero": ZeroDivisionError}[kind](kind)

    @app.errorhandler(ZeroDivisionError)
    def divided(error: ZeroDivisionError) -> tuple[str, int]:
        return "cannot divide", 422

    @app.get("/teapot")
    def teapot() -> str:
        abort(418)

    @app.get("/stream/<int:fail>")
    def stream(fail: int) -> Any:
        def chunks() -> Iterator[str]:
            yield "one"
            if fail:
                raise OSError("mid")
            yield request.path  # needs the context

        return stream_with_context(chunks())

    app.register_blueprint(api)
    return app


@pytest.fixture
def app(statistics: object) -> Flask:
    app = shop()
    ShmStats(app)
    app.logger.disabled = True
    return app


def test_the_route_is_the_rule_and_never_the_path(app: Flask, counts: Read) -> None:
    for number in range(5):
        assert Answer(app, f"/items/{number}").body == b"item %d" % number
    assert Answer(app, "/api/orders/secret", "POST").body == b"secret"
    assert counts().of("http_requests", method="GET", route="/items/<int:item>", status="200") == 5
    assert counts().of("http_requests", method="POST", route="/api/orders/<order>", status="201") == 1
    assert counts().outcomes == (6, 6, 0)


def test_requests_without_a_matching_rule_share_one_value(app: Flask, counts: Read) -> None:
    for path, method, status in (("/no", "GET", "404"), ("/items/x", "GET", "404"), ("/items/3", "POST", "405"),
                                 ("/items/3", "BREW", "405")):  # fmt: skip
        assert Answer(app, path, method).status.startswith(status)
    assert counts().values_of("route") == {"<unmatched>"}
    assert counts().values_of("method") == {"GET", "POST", "OTHER"}
    assert counts().outcomes == (4, 0, 4)


def test_head_and_options_are_requests_to_their_route(app: Flask, counts: Read) -> None:
    head = Answer(app, "/items/3", "HEAD")
    assert (head.body, dict(head.headers)["Content-Length"]) == (b"", "6")
    assert "GET" in dict(Answer(app, "/items/3", "OPTIONS").headers)["Allow"]
    for method in ("HEAD", "OPTIONS"):
        assert counts().of("http_requests", method=method, route="/items/<int:item>", status="200") == 1
    assert counts().sum("http_response_size") == 0


def test_redirects_and_aborts_are_not_counted_as_exceptions(app: Flask, counts: Read) -> None:
    app.add_url_rule("/old", "old", view_func=lambda: redirect("/items/1"))
    app.add_url_rule("/slash/", "slash", view_func=lambda: "slash")
    for path, status in (("/old", "302"), ("/slash", "308"), ("/teapot", "418"), ("/fail/zero", "422")):
        Answer(app, path)
        assert counts().of("http_requests", status=status) == 1
    assert counts().of("http_exceptions") == 0
    assert counts().outcomes == (4, 2, 2)


def test_an_exception_that_flask_handles_is_counted_once_by_type_and_route(app: Flask, counts: Read) -> None:
    for kind in ("key", "value", "value"):
        assert Answer(app, f"/fail/{kind}").status.startswith("500")
    now = counts()
    assert now.of("http_exceptions", type="ValueError", route="/fail/<kind>") == 2
    assert now.of("http_exceptions") == 3
    assert now.of("http_requests", route="/fail/<kind>", status="500") == 3
    assert now.outcomes == (3, 0, 3)


def test_an_exception_that_flask_raises_is_counted_once(app: Flask, counts: Read) -> None:
    app.testing = True
    with pytest.raises(ValueError, match="value"):
        Answer(app, "/fail/value")
    assert counts().of("http_exceptions") == 1
    assert counts().of("http_requests", route="/fail/<kind>", status="500") == 1
    assert counts().of("http_requests_in_progress") == 0


def test_the_route_of_a_request_that_ended_the_worker_is_known(app: Flask, counts: Read) -> None:
    with pytest.raises(SystemExit):
        Answer(app, "/fail/exit")
    assert counts().of("http_exceptions", type="SystemExit", route="/fail/<kind>") == 1
    assert counts().of("http_requests", route="/fail/<kind>", status="500") == 1


def test_an_error_in_a_hook_before_the_view_has_the_route(app: Flask, counts: Read) -> None:
    @app.before_request
    def refuse() -> None:
        abort(403)

    Answer(app, "/items/3")
    assert counts().of("http_requests", route="/items/<int:item>", status="403") == 1


def test_a_stream_with_context_is_recorded_at_its_end(app: Flask, counts: Read) -> None:
    assert Answer(app, "/stream/0").body == b"one/stream/0"
    assert counts().sum("http_response_size", route="/stream/<int:fail>") == len("one/stream/0")
    with pytest.raises(OSError, match="mid"):
        Answer(app, "/stream/1")
    assert counts().of("http_exceptions", type="OSError", route="/stream/<int:fail>") == 1
    Answer(app, "/stream/0", chunks=1)
    assert counts().of("http_requests", route="/stream/<int:fail>", status="499") == 1
    assert counts().outcomes == (3, 1, 2)


def test_the_endpoints_are_mounted_and_not_recorded_nor_in_progress(app: Flask, counts: Read) -> None:
    Answer(app, "/items/1")
    text = Answer(app, "/stats/prometheus").body.decode()
    assert 'http_requests_total{category="http",method="GET",route="/items/<int:item>",status="200"} 1\n' in text
    assert 'http_requests_in_progress{category="http"} 0\n' in text
    for path in ("/stats", "/stats/none", "/debug/threads", "/_local/files/_list"):
        Answer(app, path, REMOTE_ADDR="192.0.2.1")
    assert counts().outcomes == (1, 1, 0)
    assert counts().of("http_requests_in_progress") == 0


def test_the_endpoints_can_be_moved_or_left_out(counts: Read) -> None:
    moved, without, own = shop(), shop(), shop()
    ShmStats(moved, url_prefix="/monitor")
    assert Answer(moved, "/monitor/stats").status == "200 OK"
    ShmStats(without, endpoints=False)
    assert Answer(without, "/stats").status == "404 NOT FOUND"
    from shmstats.web import blueprint

    own.register_blueprint(blueprint)
    ShmStats(own)
    assert Answer(own, "/stats").status == "200 OK"
    assert counts().outcomes == (1, 0, 1)


def test_rules_and_paths_can_be_excluded(counts: Read) -> None:
    app = shop()
    ShmStats(app, exclude=["/items/<int:item>", "/api/*", "/teapot"])
    for path, method in (
        ("/items/3", "GET"),
        ("/api/orders/3", "POST"),
        ("/teapot", "GET"),
        ("/none", "GET"),
    ):
        Answer(app, path, method)
    assert counts().outcomes == (1, 0, 1)
    assert counts().values_of("route") == {"<unmatched>"}


def test_one_extension_serves_several_applications(counts: Read) -> None:
    extension = ShmStats(exclude=iter(["/teapot"]), buckets=iter([5.0, 50.0]))  # type: ignore[arg-type]
    apps = [shop(), shop()]
    for app in apps:
        extension.init_app(app)
        assert app.extensions["shmstats"] is extension
        Answer(app, "/items/3")
        Answer(app, "/teapot")
    assert counts().outcomes == (2, 2, 0)


def test_an_application_can_be_initialised_only_once(app: Flask) -> None:
    with pytest.raises(ValueError, match="'shop' has the extension"):
        ShmStats(app)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"app": 5}, TypeError, r"app must be a Flask application, not int \(5\)"),
        ({"url_prefix": "x"}, ValueError, "url_prefix must begin with '/', not 'x'"),
        ({"url_prefix": 5}, TypeError, r"url_prefix must be a str or None, not int \(5\)"),
        ({"labelnames": 5, "label_values": list}, TypeError, "labelnames"),
        ({"exclude": 5}, TypeError, r"exclude must be a sequence of str, not int \(5\)"),
        ({"buckets": 5}, TypeError, "buckets must be a sequence of numbers"),
    ],
)
def test_a_wrong_argument_of_the_extension_is_an_error_that_names_it(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ShmStats(**{"app": shop()} | arguments)


def test_further_labels_are_computed_in_the_context_of_the_request(counts: Read) -> None:
    app = shop()
    app.logger.disabled = True
    ShmStats(app, labelnames=["tenant", "user"], label_values=lambda request: (request.headers["X-Tenant"], g.user))

    @app.before_request
    def login() -> None:
        g.user = request.args.get("user", "nobody")

    Answer(app, "/items/3", QUERY_STRING="user=ann", HTTP_X_TENANT="a")
    Answer(app, "/none", HTTP_X_TENANT="b")
    Answer(app, "/fail/key", HTTP_X_TENANT="c")
    Answer(app, "/stream/0", HTTP_X_TENANT="d")
    Answer(app, "/items/3")  # the label function fails
    now = counts()
    assert now.of("http_requests", tenant="a", user="ann", route="/items/<int:item>") == 1
    for tenant, status in (("b", "404"), ("c", "500"), ("d", "200")):
        assert now.of("http_requests", tenant=tenant, user="nobody", status=status) == 1
    assert now.of("http_requests", tenant="", user="") == 1
    app.testing = True
    with pytest.raises(KeyError):
        Answer(app, "/fail/key", HTTP_X_TENANT="e")
    assert counts().of("http_requests", tenant="e", status="500") == 1


def test_a_middleware_around_a_flask_application_finds_its_rules(counts: Read) -> None:
    from shmstats.web import blueprint

    app = shop()
    app.register_blueprint(blueprint)
    app.logger.disabled = True
    around: Any = ShmStatsMiddleware(app)
    for path in ("/items/3", "/fail/key", "/none", "/stats"):
        Answer(around, path)
    assert counts().values_of("route") == {"/items/<int:item>", "/fail/<kind>", "<unmatched>"}
    assert counts().outcomes == (3, 1, 2)


def test_the_middleware_and_the_extension_together_record_a_request_once(app: Flask, counts: Read) -> None:
    Answer(ShmStatsMiddleware(app), "/items/3")
    assert counts().outcomes == (1, 1, 0)
    assert counts().of("http_requests", route="/items/<int:item>") == 1


def test_the_test_client_of_flask_works(app: Flask, counts: Read) -> None:
    with app.test_client() as client:
        answer = client.get("/items/3")
        assert answer.text == "item 3"
        assert request.url_rule is not None
        assert request.url_rule.rule == "/items/<int:item>"
    assert counts().of("http_requests", route="/items/<int:item>", status="200") == 1


def test_async_views_are_recorded(app: Flask, counts: Read) -> None:
    @app.get("/async")
    async def view() -> str:
        return "async"

    assert Answer(app, "/async").body == b"async"
    assert counts().of("http_requests", route="/async", status="200") == 1


def test_the_memory_for_requests_is_bounded_for_any_input(app: Flask, counts: Read) -> None:
    before = len(counts()._values)
    for number in range(300):
        Answer(app, f"/{number}", f"M{number}", HTTP_HOST=f"h{number}", QUERY_STRING=f"q={number}")
    assert counts().outcomes == (300, 0, 300)
    assert len(counts()._values) - before <= 4 + 6
