"""scripts/serve: a wrong option is refused before anything is started; the others become options of gunicorn.

The command line is recorded and not executed: a broken check must not start a thousand workers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that this process would have become."""
    noted: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda file, arguments: noted.append(arguments))
    monkeypatch.setattr(os, "chdir", lambda directory: None)
    monkeypatch.setenv("EXAMPLE_SITE_DATA", "")
    return noted


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the command."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import example_server

    return example_server


def run(server: Any, *arguments: str) -> Result:
    return CliRunner().invoke(server.serve, arguments, prog_name="scripts/serve")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "0"], "found '0'; allowed: an integer from 1 to 1024"),
        (["--workers=1025"], "found '1025'; allowed: an integer from 1 to 1024"),
        (["--workers", "99999999999999999999"], "allowed: an integer from 1 to 1024"),
        (["--workers", "many"], "found 'many'; allowed: an integer from 1 to 1024"),
        (["--workers"], "requires an argument"),
        (["-w", "1025"], "give the number of workers by --workers"),
        (["-w1025"], "give the number of workers by --workers"),
        (["--port", "0"], "0 is not in the range 1<=x<=65535"),
        (["--port", "99999"], "99999 is not in the range 1<=x<=65535"),
        (["--port", "x"], "'x' is not a valid integer"),
        (["--data", ""], "found ''; allowed: a non-empty path"),
        (["foo"], "found 'foo'; allowed: options only"),
        (["--reload", "foo"], "found 'foo'; allowed: options only"),
        (["--", "foo"], "found 'foo'; allowed: options only"),
    ],
)
def test_a_wrong_option_is_refused(arguments: list[str], said: str, server: Any, executed: list[list[str]]) -> None:
    result = run(server, *arguments)
    assert (result.exit_code, executed, result.stdout) == (2, [], "")
    assert said in result.stderr


def test_a_data_directory_that_is_a_file_is_refused(server: Any, executed: list[list[str]], tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    result = run(server, "--data", str(file))
    assert (result.exit_code, executed, result.stdout) == (1, [], "")
    assert result.stderr == f"scripts/serve: the data directory {file} is not a directory\n"


def test_valid_options_become_a_command_line_of_gunicorn(
    server: Any, executed: list[list[str]], tmp_path: Path
) -> None:
    result = run(server, "--port=8123", "--workers", "2", "--data", str(tmp_path), "--timeout", "60", "--reload")
    assert result.exit_code == 0, result.output
    (line,) = executed
    assert line[:3] == [sys.executable, "-m", "gunicorn"]
    assert line[-8:-4] == ["--bind", "127.0.0.1:8123", "--workers", "2"]
    assert line[-4:] == ["--timeout", "60", "--reload", "example_site:create_app()"]
    assert os.environ["EXAMPLE_SITE_DATA"] == str(tmp_path)
    assert "with 2 workers, at http://127.0.0.1:8123" in result.stdout
    assert f"--data {tmp_path} --format table" in result.stdout
