"""The WSGI middleware: the metrics of a request, and the unchanged answer of the application."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest
from counted import Answer, Counts

from shmstats import Registry
from shmstats.integrations.wsgi import ShmStatsMiddleware

pytestmark = pytest.mark.usefixtures("plain_case")

Read = Callable[[], Counts]
Recorded = dict[str, str]

HEADERS = [("Content-Type", "text/plain")]


def answering(*chunks: bytes, status: str = "200 OK") -> Any:
    """An application that answers all requests so."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, HEADERS)
        return list(chunks)

    return app


def streaming(chunks: Iterator[bytes], status: str = "200 OK") -> Any:
    """An application whose answer is an iterator."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response(status, HEADERS)
        return chunks

    return app


def test_a_request_is_recorded_with_method_status_sizes_and_duration(counts: Read) -> None:
    app = ShmStatsMiddleware(answering(b"hel", b"lo"))
    Answer(app, method="POST", CONTENT_LENGTH="120")
    now = counts()
    labels = {"method": "POST", "route": "<unmatched>"}
    assert now.of("http_requests", status="200", **labels) == 1
    assert now.of("http_request_duration", **labels) == 1
    assert 0 < now.sum("http_request_duration", **labels) < 10_000
    assert now.sum("http_request_size", **labels) == 120
    assert now.sum("http_response_size", **labels) == 5
    assert now.of("http_requests_in_progress") == 0
    assert now.outcomes == (1, 1, 0)


@pytest.mark.parametrize(("status", "failed"), [("204", 0), ("302", 0), ("404", 1), ("503", 1)])
def test_errors_of_client_and_server_are_failed_requests(counts: Read, status: str, failed: int) -> None:
    Answer(ShmStatsMiddleware(answering(status=f"{status} So")))
    assert counts().of("http_requests", status=status) == 1
    assert counts().outcomes == (1, 1 - failed, failed)


def test_a_status_that_is_not_a_number_is_other_and_failed(counts: Read) -> None:
    Answer(ShmStatsMiddleware(answering(status="fine")))
    assert counts().of("http_requests", status="OTHER") == 1
    assert counts().outcomes == (1, 0, 1)


def test_the_answer_of_the_application_is_not_changed(counts: Read) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", HEADERS)
        write(b"written ")
        return [b"and ", b"returned"]

    answer = Answer(ShmStatsMiddleware(app))
    assert answer.body == b"written and returned"
    assert (answer.status, answer.headers) == ("200 OK", HEADERS)
    assert counts().sum("http_response_size") == len(answer.body)


def test_server_and_application_each_get_valid_wsgi(counts: Read) -> None:
    app = validator(ShmStatsMiddleware(validator(answering(b"one", b"two"))))
    environ = {"wsgi.version": (1, 0), "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
               "wsgi.multithread": False, "wsgi.multiprocess": False, "wsgi.run_once": False,
               "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1"}  # fmt: skip
    # The checker is strict: the environment of a server must be a dict with all these keys.
    environ |= {"wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO()}
    assert Answer(app, **environ).body == b"onetwo"
    assert counts().outcomes == (1, 1, 0)


def test_a_server_can_see_that_a_body_has_one_chunk(counts: Read) -> None:
    answer = Answer(ShmStatsMiddleware(answering(b"only")))
    assert len(answer.response) == 1
    assert not hasattr(Answer(ShmStatsMiddleware(streaming(iter([b"a"])))).response, "__len__")
    assert counts().outcomes == (2, 2, 0)


def test_a_response_can_be_used_as_an_iterator(counts: Read) -> None:
    app = ShmStatsMiddleware(streaming(iter([b"a", b"b"])))
    response = app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
    assert [next(response), next(response), next(response, None)] == [b"a", b"b", None]  # type: ignore[call-overload]
    assert counts().outcomes == (1, 1, 0)


def test_a_second_iteration_continues_with_the_second_chunk(counts: Read) -> None:
    response = ShmStatsMiddleware(answering(b"a", b"b"))({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
    chunks = iter(response)
    assert next(chunks) == b"a"
    assert list(chunks) == [b"b"]
    assert counts().sum("http_response_size") == 2


def test_a_streaming_response_is_in_progress_until_it_ends(counts: Read) -> None:
    seen = []

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            seen.append((counts().of("http_requests_in_progress"), counts().outcomes))
            yield b"1234"

    Answer(ShmStatsMiddleware(streaming(chunks())))
    assert seen == [(1, (0, 0, 0))] * 3
    assert counts().of("http_requests_in_progress") == 0
    assert counts().sum("http_response_size") == 12
    assert counts().outcomes == (1, 1, 0)


def test_a_response_that_is_closed_early_has_status_499(counts: Read) -> None:
    closed = []

    class Chunks:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"12", b"34", b"56"])

        def close(self) -> None:
            closed.append(True)

    Answer(ShmStatsMiddleware(streaming(Chunks())), chunks=2)  # type: ignore[arg-type]
    assert closed == [True]
    assert counts().of("http_requests", status="499") == counts().of("http_requests") == 1
    assert counts().sum("http_response_size") == 4
    assert counts().outcomes == (1, 0, 1)
    assert counts().of("http_exceptions") == 0


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
)
def test_a_server_need_not_read_a_body_that_it_does_not_send(counts: Read, method: str, status: str) -> None:
    Answer(ShmStatsMiddleware(answering(b"", status=status)), method=method, chunks=0)
    assert counts().of("http_requests", method=method, status=status[:3]) == 1


def test_the_body_of_an_answer_to_head_is_not_sent(counts: Read) -> None:
    Answer(ShmStatsMiddleware(answering(b"x" * 100)), method="HEAD")
    assert counts().of("http_response_size", method="HEAD") == 1
    assert counts().sum("http_response_size") == 0


def test_an_exception_of_the_application_is_counted_and_raised(counts: Read) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        Answer(ShmStatsMiddleware(app))
    assert counts().of("http_requests", status="500") == 1
    assert counts().of("http_exceptions", type="LookupError", route="<unmatched>") == 1
    assert counts().of("http_requests_in_progress") == 0
    assert counts().outcomes == (1, 0, 1)


def test_an_exception_of_a_library_is_counted_with_its_module(counts: Read) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise io.UnsupportedOperation

    with pytest.raises(io.UnsupportedOperation):
        Answer(ShmStatsMiddleware(app))
    assert counts().values_of("type", "http_exceptions") == {"io.UnsupportedOperation"}


def test_the_end_of_a_worker_in_a_request_is_counted(counts: Read) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        Answer(ShmStatsMiddleware(app))
    assert counts().of("http_exceptions", type="SystemExit") == 1
    assert counts().of("http_requests", status="500") == 1


@pytest.mark.parametrize(("before", "status"), [([], "500"), ([b""], "500"), ([b"", b"12"], "200")])
def test_a_generator_that_raises_has_the_status_that_the_client_saw(
    counts: Read, before: list[bytes], status: str
) -> None:
    def chunks() -> Iterator[bytes]:
        yield from before
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        Answer(ShmStatsMiddleware(streaming(chunks())))
    assert counts().of("http_requests", status=status) == 1
    assert counts().of("http_exceptions", type="ArithmeticError") == 1
    assert counts().outcomes == (1, 0, 1)


def test_a_truncated_response_does_not_make_complete_ones_failures(counts: Read) -> None:
    def chunks(fail: bool) -> Iterator[bytes]:
        yield b"12"
        if fail:
            raise ArithmeticError

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        return chunks(environ["PATH_INFO"] == "/fail")

    recorded = ShmStatsMiddleware(app)
    for path in ("/", "/fail", "/", "/fail", "/"):
        if path == "/fail":
            with pytest.raises(ArithmeticError):
                Answer(recorded, path)
        else:
            Answer(recorded, path)
    assert counts().of("http_requests", status="200") == 5
    assert counts().outcomes == (5, 3, 2)


def test_a_response_without_a_status_is_a_server_error(counts: Read) -> None:
    Answer(ShmStatsMiddleware(lambda environ, start_response: [b"no status"]))
    assert counts().of("http_requests", status="500") == 1


def test_an_error_page_in_place_of_a_begun_response_has_its_own_status(counts: Read) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        start_response("502 Bad Gateway", HEADERS, (ValueError, ValueError(), None))
        return [b"sorry"]

    assert Answer(ShmStatsMiddleware(app)).status == "502 Bad Gateway"
    assert counts().of("http_requests", status="502") == counts().of("http_requests") == 1


class FileWrapper:
    """A file that a server sends by itself, recognised by its type."""

    def __init__(self, file: Any, size: int = 8192) -> None:
        self.file = file
        self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.file)


def test_a_file_for_the_server_to_send_is_passed_on_unchanged(counts: Read) -> None:
    file = io.BytesIO(b"x" * 500)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("content-Length", "500")])
        return environ["wsgi.file_wrapper"](file)

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.file_wrapper": FileWrapper}
    response: Any = ShmStatsMiddleware(app)(environ, lambda *_: None)
    assert type(response) is FileWrapper
    assert counts().of("http_requests_in_progress") == 1
    response.close()
    assert file.closed
    assert counts().of("http_requests_in_progress") == 0
    assert counts().sum("http_response_size") == 500
    assert counts().outcomes == (1, 1, 0)


def test_a_marker_object_for_the_server_is_passed_on_unchanged(counts: Read) -> None:
    handled = object()
    app = ShmStatsMiddleware(lambda environ, start_response: handled)  # type: ignore[arg-type, return-value]
    assert app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None) is handled
    assert counts().of("http_requests_in_progress") == 0


@pytest.mark.parametrize("method", ["BREW", "get", "", "X" * 300, "\udcff"])
def test_an_unknown_method_is_recorded_as_other(counts: Read, method: str) -> None:
    Answer(ShmStatsMiddleware(answering(b"")), method=method)
    assert counts().values_of("method") == {"OTHER"}


@pytest.mark.parametrize("claim", ["-1", "many", str(2**41), str(2**70), "9" * 5000])
def test_an_implausible_size_is_left_out(counts: Read, claim: str) -> None:
    app = ShmStatsMiddleware(answering(b""))
    Answer(app, CONTENT_LENGTH=claim)
    Answer(app, HTTP_TRANSFER_ENCODING="chunked")
    assert counts().of("http_request_size") == 0
    Answer(app, CONTENT_LENGTH="")
    assert counts().of("http_request_size") == 1
    assert counts().outcomes == (3, 3, 0)


def test_the_route_can_be_set_by_the_application_or_a_callable(counts: Read) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["shmstats.route"] = "/told/{id}"
        start_response("200 OK", HEADERS)
        return [b""]

    Answer(ShmStatsMiddleware(app), "/told/5")
    Answer(ShmStatsMiddleware(app, route=lambda environ: "/" + environ["PATH_INFO"].split("/")[1]), "/b/7")
    Answer(ShmStatsMiddleware(app, route=lambda environ: ""), "/c/7")
    assert counts().values_of("route") == {"/told/{id}", "/b", "<unmatched>"}


@pytest.mark.parametrize(
    ("route", "label"),
    [("/\0", "/?"), ("/\ud800", "/?"), ("/" + "ä" * 200, "/" + "ä" * 117 + "...a29865fda7f14bd7")],
)
def test_any_text_can_be_a_route(counts: Read, route: str, label: str) -> None:
    Answer(ShmStatsMiddleware(answering(b""), route=lambda environ: route))
    assert counts().values_of("route") == {label}


def test_a_callable_that_raises_is_logged_once_and_fails_no_request(
    counts: Read, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(environ: dict[str, Any]) -> Any:
        raise RuntimeError("callable")

    app = ShmStatsMiddleware(answering(b"fine"), route=fail, labelnames=["tenant"], label_values=fail)
    for _ in range(3):
        assert Answer(app).body == b"fine"
    assert counts().of("http_requests", route="<unmatched>", tenant="") == 3
    assert len([record for record in caplog.records if "route" in record.message]) == 1
    assert len([record for record in caplog.records if "labels" in record.message]) == 1


@pytest.mark.parametrize("values", ["ab", ["one"], ["one", "two", "three"], None])
def test_label_values_must_be_as_many_as_names(counts: Read, values: Any) -> None:
    app = ShmStatsMiddleware(answering(b""), labelnames=["a", "b"], label_values=lambda environ: values)
    Answer(app)
    assert counts().of("http_requests", a="", b="") == 1


def test_further_labels_are_on_all_metrics_of_a_request(counts: Read) -> None:
    app = ShmStatsMiddleware(
        answering(b"abc"),
        labelnames=["tenant", "plan"],
        label_values=lambda environ: (environ["HTTP_X_TENANT"], "free"),
    )
    for tenant in ("a", "b", "a"):
        Answer(app, HTTP_X_TENANT=tenant)
    assert counts().of("http_requests", tenant="a", plan="free", status="200") == 2
    for metric in ("http_request_duration", "http_request_size", "http_response_size"):
        assert counts().of(metric, tenant="a", plan="free") == 2
        assert counts().of(metric, tenant="b", plan="free") == 1


def test_excluded_paths_and_routes_are_not_recorded(counts: Read) -> None:
    app = ShmStatsMiddleware(
        answering(b""),
        route=lambda environ: "/items/{id}" if environ["PATH_INFO"].startswith("/items/") else "/other",
        exclude=["/health", "/static/*", "/items/{id}"],
    )
    for path in ("/health", "/static/a/b.css", "/items/4", "/health/deep", "/statics"):
        Answer(app, path)
    assert counts().of("http_requests") == 2
    assert counts().values_of("route") == {"/other"}
    assert counts().outcomes == (2, 2, 0)
    assert counts().of("http_requests_in_progress") == 0


def test_an_excluded_path_is_not_in_progress(counts: Read) -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(counts().of("http_requests_in_progress"))
        start_response("200 OK", HEADERS)
        return [b""]

    recorded = ShmStatsMiddleware(app, exclude=["/health"])
    for path in ("/health", "/", "/health"):
        Answer(recorded, path)
    assert seen == [0, 1, 0]


def test_exceptions_of_an_excluded_route_are_not_counted(counts: Read) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["shmstats.route"] = "/quiet"
        raise ValueError("quiet")

    with pytest.raises(ValueError, match="quiet"):
        Answer(ShmStatsMiddleware(app, exclude=["/quiet"]), "/x")
    assert counts().of("http_exceptions") == counts().of("http_requests") == 0


def test_a_request_through_two_middlewares_is_recorded_only_once(counts: Read) -> None:
    Answer(ShmStatsMiddleware(ShmStatsMiddleware(answering(b"abc"))))
    assert counts().outcomes == (1, 1, 0)
    assert counts().of("http_requests") == 1


def test_applications_can_be_separated_by_category(counts: Read) -> None:
    Answer(ShmStatsMiddleware(answering(b""), category="shop"))
    Answer(ShmStatsMiddleware(answering(b""), category="admin"))
    assert counts().of("http_requests", "shop") == counts().of("http_requests", "admin") == 1
    assert counts().outcomes == (2, 2, 0)


def test_requests_of_threads_are_counted_exactly(counts: Read) -> None:
    app = ShmStatsMiddleware(answering(b"12345"))

    def run() -> None:
        for _ in range(200):
            Answer(app)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = counts()
    assert now.outcomes == (1600, 1600, 0)
    assert now.of("http_requests") == now.of("http_request_duration") == 1600
    assert now.sum("http_response_size") == 8000
    assert now.of("http_requests_in_progress") == 0


def test_buckets_can_be_configured(counts: Read, statistics: Registry) -> None:
    Answer(ShmStatsMiddleware(answering(b""), buckets=(20, 500)))
    (name,) = {name for name in statistics.read().names if name.metric == "http_request_duration"}
    assert name.bounds == (20.0, 500.0)


def test_requests_are_recorded_if_the_metrics_are_declared_differently(
    counts: Read, statistics: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    statistics.declare("http", "http_request_duration", kind="histogram", buckets=(1, 2))
    app = ShmStatsMiddleware(answering(b"fine"))
    for _ in range(3):
        assert Answer(app).body == b"fine"
    assert counts().outcomes == (3, 3, 0)
    assert counts().of("http_request_duration") == 3
    told = [record.message for record in caplog.records if "http_request_duration" in record.message]
    assert len(told) == 1


def test_an_application_that_uses_the_name_for_another_metric_works(
    counts: Read, statistics: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    statistics.gauge("http", "http_requests_in_progress", 7.5)
    statistics.timing("http", "http_requests", 12)
    app = ShmStatsMiddleware(answering(b"fine"))
    for _ in range(3):
        assert Answer(app).body == b"fine"
    assert 1 <= len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 6
    assert counts().outcomes == (3, 3, 0)


def test_nothing_is_recorded_if_statistics_are_disabled(counts: Read, statistics: Registry) -> None:
    statistics.init({"stats": {"enabled": False}})
    app = ShmStatsMiddleware(answering(b"fine"))
    assert Answer(app).body == b"fine"
    assert statistics.snapshot() == {}


def test_an_import_and_a_middleware_attach_nothing(python: Any, data: Any) -> None:
    python.run("""
        import os
        from shmstats import stats
        from shmstats.integrations.flask import ShmStats
        from shmstats.integrations.wsgi import ShmStatsMiddleware
        import flask
        ShmStats(flask.Flask("x"))
        ShmStatsMiddleware(lambda environ, start_response: [])
        assert not stats.configured
    """)
    assert not data.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labelnames": ["a"]}, ValueError, "labelnames and label_values"),
        ({"label_values": list}, ValueError, "labelnames and label_values"),
        ({"labelnames": ["status"], "label_values": list}, ValueError, "'status'"),
        ({"labelnames": ["le"], "label_values": list}, ValueError, "'le'"),
        ({"labelnames": ["9"], "label_values": list}, ValueError, "'9'"),
        ({"labelnames": ["a"], "label_values": "b"}, TypeError, "label_values"),
        ({"app": 5}, TypeError, r"app must be callable, not int \(5\)"),
        ({"app": None}, TypeError, "app must be callable, not NoneType"),
        ({"route": "x"}, TypeError, "route must be callable, not str"),
        ({"exclude": 5}, TypeError, r"exclude must be a sequence of str, not int \(5\)"),
        ({"exclude": "/health"}, TypeError, "exclude"),
        ({"exclude": [b"/health"]}, TypeError, "exclude"),
        ({"category": "system"}, ValueError, "'system'"),
        ({"category": ""}, ValueError, "category"),
        ({"buckets": (2, 1)}, ValueError, "ascending"),
        ({"buckets": ()}, ValueError, "1 to 250"),
        ({"buckets": range(251)}, ValueError, "1 to 250"),
        ({"buckets": (True,)}, TypeError, "number"),
        ({"buckets": (1, float("nan"))}, ValueError, "finite"),
    ],
)
def test_a_wrong_argument_of_the_wsgi_middleware_is_an_error_that_names_it(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ShmStatsMiddleware(**{"app": answering()} | arguments)


def test_if_no_answer_has_a_route_one_log_line_says_what_to_do(counts: Read, caplog: pytest.LogCaptureFixture) -> None:
    app = ShmStatsMiddleware(answering())
    for _ in range(250):
        Answer(app)
    assert [record.getMessage() for record in caplog.records if "route=" in record.getMessage()] == [
        "none of the first 100 answers below 400 has a route: all are counted as <unmatched>. Tell the middleware the"
        " route, by its argument route= or as 'shmstats.route' in the environment or scope; docs/web-frameworks.md of"
        " the package has the lines for your framework"
    ]
    assert counts().of("http_requests", route="<unmatched>") == 250


def test_if_some_answers_have_a_route_nothing_is_logged_of_others(
    counts: Read, caplog: pytest.LogCaptureFixture
) -> None:
    app = ShmStatsMiddleware(answering(), route=lambda environ: "/one" if environ["PATH_INFO"] == "/one" else "")
    for number in range(250):
        Answer(app, PATH_INFO="/one" if number == 50 else "/other")
    assert not caplog.records
    assert counts().of("http_requests", route="<unmatched>") == 249


def test_start_response_may_be_called_by_keywords(counts: Read) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(headers=HEADERS, status="201 Created")
        return [b"made"]

    answer = Answer(ShmStatsMiddleware(app))
    assert (answer.status, answer.headers, answer.body) == ("201 Created", HEADERS, b"made")
    assert counts().of("http_requests", status="201") == 1


@pytest.mark.parametrize("by_position", range(3))
def test_the_server_gets_the_arguments_of_start_response_unchanged(counts: Read, by_position: int) -> None:
    given = {"status": "201 Created", "headers": HEADERS}
    positions, keywords = list(given.values())[:by_position], dict(list(given.items())[by_position:])
    got = []

    def start_response(*positions: Any, **keywords: Any) -> Any:
        got.append((list(positions), keywords))
        return [].append

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(*positions, **keywords, exc_info=None)
        with pytest.raises(TypeError, match="takes a status and headers"):
            start_response(status="404 Not Found")
        return [b"made"]

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    assert list(ShmStatsMiddleware(app)(environ, start_response)) == [b"made"]
    assert got == [(positions, {**keywords, "exc_info": None})]
    assert counts().of("http_requests", status="201") == 1


def test_the_function_that_start_response_returns_accepts_keywords(counts: Read) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", HEADERS)
        write(data=b"by a keyword")
        with pytest.raises(TypeError, match="data"):
            write()
        return []

    assert Answer(ShmStatsMiddleware(app)).body == b"by a keyword"
    assert counts().sum("http_response_size", route="<unmatched>") == 12


@pytest.mark.parametrize("status", [200, b"200 OK", object()])
def test_a_response_whose_status_is_not_a_string_can_be_closed_early(counts: Read, status: Any) -> None:
    closed = []

    class Chunks:
        def __iter__(self) -> Iterator[bytes]:
            yield b"one"

        def close(self) -> None:
            closed.append(True)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, HEADERS)
        return Chunks()

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": ""}
    ShmStatsMiddleware(app)(environ, lambda *_: print).close()  # type: ignore[attr-defined]
    assert closed == [True]
    now = counts()
    assert now.of("http_requests", method="GET", route="<unmatched>") == 1
    assert now.of("http_requests_in_progress") == 0


def test_a_request_is_answered_if_reading_its_rule_raises(counts: Read) -> None:
    class Request:
        @property
        def url_rule(self) -> None:
            raise RuntimeError("no request is here")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["werkzeug.request"] = Request()
        start_response("200 OK", HEADERS)
        return [b"well"]

    assert Answer(ShmStatsMiddleware(app)).body == b"well"
    assert counts().of("http_requests", status="200", route="<unmatched>") == 1


def test_a_request_that_cannot_be_recorded_leaves_nothing_in_progress(counts: Read) -> None:
    app = ShmStatsMiddleware(answering(b"x"))
    for _ in range(2):
        list(app({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": None}, lambda *_: lambda _: None))
    assert counts().of("http_requests_in_progress") == 0
