"""The lines of docs/web-frameworks.md on the routes of other frameworks work."""

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

EXAMPLES = examples("shmstats/docs/web-frameworks.md", "Other frameworks")

WSGI = """
from werkzeug.test import Client
client = Client(app)
assert b"item" in client.get("/items/7").data
none = client.get("/none")
assert none.status_code == 404 and none.data
"""

ASGI = """
import asyncio

requested = []

async def receive():
    if requested:
        await asyncio.Event().wait()  # the client stays
    requested.append(True)
    return {"type": "http.request", "body": b"", "more_body": False}

async def send(message):
    pass

for path in ("/items/7", "/none"):
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "", "headers": [],
             "query_string": b"", "http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"},
             "server": ("localhost", 80), "client": ("127.0.0.1", 1)}
    requested.clear()
    asyncio.run(app(scope, receive, send))
"""

AIOHTTP = """
import asyncio
from aiohttp.test_utils import TestClient, TestServer

async def ask():
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/items/7")).status == 200
        assert (await client.get("/none")).status == 404

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
    for path, status in (("items/7", 200), ("none", 404)):
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/{path}", raise_error=False)
        assert answer.code == status
    server.stop()

asyncio.run(ask())
"""

SANIC = """
import asyncio, socket, threading, urllib.error, urllib.request

listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]

def ask(app, loop):
    try:
        assert b"item" in urllib.request.urlopen(f"http://127.0.0.1:{port}/items/7").read()
        urllib.request.urlopen(f"http://127.0.0.1:{port}/none")
    except urllib.error.HTTPError as error:
        assert error.code == 404
    loop.call_soon_threadsafe(app.stop)

@app.after_server_start
async def begin(app):
    threading.Thread(target=ask, args=(app, asyncio.get_running_loop())).start()

app.run(sock=listener, single_process=True, motd=False, access_log=False)
"""

#: By the needed module: code that sends requests, and the expected labels ``route``.
CLIENTS = {
    "bottle": (WSGI, "/items/<item>"),
    "falcon": (WSGI, "/items/{item}"),
    "pyramid": (WSGI, "/items/{item}"),
    "litestar": (ASGI, "/items/{item}"),
    "quart": (ASGI, "/items/<int:item>"),
    "aiohttp": (AIOHTTP, "/items/{item}"),
    "sanic": (SANIC, "/items/<item:int>"),
    "tornado": (TORNADO, "Item"),
}

REPORT = """
import json
from shmstats import stats
from shmstats.series import Distribution
told = stats.snapshot()["http"]
print(json.dumps({name: getattr(value, "count", value) for name, value in told.items()}))
"""


@pytest.mark.parametrize(("framework", "example"), list(zip(CLIENTS, EXAMPLES, strict=True)), ids=list(CLIENTS))
def test_a_framework_has_routes_durations_and_sizes(framework: str, example: str, tmp_path: Path) -> None:
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
    told = json.loads(done.stdout.splitlines()[-1])
    for matched in (route, "<unmatched>"):
        labels = f'{{method="GET",route="{matched}"}}'
        for metric in ("http_request_duration", "http_request_size", "http_response_size"):
            assert told[metric + labels] == 1, (metric, told)
    assert told["http_requests_in_progress"] == 0
