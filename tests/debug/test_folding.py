"""Stacks for people: the application first, libraries folded, the package's own threads left out."""

import sysconfig
from pathlib import Path

import shmstats
from shmstats.debug.documents import fold, library_of, stacks_of

STANDARD = f"{sysconfig.get_paths()['stdlib']}/threading.py"
INSTALLED = "/srv/venv/lib/python3.11/site-packages/flask/app.py"
GUNICORN = "/usr/lib/python3/dist-packages/gunicorn/workers/sync.py"
OURS = str(Path(shmstats.__file__).parent / "attachment" / "agent.py")


def stack(*files: str) -> str:
    return "\n".join(["thread", *(f'  File "{file}", line {number}, in f' for number, file in enumerate(files, 1))])


def test_the_innermost_frame_is_first_and_libraries_are_folded() -> None:
    libraries, lines = fold(stack(STANDARD, GUNICORN, GUNICORN, INSTALLED, "/srv/site/app.py", INSTALLED))
    assert None in libraries
    assert lines == ["… 1 frame of flask", "f  /srv/site/app.py:5", "… 4 frames of flask, gunicorn, python"]


def test_a_text_that_is_not_a_stack_is_shown_unchanged() -> None:
    assert fold("no answer: the worker is stopped") == (set(), ["no answer: the worker is stopped"])


def test_stacks_of_the_application_come_first_and_the_packages_threads_are_left_out() -> None:
    idle, busy, ours = stack(STANDARD, GUNICORN), stack(GUNICORN, "/srv/site/app.py"), stack(STANDARD, OURS, STANDARD)
    found = stacks_of([{"goroutine": each, "count": count} for each, count in ((idle, 5), (ours, 1), (busy, 1))])
    assert [(each["count"], each["own"]) for each in found] == [(1, True), (5, False)]


def test_a_request_inside_the_package_is_not_taken_for_one_of_its_threads() -> None:
    inside, ours = stack(GUNICORN, INSTALLED, OURS), stack(STANDARD, OURS)
    assert len(stacks_of([{"goroutine": each, "count": 1} for each in (inside, ours)])) == 1


def test_a_file_belongs_to_the_application_unless_it_is_installed() -> None:
    files = (STANDARD, INSTALLED, OURS, "<frozen importlib._bootstrap>", "/srv/site/app.py", "<string>")
    assert [library_of(file) for file in files] == ["python", "flask", "shmstats", "python", None, None]
