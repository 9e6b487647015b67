"""The lines of docs/web-frameworks.md that tell the routes of other frameworks do so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import examples
from helpers import BOUND

pytestmark = [pytest.mark.usefixtures("found_by_servers"), pytest.mark.thorough]

EXAMPLES = examples("shmstats/docs/web-frameworks.md", "Routes of other frameworks")

WSGI = """
from werkzeug.test import Client
client = Client(app)
assert b"item" in client.get("/items/7").data
assert client.get("/none").status_code == 404
"""

ASGI = """
import asyncio

async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}

async def send(message):
    pass

for path in ("/items/7", "/none"):
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "", "headers": [],
             "query_string": b"", "http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"},
             "server": ("localhost", 80), "client": ("127.0.0.1", 1)}
    asyncio.run(app(scope, receive, send))
"""

AIOHTTP = """
import asyncio
from aiohttp.test_utils import TestClient, TestServer

async def ask():
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/items/7")).status == 200

asyncio.run(ask())
"""

TORNADO = """
import asyncio
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

async def ask():
    socket, port = bind_unused_port()
    server = HTTPServer(app)
    server.add_socket(socket)
    assert (await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/items/7")).code == 200
    server.stop()

asyncio.run(ask())
"""

#: By the module that is needed: what asks, and the label ``route`` of what it asked for.
CLIENTS = {
    "bottle": (WSGI, "/items/<item>"),
    "falcon": (WSGI, "/items/{item}"),
    "pyramid": (WSGI, "/items/{item}"),
    "litestar": (ASGI, "/items/{item}"),
    "quart": (ASGI, "/items/<int:item>"),
    "aiohttp": (AIOHTTP, "/items/{item}"),
    "tornado": (TORNADO, "Item"),
}

REPORT = """
import json
from shmstats import stats
print(json.dumps([name for name in stats.snapshot()["http"] if name.startswith("http_request_duration{")]))
"""


@pytest.mark.parametrize(("framework", "example"), list(zip(CLIENTS, EXAMPLES, strict=True)), ids=list(CLIENTS))
def test_a_frameworks_route_is_a_label(framework: str, example: str, tmp_path: Path) -> None:
    if os.environ.get("CI"):
        __import__(framework)
    else:
        pytest.importorskip(framework)
    client, route = CLIENTS[framework]
    (tmp_path / "site_under_test.py").write_text(example + client + REPORT)
    done = subprocess.run(
        [sys.executable, "site_under_test.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS")},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert any(f'route="{route}"' in series for series in json.loads(done.stdout.splitlines()[-1]))
