"""The package is built as ``shmstats/README.md`` says: rooms from the ground upwards, none too large.

A module whose size has a reason says it in its docstring, behind `LONG_FILE` or `LARGE_CLASS`.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from documents import ROOT, section, table

pytestmark = pytest.mark.far_from_core

PACKAGE = ROOT / "shmstats"
SOURCES = (".py", ".c", ".h", ".js", ".css", ".html")
VENDORED = {"uPlot.js", "uPlot.css"}

MOST_LINES, MOST_METHODS = 500, 25
LONG_FILE, LARGE_CLASS = "One file, however long:", "One class, however large:"

#: Public classes with the same name, because each is used in place of the other.
SAME_NAME = {"ShmStatsMiddleware"}


def test_every_room_is_in_the_table_of_the_architecture() -> None:
    found = {module_of(path).split(".")[1] if path.parent != PACKAGE else path.stem for path in paths()}
    assert set(floors()) == found


def test_a_room_imports_only_rooms_above_it_in_the_table() -> None:
    order = floors()
    upwards = [
        f"{module} imports {imported}"
        for module, imports in modules().items()
        for imported in imports
        if order[room_of(imported)] > order[room_of(module)]
    ]
    assert upwards == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(modules()).prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        pytest.fail("\n".join(f"{one} imports {other}" for one, other in pairwise(circle)))


def test_no_file_has_too_many_lines() -> None:
    files = [path for path in PACKAGE.rglob("*") if path.suffix in SOURCES and path.name not in VENDORED]
    long = {
        str(path.relative_to(PACKAGE))
        for path in files
        if len(path.read_text().splitlines()) > MOST_LINES and LONG_FILE not in head(path)
    }
    assert long == set()


def test_no_class_has_too_many_methods() -> None:
    large = {
        node.name
        for path, node in classes()
        if sum(isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) for each in node.body) > MOST_METHODS
        and LARGE_CLASS not in head(path)
    }
    assert large == set()


def test_no_two_classes_have_the_same_name() -> None:
    places = defaultdict(list)
    for path, node in classes():
        places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SAME_NAME} == {}


def test_no_module_uses_cached_property() -> None:
    """In Python 3.11 its lock is shared by all objects of a class, and a fork can leave it taken."""
    assert [str(path.relative_to(ROOT)) for path in paths() if "import cached_property" in path.read_text()] == []
    assert [str(path.relative_to(ROOT)) for path in paths() if "functools.cached_property\n" in path.read_text()] == []


def test_every_module_has_a_short_docstring() -> None:
    assert [str(path.relative_to(ROOT)) for path in paths() if not head(path)] == []


def floors() -> dict[str, int]:
    """Return for every room of the package the number of its row in the table, from the ground upwards."""
    rows = table(section("shmstats/README.md", "The rooms"))
    return {
        room.strip("`/").removesuffix(".py"): number for number, (rooms, _) in enumerate(rows) for room in rooms.split()
    }


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def paths() -> list[Path]:
    """Return the modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Return the imports and classes of a module at any depth of its statements."""
    found, todo = [], [tree(path)]
    while todo:
        for node in ast.iter_child_nodes(todo.pop()):
            if isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef)):
                found.append(node)
            if isinstance(node, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                todo.append(node)
    return found


def head(path: Path) -> str:
    """Return the docstring of a module."""
    return (ast.get_docstring(tree(path)) or "") if path.suffix == ".py" else ""


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    return ((path, node) for path in paths() for node in nodes(path) if isinstance(node, ast.ClassDef))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, set[str]]:
    """Return for each module the modules of the package that it imports, at any depth, also for types only."""
    known = {module_of(path): path for path in paths()}
    return {module: set(_imports(module, path, known)) - {module} for module, path in known.items()}


def _imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            for each in node.names:
                name = f"{source}.{each.name}"
                if name in known or source in known:
                    yield name if name in known else source
