"""Every block of code of every document is run, every link leads somewhere, and the README stays short."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import click
import pytest
import yaml
from documents import ROOT, Block, anchors, blocks, documents, examples, prose, read
from helpers import BOUND

from shmstats import cli, config

BLOCKS = [block for document in documents() for block in blocks(document)]

SECTIONS = set(config.Settings.fields)

#: Programs that a console of a document may use without a test that runs them.
PROGRAMS = {
    "cat", "cd", "celery", "curl", "docker", "export", "flask", "git", "granian", "gunicorn", "hypercorn",
    "kubectl", "ls", "mkdir", "nginx", "pip", "pre-commit", "promtool", "python", "python3", "rm", "sudo", "systemctl",
    "twine", "uvicorn", "uwsgi", "waitress-serve",
}  # fmt: skip

#: Runs each file of Python code named by its arguments in a forked child, and prints the failures.
RUNNER = """
import atexit, os, runpy, signal, sys, traceback
import flask, shmstats, shmstats.web

def run(file):
    directory = os.path.dirname(file)
    os.chdir(directory)
    sys.path.insert(0, directory)
    signal.alarm(30)
    try:
        runpy.run_path(file, run_name="__main__")
        atexit._run_exitfuncs()
        return 0
    except BaseException:
        print(file, file=sys.stderr)
        traceback.print_exc()
        return 1

status = 0
for file in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        status = run(file)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    status |= os.waitpid(child, 0)[1]
sys.exit(1 if status else 0)
"""


def named(block: Block) -> str:
    return block.place


def environment() -> dict[str, str]:
    """The environment of a user that has set nothing, but for where the package is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHMSTATS", "PROMETHEUS"))}
    return kept | {"PYTHONPATH": str(ROOT)}


def of_language(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages and block.stands_alone]


PYTHON = sorted({block.document for block in of_language("python")})


@pytest.mark.parametrize("document", PYTHON)
def test_the_python_code_of_a_document_runs(document: str, tmp_path: Path) -> None:
    """Each block alone, in an empty directory that has the README's application as ``app.py``."""
    files = []
    for block in (block for block in of_language("python") if block.document == document):
        directory = tmp_path / str(block.line)
        directory.mkdir()
        (directory / "app.py").write_text(examples("README.md", "Quick start")[0])
        file = directory / f"line_{block.line}.py"
        file.write_text(block.text)
        files.append(str(file))
    command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", RUNNER, *files]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", of_language("yaml"), ids=named)
def test_yaml_in_a_document_is_valid(block: Block) -> None:
    """A document with a section of the package must be a valid configuration."""
    for document in yaml.safe_load_all(block.text):
        assert isinstance(document, (dict, list))
        items = document.items() if isinstance(document, dict) else ()
        sections = {name: value for name, value in items if name in SECTIONS}
        if sections:
            assert config.load(sections)


@pytest.mark.parametrize("block", of_language("ini"), ids=named)
def test_ini_in_a_document_can_be_parsed(block: Block) -> None:
    parser = ConfigParser(interpolation=None)
    parser.read_string(block.text)
    assert parser.sections()


@pytest.mark.parametrize("block", of_language("console"), ids=named)
def test_the_commands_of_a_console_exist(block: Block) -> None:
    """The package's own commands with options that they take, scripts that are there, and known programs."""
    assert block.commands, "a console without a line that begins with '$ '"
    for line, _ in block.commands:
        for words in parts_of(line):
            check_command(words)


def parts_of(line: str) -> list[list[str]]:
    """Return the words of each command of a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word in ("|", "&&", "||", ";", "&"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [cut for part in parts if (cut := without_redirection(part))]


def without_redirection(words: list[str]) -> list[str]:
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    ends = [i for i, word in enumerate(words) if word.startswith((">", "<"))]
    return words[: ends[0]] if ends else words


def check_command(words: list[str]) -> None:
    program, *arguments = words
    if program in ("shmstats", "shmstats-dump"):
        arguments = ["dump", *arguments] if program == "shmstats-dump" else arguments
        name, *rest = arguments
        command = cli.commands.get_command(click.Context(cli.commands), name)
        assert command is not None, f"there is no command {name!r}"
        command.make_context(name, rest)
    elif program == ".":
        assert arguments
    elif program.startswith(("scripts/", ".ci/", "tests/")):
        assert os.access(ROOT / program, os.X_OK), program
    else:
        assert program in PROGRAMS or shutil.which(program), f"{program!r} is not in PROGRAMS of {__name__}"


def test_every_other_block_names_the_test_that_runs_it() -> None:
    known = {"python", "yaml", "console", "ini"}
    # A drawing has no language, and nothing to run.
    unknown = [block.place for block in BLOCKS if block.language not in known | {""} and block.stands_alone]
    assert unknown == []
    for block in BLOCKS:
        if block.note.startswith("tested by "):
            test = ROOT / block.note.split()[2]
            assert Path(block.document).name in test.read_text(), f"{block.place}: {test} does not read it"


def targets(document: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]*)\)", prose(document))


@pytest.mark.parametrize("document", documents())
def test_every_link_leads_to_a_file_and_a_heading(document: str) -> None:
    for target in targets(document):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), f"{document}: {target}"
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), f"{document}: {target}"


def test_every_document_is_found_from_the_readme() -> None:
    linked = {target.partition("#")[0] for target in targets("README.md")}
    below = {document for document in documents() if document != "README.md"}
    assert {document for document in below if not document.startswith("shmstats/kit/")} <= linked


def test_the_readme_is_no_longer_than_200_lines() -> None:
    assert len(read("README.md").splitlines()) <= 200
