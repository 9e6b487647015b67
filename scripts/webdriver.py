"""Chromium, driven by chromedriver's own protocol (W3C WebDriver): JSON over HTTP, so no package is needed for it."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]

#: Seconds that one command may take.
BOUND = 60.0

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """A session of chromedriver.

    Args:
        port: of chromedriver.
        profile: directory for the browser's profile.
    """

    def __init__(self, port: int, profile: Path) -> None:
        self._port = port
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._path = f"/session/{made['sessionId']}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=BOUND)
        try:
            content = None if method == "GET" else json.dumps(body or {})
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{answer['error']}: {answer['message']}")
        return answer

    def open(self, address: str) -> None:
        """Go to an address."""
        self._call("POST", f"{self._path}/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return the result of a script, or of the promise that it returns."""
        return self._call("POST", f"{self._path}/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, keys: str) -> None:
        """Press keys in the focused element."""
        element = self._call("GET", f"{self._path}/element/active")[_ELEMENT]
        self._call("POST", f"{self._path}/element/{element}/value", {"text": keys})

    def errors(self) -> list[str]:
        """Return the errors since the last call: of scripts, policies and requests."""
        entries = self._call("POST", f"{self._path}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def emulate(self, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Set the size of the screen and the colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
        for command, parameters in (
            ("Emulation.setDeviceMetricsOverride", size),
            ("Emulation.setEmulatedMedia", {"features": [scheme_feature]}),
        ):
            self._call("POST", f"{self._path}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self) -> bytes:
        """Return a screenshot as PNG."""
        return base64.b64decode(self._call("GET", f"{self._path}/screenshot"))

    def close(self) -> None:
        """End the browser."""
        self._call("DELETE", self._path)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser.

    Raises:
        FileNotFoundError: no browser is installed.
    """
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{program} is not installed (Debian: apt install chromium chromium-driver)")
    with tempfile.TemporaryDirectory(prefix="shmstats-browser-", ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert driver.stdout is not None
            told = next(match for line in driver.stdout if (match := re.search(r"successfully on port (\d+)", line)))
            opened = Browser(int(told[1]), Path(profile) / "profile")
            try:
                yield opened
            finally:
                opened.close()
        finally:
            driver.terminate()
            driver.communicate(timeout=BOUND)
