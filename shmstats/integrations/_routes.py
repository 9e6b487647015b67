"""The route that a request matched, for each framework: the one place that knows the frameworks' internals.

These are Flask's URL rule, Django's resolver match, the scope of Starlette and FastAPI, and hooks for Falcon, Pyramid
and Quart. A route is always text of the application: a template, never a path from a client.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from ._requests import OWN, ROUTE

Scope = MutableMapping[str, Any]


def route_in_environ(environ: Mapping[str, Any], rule: Any) -> str:
    """Return the route that is in a WSGI environment, or else that of a URL rule of Flask; "" if there is none."""
    told = environ.get(ROUTE)
    if told or rule is None:
        return str(told or "")
    return OWN if rule.endpoint.startswith("shmstats.") else rule.rule


class DjangoRoute:
    """A Django middleware that tells the middleware around the application the routes of requests.

    Put ``"shmstats.integrations.wsgi.django_route"`` first in the setting ``MIDDLEWARE``. It works for
    `shmstats.integrations.asgi.ShmStatsMiddleware` too.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from asgiref.sync import iscoroutinefunction, markcoroutinefunction

        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Return the response, or a coroutine that returns it."""
        return self._get_response(request)

    def process_view(self, request: Any, view: Any, args: Any, kwargs: Any) -> None:
        """Set the route of a request, which Django has resolved."""
        place = getattr(request, "scope", None) or request.META
        place[ROUTE] = f"/{request.resolver_match.route}"


django_route = DjangoRoute


class FalconRoute:
    """A Falcon middleware that tells the middleware around the application the routes of requests."""

    def process_resource(self, request: Any, response: Any, resource: Any, params: Any) -> None:
        """Set the route of a request over WSGI."""
        request.env[ROUTE] = request.uri_template

    async def process_resource_async(self, request: Any, response: Any, resource: Any, params: Any) -> None:
        """Set the route of a request over ASGI."""
        request.scope[ROUTE] = request.uri_template


def pyramid_route(event: Any) -> None:
    """Set the route of a request, as a subscriber of Pyramid's event ``ContextFound``."""
    if event.request.matched_route is not None:
        event.request.environ[ROUTE] = event.request.matched_route.pattern


def quart_route() -> None:
    """Set the route of a request, as a function of Quart's ``before_request``."""
    request = sys.modules["quart"].request
    if request.url_rule is not None:
        request.scope[ROUTE] = request.url_rule.rule


# Starlette and FastAPI ------------------------------------------------------------------------
#
# A router puts the matched route into the scope. That has only the template within its own application. If an
# application is mounted in another one, ``root_path`` was extended by what the mount matched, which is text from the
# client: so the mounts that matched it are looked for among the routes, to get their templates.


def route_in(scope: Scope, path: str, root_path: str) -> str:
    """Return the template of the route in the scope; "" if there is none.

    Args:
        scope: as the application has left it.
        path: of the scope, before the application ran.
        root_path: likewise.
    """
    told = scope.get(ROUTE)
    if told:
        return str(told)
    route = scope.get("route")
    if route is None and "endpoint" in scope:
        route = _route_of_endpoint(scope)
    mounted = scope.get("root_path", "")
    if mounted == root_path:
        return _template(scope, route)
    if _is_own(scope.get("endpoint")):
        return OWN
    if root_path and path.startswith(root_path):
        path = path[len(root_path) :]
    prefix = _prefix(getattr(scope.get("router"), "routes", ()), path, mounted[len(root_path) :]) or ""
    # After the mount no route is known: none has matched, or the mounted application is of another framework.
    if route is None or hasattr(route, "routes"):
        return f"{prefix}/{{path}}"
    return prefix + _template(scope, route)


def _template(scope: Scope, route: Any) -> str:
    """Return the template of a route within its application; "" for none."""
    context = _fastapi_context(scope)
    # From FastAPI 0.137 on a route does not have the prefixes of the routers that include it.
    if context is not None and context.original_route is route and context.path:
        return str(context.path)
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else ""


def _fastapi_context(scope: Scope) -> Any:
    fastapi = scope.get("fastapi")
    return fastapi.get("effective_route_context") if fastapi else None


def _route_of_endpoint(scope: Scope) -> Any:
    """Return the route of an endpoint, if the scope has only the endpoint.

    That is so for a Starlette before 1.0, and for its plain routes in routers that FastAPI has included.
    """
    endpoint = scope["endpoint"]
    routes = [
        *getattr(scope.get("app"), "routes", ()),
        getattr(_fastapi_context(scope), "starlette_route", None),
    ]
    found = [route for route in routes if getattr(route, "endpoint", None) is endpoint]
    if len(found) > 1:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        found = [route for route in found if route.path_regex.match(path)]
    return found[0] if found else None


def _prefix(routes: Iterable[Any], path: str, mounted: str) -> str | None:
    """Return the templates of the mounts that took ``mounted`` off the beginning of a path; None if there are none."""
    for mount in _mounts(routes):
        regex = getattr(mount, "path_regex", None)
        if regex is None:  # a host, which takes nothing off the path
            inner = _prefix(mount.routes, path, mounted)
            if inner is not None:
                return inner
            continue
        match = regex.match(path)
        if match is None:
            continue
        rest = f"/{match['path']}"
        taken = path[: len(path) - len(rest)]
        if taken == mounted:
            return str(mount.path)
        if taken and mounted.startswith(f"{taken}/"):
            inner = _prefix(mount.routes, rest, mounted[len(taken) :])
            if inner is not None:
                return f"{mount.path}{inner}"
    return None


def _mounts(routes: Iterable[Any]) -> Iterator[Any]:
    """Give the mounts and hosts among routes, including those in routers that FastAPI (from 0.137 on) has included."""
    for route in routes:
        if hasattr(route, "routes"):
            yield route
        elif not hasattr(route, "path"):
            contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
            if contexts is not None:
                yield from [each for each in contexts([route]) if hasattr(each.original_route, "routes")]


def _is_own(endpoint: Any) -> bool:
    """Whether the mounted application is that of the statistics endpoints, in a wrapper for WSGI."""
    for _ in range(3):
        if endpoint is None:
            return False
        if getattr(endpoint, "import_name", None) == "shmstats":
            return True
        endpoint = getattr(endpoint, "app", None)
    return False
