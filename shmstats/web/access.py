"""Who may use an endpoint: see docs/security.md.

Endpoints are protected unless marked as `public`; with ``api.protect: all`` all are. With ``api.token`` only the token
counts. Without one, only the owner of the data directory and root are answered, over a connection of their own on this
machine: `peer_uids` finds the owner of the client's socket, and `not_direct` the signs of a proxy or another site.
"""

from __future__ import annotations

import hmac
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from flask import abort, current_app, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from ..block.identity import is_unmapped
from ..config import ApiSettings
from .peer import connection_of, ip_address, peer_uids

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_View = TypeVar("_View", bound=Callable[..., Any])

_public_views: set[Callable[..., Any]] = set()
_views_without_data: set[Callable[..., Any]] = set()

#: Headers by which proxies mark a forwarded request.
_FORWARDING = frozenset(("VIA", "CDN_LOOP", "MAX_FORWARDS", "X_HOST", "X_PROXYUSER_IP"))
_FORWARDING_STARTS = (
    "FORWARDED", "X_FORWARDED", "X_REAL_", "X_REMOTE_", "X_ORIGINAL_", "X_ORIGINATING_", "X_ENVOY_", "CF_"
)  # fmt: skip
_FORWARDING_ENDS = ("CLIENT_IP", "CLIENTIP")

#: Keys of the environment that show that the peer address is what a proxy claims.
_BEHIND_PROXY = ("werkzeug.proxy_fix.orig", "PROXY_PROTOCOL", "PROXY_ADDR")

_HOST = re.compile(r"(localhost|[0-9.]+|\[[0-9a-f]*:[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)


def public(view: _View) -> _View:
    """Mark a view as one that needs no permission, unless ``api.protect`` is ``all``."""
    _public_views.add(view)
    return view


def without_data(view: _View) -> _View:
    """Mark a view that answers everybody the same, with a file of the package: it needs no token.

    A browser sends no token with the address of a page: the page asks for it, and sends it with its own requests.
    """
    _views_without_data.add(view)
    return view


def check_access(api: ApiSettings, data: Path) -> None:
    """End the current request if its sender may not use the endpoint: 401 with a token set, else 403."""
    view = current_app.view_functions[request.endpoint or ""]
    if view in _public_views and api.protect != "all":
        return
    if view in _views_without_data and (api.protect != "all" or api.token is not None):
        return
    if api.token is not None:
        _check_token(api.token)
    elif (reason := not_trusted(request.environ, data)) is not None:
        abort(
            403,
            f"without a token only direct clients of the data directory's owner and root are answered, and {reason};"
            " to let others in, set api.token in the configuration and send it as 'Authorization: Bearer <token>'",
        )


def not_trusted(environ: WSGIEnvironment, data: Path) -> str | None:
    """Return why a request does not count as made by the owner of the data directory or root, or None if it does."""
    reason = not_direct(environ)
    if reason is not None:
        return reason
    uids = peer_uids(environ)
    if uids is None:
        return "the owner of the client's socket cannot be determined"
    if any(map(is_unmapped, uids)):
        return "the client's user is not mapped by the user namespace of this process"
    strangers = uids - {0, _owner(data)}
    return f"the request came from user {min(strangers)}" if strangers else None


def _owner(data: Path) -> int:
    try:
        return os.stat(data).st_uid
    except OSError:  # it does not exist yet: this user's processes make it at the first save
        return os.geteuid()


def not_direct(environ: WSGIEnvironment) -> str | None:
    """Return why a request does not count as made directly on this machine, or None if it does.

    Signs of a proxy are its headers, HTTP/1.0, and an application set up to be behind one. A page in a browser is
    recognised by ``Host`` (DNS rebinding), ``Sec-Fetch-Site`` and ``Origin``. Other proxies cannot be told from
    clients.
    """
    peer = environ.get("REMOTE_ADDR", "")
    if any(key in environ for key in _BEHIND_PROXY):
        return "this application is set up to be behind a proxy"
    if not (is_loopback(peer) or is_unix(environ)):
        return f"the peer address is {peer!r:.80}" if peer else "there is no peer address"
    for header in (key.removeprefix("HTTP_") for key in environ if key.startswith("HTTP_")):
        if _is_forwarding(header):
            return f"there is the header {header.replace('_', '-').title()} of a proxy"
    if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return "it is a request of HTTP/1.0, as proxies make them"
    host = environ.get("HTTP_HOST", "")
    if not _is_loopback_host(host):
        return f"the header Host is {host!r:.80}, no loopback address"
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return "the request was made by a page of another site"
    if "HTTP_ORIGIN" in environ and not _is_origin_of(environ["HTTP_ORIGIN"], host):
        return "the request was made by a page of another origin"
    return None


def is_unix(environ: WSGIEnvironment) -> bool:
    """Tell whether a request came over a Unix socket whose connection the server exposes."""
    return getattr(connection_of(environ), "family", None) == socket.AF_UNIX


def is_loopback(address: str) -> bool:
    """Tell whether text is ``::1``, or an address of 127.0.0.0/8, which may be within IPv6."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _is_forwarding(header: str) -> bool:
    return header in _FORWARDING or header.startswith(_FORWARDING_STARTS) or header.endswith(_FORWARDING_ENDS)


def _is_loopback_host(host: str) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and (match[1].lower() == "localhost" or is_loopback(match[1].strip("[]")))


def _is_origin_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _check_token(token: str) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip(" ").encode(errors="surrogatepass"), token.encode())
    if scheme.lower() == "bearer" and right:
        return
    # A realm must be quoted (RFC 9110, 11.5), but werkzeug quotes only texts with a blank or the like.
    challenge: dict[str, str | None] = {"realm": "shmstats endpoints"}
    if given:
        challenge["error"] = "invalid_token"
    raise Unauthorized(
        "this endpoint needs the header 'Authorization: Bearer <token>' with the token of api.token",
        www_authenticate=WWWAuthenticate("bearer", challenge),
    )
