"""The route that a request matched, as each framework leaves it: the one place that knows their internals.

Flask's URL rule, Django's resolver match, what Starlette and FastAPI put into the scope, and hooks of Falcon, Pyramid
and Quart. All of it is text of the application: a template, never a path of a client.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

from ._requests import OWN, ROUTE, UNMATCHED

Scope = MutableMapping[str, Any]


def flask_route(rule: Any) -> str:
    """Return the route of a URL rule of Flask; `UNMATCHED` for None."""
    if rule is None:
        return UNMATCHED
    return OWN if rule.endpoint.startswith("shmstats.") else rule.rule


def django_route(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Be a Django middleware that tells the routes of requests to the middleware around the application.

    Put ``"shmstats.integrations.wsgi.django_route"`` first into the setting ``MIDDLEWARE``. It serves
    `shmstats.integrations.asgi.ShmStatsMiddleware` too.
    """
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction

    def note(request: Any) -> None:
        match = getattr(request, "resolver_match", None)
        if match is not None:
            place = getattr(request, "scope", None) or request.META
            place[ROUTE] = f"/{match.route}"

    if not iscoroutinefunction(get_response):

        def middleware(request: Any) -> Any:
            response = get_response(request)
            note(request)
            return response

        return middleware

    async def async_middleware(request: Any) -> Any:
        response = await get_response(request)
        note(request)
        return response

    markcoroutinefunction(async_middleware)
    return async_middleware


django_route.sync_capable = True  # type: ignore[attr-defined]
django_route.async_capable = True  # type: ignore[attr-defined]


class FalconRoute:
    """A middleware of Falcon that tells the routes of requests to the middleware around the application."""

    def process_resource(self, request: Any, response: Any, resource: Any, params: Any) -> None:
        """Tell the route of a request over WSGI."""
        request.env[ROUTE] = request.uri_template

    async def process_resource_async(self, request: Any, response: Any, resource: Any, params: Any) -> None:
        """Tell the route of a request over ASGI."""
        request.scope[ROUTE] = request.uri_template


def pyramid_route(event: Any) -> None:
    """Tell the route of a request, as a subscriber of Pyramid's event ``ContextFound``."""
    if event.request.matched_route is not None:
        event.request.environ[ROUTE] = event.request.matched_route.pattern


def quart_route() -> None:
    """Tell the route of a request, as a function of Quart's ``before_request``."""
    request = sys.modules["quart"].request
    if request.url_rule is not None:
        request.scope[ROUTE] = request.url_rule.rule


# Starlette and FastAPI ------------------------------------------------------------------------
#
# A router puts the route that matched into the scope. That has the template within its own application only, and
# where an application is mounted in another ``root_path`` has grown by what the mount matched: text from the client.
# So the mounts that this text went through are looked for among the routes, for their templates.


def route_in(scope: Scope, path: str, root_path: str) -> str:
    """Tell the template of the route that is in the scope; "" where there is none.

    Args:
        scope: as the application has left it.
        path: of the scope, before.
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
    # Beyond the mount no route is known: none has matched, or the mounted application is not of this kind.
    if route is None or hasattr(route, "routes"):
        return f"{prefix}/{{path}}"
    return prefix + _template(scope, route)


def _template(scope: Scope, route: Any) -> str:
    """The template of a route within its application; "" for none."""
    context = _fastapi_context(scope)
    # From FastAPI 0.137 on a route does not know the prefixes of the routers that it was included by.
    if context is not None and context.original_route is route and context.path:
        return str(context.path)
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else ""


def _fastapi_context(scope: Scope) -> Any:
    fastapi = scope.get("fastapi")
    return fastapi.get("effective_route_context") if fastapi else None


def _route_of_endpoint(scope: Scope) -> Any:
    """The route of an endpoint, where there is only that in the scope.

    So it is with a Starlette before 1.0, and with its plain routes in routers that FastAPI has included.
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
    """The templates of the mounts that took ``mounted`` off the beginning of a path; None if they are not here."""
    for mount in _mounts(routes):
        regex = getattr(mount, "path_regex", None)
        if regex is None:  # a host, which takes nothing off
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
    """Mounts and hosts among routes, also those in routers that FastAPI (from 0.137 on) has included."""
    for route in routes:
        if hasattr(route, "routes"):
            yield route
        elif not hasattr(route, "path"):
            contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
            if contexts is not None:
                yield from [each for each in contexts([route]) if hasattr(each.original_route, "routes")]


def _is_own(endpoint: Any) -> bool:
    """Whether what is mounted is the application with the statistics endpoints, in a wrapper for WSGI."""
    for _ in range(3):
        if endpoint is None:
            return False
        if getattr(endpoint, "import_name", None) == "shmstats":
            return True
        endpoint = getattr(endpoint, "app", None)
    return False
