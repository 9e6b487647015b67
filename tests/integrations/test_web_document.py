"""The examples of docs/web-frameworks.md work as described."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import examples, section
from helpers import BOUND

from shmstats.integrations import _request_metrics

pytestmark = pytest.mark.usefixtures("found_by_servers")

DOCUMENT = "shmstats/docs/web-frameworks.md"
FLASK, FURTHER, WSGI, SETTINGS, DJANGO, FASTAPI = examples(DOCUMENT)[:6]

#: The program around each example, which prints the metrics of the requests by series.
CLIENTS = {
    "flask": (
        FLASK,
        """
        client = app.test_client()
        assert client.get("/items/7").text == "item 7\\n"
        assert 'http_requests_total{category="http",method="GET",route="/items/<int:item>",status="200"} 1\\n' in (
            client.get("/stats/prometheus").text
        )
        """,
        {'method="GET",route="/items/<int:item>",status="200"': 1},
    ),
    "flask with options": (
        FURTHER,
        """
        client = app.test_client()
        for path in ("/", "/health", "/", "/stats"):
            assert client.get(path).data
        """,
        {'method="GET",plan="free",route="/",status="200"': 2},
    ),
    "wsgi": (
        WSGI,
        """
        from werkzeug.test import Client
        client = Client(app)
        assert client.get("/hello/you").text == "hello\\n"
        assert client.get("/favicon.ico").text == "hello\\n"
        """,
        {'method="GET",route="/hello/{name}",status="200"': 1},
    ),
    "django": (
        f"""
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

{SETTINGS}
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="only here", MIDDLEWARE=MIDDLEWARE)
urlpatterns = [path("items/<int:item>", lambda request, item: HttpResponse("item"))]
{DJANGO}
""",
        """
        from werkzeug.test import Client
        client = Client(application)
        assert client.get("/items/7").text == "item"
        assert b"Not Found" in client.get("/none").data
        """,
        {
            'method="GET",route="/items/<int:item>",status="200"': 1,
            'method="GET",route="<unmatched>",status="404"': 1,
        },
    ),
    "fastapi": (
        FASTAPI,
        """
        import asyncio
        def get(path):
            sent = []
            async def receive():
                return {"type": "http.request", "body": b"", "more_body": False}
            async def send(message):
                sent.append(message)
            scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "",
                     "headers": [], "query_string": b"", "http_version": "1.1", "scheme": "http", "asgi": {},
                     "server": ("localhost", 80), "client": ("127.0.0.1", 1)}
            asyncio.run(app(scope, receive, send))
            return b"".join(message.get("body", b"") for message in sent)
        assert get("/api/items/7") == b'{"item":7}'
        text = get("/monitor/stats/prometheus").decode()
        assert 'route="/api/items/{item}",status="200"} 1\\n' in text
        assert 'http_requests_in_progress{category="http"} 0\\n' in text
        """,
        {'method="GET",route="/api/items/{item}",status="200"': 1},
    ),
}

REPORT = """
import json
from shmstats import stats
counted = stats.snapshot()["http"]
print(json.dumps({name: value for name, value in counted.items() if name.startswith("http_requests{")}))
"""


@pytest.mark.parametrize("name", CLIENTS)
def test_an_example_records_the_documented_metrics(tmp_path: Path, name: str) -> None:
    example, client, expected = CLIENTS[name]
    code = example + "\n" + "\n".join(line[8:] for line in client.splitlines()) + REPORT
    (tmp_path / "app.py").write_text(code)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS")}
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted == {f"http_requests{{{labels}}}": number for labels, number in expected.items()}


def test_the_table_of_the_document_has_exactly_the_metrics() -> None:
    text = section(DOCUMENT).partition("\n\nIn the category")[0]
    told = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    head = (_request_metrics.__doc__ or "").partition("::")[2].partition("and in the category")[0]
    assert told == {line.split()[0] for line in head.splitlines() if line.strip()}
