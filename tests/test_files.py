"""Listing and deleting below a data directory, and that no path leads out of it."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from helpers import swapping

from shmstats import files
from shmstats.files import (
    Entry,
    InUseError,
    PathError,
    delete_file,
    list_directory,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the data directory, with a canary, which must be alive at the end."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "canary").write_text("alive")
    yield directory
    assert os.listdir(directory) == ["canary"]
    assert (directory / "canary").read_text() == "alive"


def children(entry: Entry) -> dict[str, Entry]:
    return {child["name"]: child for child in entry["children"]}


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Listing -----------------------------------------------------------------------------------------


def test_a_listing_shows_name_type_size_and_time_of_every_entry(data: Path) -> None:
    (data / "a").write_bytes(b"12345")
    [entry] = list_directory(data)["children"]
    assert set(entry) == {"name", "type", "size", "create_time", "children"}
    assert (entry["name"], entry["type"], entry["size"], entry["children"]) == ("a", "file", 5, [])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry["create_time"])


def test_a_listing_is_a_tree_in_the_order_of_names(data: Path) -> None:
    (data / "b" / "c").mkdir(parents=True)
    (data / "b" / "c" / "f").touch()
    (data / "a").touch()
    top = list_directory(data)
    assert [child["name"] for child in top["children"]] == ["a", "b"]
    assert children(children(children(top)["b"])["c"])["f"]["type"] == "file"


def test_a_directory_inside_can_be_listed_by_its_path(data: Path) -> None:
    (data / "b" / "c").mkdir(parents=True)
    (data / "b" / "c" / "f").touch()
    assert list(children(list_directory(data, ["b", "c"]))) == ["f"]


def test_a_listing_names_the_type_of_an_entry_without_opening_it(
    data: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    (data / "file").touch()
    (data / "directory").mkdir()
    (data / "link").symlink_to(outside)
    os.mkfifo(data / "fifo")  # opening a pipe would wait for a writer forever
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    for name, entry in children(list_directory(data)).items():
        assert entry["type"] == name


def test_a_listing_names_a_device(data: Path) -> None:
    try:
        os.mknod(data / "device", 0o020600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs privileges")
    assert children(list_directory(data))["device"]["type"] == "device"


def test_a_link_is_listed_as_itself_with_its_own_size(data: Path, outside: Path) -> None:
    (data / "link").symlink_to(outside)
    (data / "loop").symlink_to("loop")
    listed = children(list_directory(data))
    assert listed["link"]["size"] == len(os.fsencode(outside))
    assert listed["link"]["children"] == listed["loop"]["children"] == []


def test_the_data_directory_itself_may_be_a_link(data: Path, tmp_path: Path) -> None:
    (data / "f").touch()
    (tmp_path / "alias").symlink_to(data)
    assert list(children(list_directory(tmp_path / "alias"))) == ["f"]
    delete_file(tmp_path / "alias", ["f"])
    assert os.listdir(data) == []


def test_a_name_that_is_not_utf_8_is_printable_and_has_a_form_for_urls(data: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 %")
    (data / odd).touch()
    (data / "caf\\xe9 %").touch()
    (data / "café").touch()
    listed = [(child["name"], child.get("quoted")) for child in list_directory(data)["children"]]
    assert sorted(listed, key=str) == [("caf\\xe9 %", "caf%E9%20%25"), ("caf\\xe9 %", None), ("café", None)]
    delete_file(data, [odd])
    assert sorted(os.listdir(data)) == ["caf\\xe9 %", "café"]


def test_a_listing_stops_at_the_depth_limit_and_marks_the_place(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_DEPTH", 2)
    (data / "a" / "b" / "c").mkdir(parents=True)
    a = children(list_directory(data))["a"]
    b = children(a)["b"]
    assert "truncated" not in a
    assert (b["children"], b["truncated"]) == ([], True)


def test_a_listing_has_no_more_entries_than_the_limit_and_drops_the_deepest(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_ENTRIES", 5)
    for name in "ab":
        (data / name).mkdir()
        for i in range(10):
            (data / name / str(i)).touch()
    top = list_directory(data)
    a, b = top["children"]
    assert "truncated" not in top
    assert (len(a["children"]), a["truncated"]) == (3, True)
    assert (len(b["children"]), b["truncated"]) == (0, True)


def test_a_level_above_the_limit_is_truncated(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ENTRIES", 5)
    for i in range(6):
        (data / str(i)).touch()
    top = list_directory(data)
    assert (len(top["children"]), top["truncated"]) == (5, True)


def test_a_listing_leaves_no_descriptor_open(data: Path) -> None:
    (data / "a" / "b").mkdir(parents=True)
    before = open_descriptors()
    list_directory(data)
    for path in (["a", "none"], ["none"], ["a", ".."]):
        with pytest.raises((OSError, PathError)):
            list_directory(data, path)
    assert open_descriptors() == before


def test_a_file_cannot_be_listed(data: Path) -> None:
    (data / "f").touch()
    with pytest.raises(NotADirectoryError):
        list_directory(data, ["f"])
    with pytest.raises(FileNotFoundError):
        list_directory(data, ["none"])
    with pytest.raises(FileNotFoundError):
        list_directory(data / "none")


# Deleting ----------------------------------------------------------------------------------------


def test_a_regular_file_is_deleted_and_nothing_else(data: Path) -> None:
    (data / "b").mkdir()
    (data / "b" / "f").touch()
    (data / "b" / "g").touch()
    before = open_descriptors()
    delete_file(data, ["b", "f"])
    assert os.listdir(data / "b") == ["g"]
    assert open_descriptors() == before


def test_nothing_but_a_regular_file_is_deleted(data: Path, outside: Path) -> None:
    (data / "directory").mkdir()
    (data / "link").symlink_to(outside / "canary")
    (data / "dangling.lock").symlink_to("nowhere")
    os.mkfifo(data / "fifo")
    there = sorted(os.listdir(data))
    for name in there:
        with pytest.raises(PathError, match="only a regular file"):
            delete_file(data, [name])
    with pytest.raises(PathError, match="data directory itself"):
        delete_file(data, [])
    assert sorted(os.listdir(data)) == there


def test_a_file_in_use_is_not_deleted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    (data / "x.lock").touch()
    (data / "mine").touch()
    for name in ("socket", "x.lock", "mine"):
        with pytest.raises(InUseError, match=name):
            delete_file(data, [name], lambda path: path == ["mine"])
    assert len(os.listdir(data)) == 3


def test_a_path_through_a_file_or_a_missing_directory_is_not_found(data: Path) -> None:
    (data / "f").touch()
    with pytest.raises(NotADirectoryError):
        delete_file(data, ["f", "g"])
    with pytest.raises(FileNotFoundError):
        delete_file(data, ["none"])


BAD_NAMES = {
    "empty": "",
    "the same directory": ".",
    "the directory above": "..",
    "two names": "a/b",
    "absolute": "/etc",
    "with NUL": "a\0",
    "too long": "a" * 256,
    "too long in bytes": "é" * 128,
    "no bytes at all": "\ud800",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
@pytest.mark.parametrize("place", ["alone", "first", "last"])
def test_a_bad_name_is_refused_at_any_place_of_a_path(data: Path, name: str, place: str) -> None:
    (data / "a").mkdir()
    path = {"alone": [name], "first": [name, "a"], "last": ["a", name]}[place]
    for act in (list_directory, delete_file):
        with pytest.raises(PathError):
            act(data, path)


def test_a_path_that_is_too_long_is_refused(data: Path) -> None:
    with pytest.raises(PathError, match="4096 bytes"):
        delete_file(data, ["a" * 255] * 16)


@pytest.mark.parametrize("target", ["outside", "/", "/proc/self/root", ".", "..", "b", "none", "link"])
def test_no_path_leads_through_a_link(data: Path, outside: Path, target: str) -> None:
    (data / "b").mkdir()
    (data / "b" / "f").touch()
    (data / "link").symlink_to(outside if target == "outside" else target)
    for path in (["link"], ["link", "canary"], ["link", "f"], ["link", "etc", "hostname"]):
        for act in (list_directory, delete_file):
            with pytest.raises(PathError, match="link"):
                act(data, path)
    assert os.listdir(data / "b") == ["f"]


# During changes of the directory ----------------------------------------------------------------


def during(change: Callable[[], object]) -> Callable[[Sequence[str]], bool]:
    """Make a change between the check of a file and its deletion: that is when its use is asked for."""

    def in_use(path: Sequence[str]) -> bool:
        change()
        return False

    return in_use


def test_a_directory_replaced_by_a_link_before_the_deletion_is_not_followed(data: Path, outside: Path) -> None:
    (data / "way").mkdir()
    (data / "way" / "canary").touch()

    def swap() -> None:
        (data / "way").rename(data / "moved")
        (data / "way").symlink_to(outside)

    delete_file(data, ["way", "canary"], during(swap))
    assert os.listdir(data / "moved") == []


def test_a_file_replaced_by_a_link_before_the_deletion_loses_only_the_link(data: Path, outside: Path) -> None:
    (data / "f").touch()

    def swap() -> None:
        (data / "f").unlink()
        (data / "f").symlink_to(outside / "canary")

    delete_file(data, ["f"], during(swap))
    assert os.listdir(data) == []


def test_a_file_replaced_by_a_directory_before_the_deletion_is_refused(data: Path) -> None:
    (data / "f").touch()

    def swap() -> None:
        (data / "f").unlink()
        (data / "f").mkdir()

    with pytest.raises(PathError, match="directory"):
        delete_file(data, ["f"], during(swap))


@pytest.mark.slow
def test_no_path_leaves_a_directory_that_is_swapped_for_a_link_repeatedly(data: Path, outside: Path) -> None:
    outcomes: Counter[str] = Counter()
    with swapping(data / "way", outside):
        for i in range(100_000):
            if i >= 3000 and {"listed", "deleted", "PathError"} <= set(outcomes):
                break
            try:
                if i % 2:
                    listed = list_directory(data)
                    assert all(not c["children"] for c in listed["children"] if c["type"] != "directory")
                    found = list_directory(data, ["way"])
                    # The names inside and outside are the same; the file inside is empty.
                    assert all(child["size"] == 0 for child in found["children"])
                    outcomes["listed"] += 1
                else:
                    delete_file(data, ["way", "canary"])
                    outcomes["deleted"] += 1
            except (PathError, FileNotFoundError, NotADirectoryError) as error:
                outcomes[type(error).__name__] += 1
    assert {"listed", "deleted", "PathError"} <= set(outcomes), outcomes
