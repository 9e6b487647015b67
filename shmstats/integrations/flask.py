"""Statistics of a Flask application, by an extension: ``ShmStats(app)``.

It is a WSGI middleware inside the application (`shmstats.integrations.wsgi`), so it sees everything: answers of
error handlers, redirects of the router, streamed responses. It needs no hook at each request: werkzeug leaves the
request with its URL rule in the environment, and the signal ``got_request_exception`` reports exceptions answered with
500.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, got_request_exception, request

from ..web import blueprint
from .wsgi import ShmStatsMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from flask import Response

__all__ = ["ShmStats"]

#: Keys of the environment for the values of the further labels, and for the exception that was counted.
_LABELS = "shmstats.handles"
_COUNTED = "shmstats.exception"


class ShmStats:
    """Records the requests to a Flask application, and mounts the statistics endpoints in it.

    Args:
        app: the application; None to give it to `init_app` later.
        endpoints: whether to mount the endpoints (`shmstats.web.blueprint`).
        url_prefix: prefix of their paths.
        labelnames: names of further labels.
        label_values: returns their values, in that order, for the request, within its context.
        exclude: paths and URL rules that are not recorded; a ``*`` at the end matches anything.
        category: of the metrics.
        buckets: upper bounds of the latency histogram in ms; None for exponential ones.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed, or the application already has this extension.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        endpoints: bool = True,
        url_prefix: str | None = None,
        labelnames: Sequence[str] = (),
        label_values: Callable[[Request], Sequence[str]] | None = None,
        exclude: Iterable[str] = (),
        category: str = "http",
        buckets: Sequence[float] | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._url_prefix = _check_prefix(url_prefix)
        options = {
            "labelnames": labelnames,
            "label_values": label_values,
            "exclude": exclude,
            "category": category,
            "buckets": buckets,
        }
        # An iterator could be read only once, but there may be several applications.
        self._options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, Iterator) else value for name, value in options.items()
        }
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Record the requests to an application.

        Args:
            app: the application.

        Raises:
            TypeError: an argument of the extension is of the wrong type.
            ValueError: an argument is not allowed, or the application already has this extension.
        """
        if not isinstance(app, Flask):
            raise TypeError(f"app must be a Flask application, not {type(app).__name__} ({app!r:.80})")
        if "shmstats" in app.extensions:
            raise ValueError(f"the application {app.name!r} has the extension shmstats already")
        middleware = _FlaskMiddleware(app.wsgi_app, **self._options)
        if self._endpoints and blueprint.name not in app.blueprints:
            app.register_blueprint(blueprint, url_prefix=self._url_prefix)
        own = {rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("shmstats.")}
        middleware.requests.paths |= own
        middleware.requests.prefixes += tuple({path for rule in own if (path := rule.partition("<")[0])[-1:] == "/"})
        got_request_exception.connect(middleware.note_exception, app)
        if self._options["labelnames"]:
            app.after_request(middleware.note_labels)
        app.wsgi_app = middleware  # type: ignore[method-assign]
        app.extensions["shmstats"] = self


def _check_prefix(url_prefix: object) -> str | None:
    if url_prefix is None:
        return None
    if not isinstance(url_prefix, str):
        raise TypeError(f"url_prefix must be a str or None, not {type(url_prefix).__name__} ({url_prefix!r:.80})")
    if url_prefix and not url_prefix.startswith("/"):
        raise ValueError(f"url_prefix must begin with '/', not {url_prefix!r:.80}")
    return url_prefix


class _FlaskMiddleware(ShmStatsMiddleware):
    """The middleware inside a Flask application."""

    def rule_of(self, error: BaseException) -> Any:
        """Return the URL rule of a request, from the frame of Flask that an exception passed through.

        That is for a request without a response: after a worker's timeout, say, or if exceptions propagate.
        """
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is Flask.wsgi_app.__code__:
                context = trace.tb_frame.f_locals.get("ctx")
                return getattr(getattr(context, "request", None), "url_rule", None)
            trace = trace.tb_next
        return None

    def labels_of(self, environ: WSGIEnvironment) -> tuple[str, ...]:
        """Return the label values found by `note_labels`."""
        labels: tuple[str, ...] = environ.get(_LABELS, self.requests.no_labels)
        return labels

    def note_labels(self, response: Response) -> Response:
        """Compute the values of the further labels within the request's context."""
        request.environ[_LABELS] = self.requests.labels_of(request._get_current_object())  # type: ignore[attr-defined]
        return response

    def note_exception(self, sender: Flask, exception: BaseException, **_: Any) -> None:
        """Count an exception that Flask handles itself, by answering 500 or by raising it again."""
        environ = request.environ
        if self.requests.no_labels and _LABELS not in environ:
            environ[_LABELS] = self.requests.labels_of(request._get_current_object())  # type: ignore[attr-defined]
        self.count_exception(environ, request.url_rule, exception)

    def count_exception(self, environ: WSGIEnvironment, rule: Any, error: BaseException) -> None:
        """Count an exception, unless `note_exception` has counted it."""
        if environ.get(_COUNTED) != id(error):
            environ[_COUNTED] = id(error)
            super().count_exception(environ, rule, error)
