"""Watching files."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import pytest

from gcs.linux import inotify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def descriptor() -> Iterator[int]:
    descriptor = inotify.open_inotify()
    yield descriptor
    os.close(descriptor)


def test_changes_of_watched_files_are_told(descriptor: int, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    second.touch()
    watches = [inotify.add_watch(descriptor, str(x), inotify.IN_MODIFY) for x in (first, second)]
    assert inotify.read_events(descriptor) == []
    second.write_text("x")
    assert select.select([descriptor], [], [], 10)[0]
    first.write_text("x")
    assert inotify.read_events(descriptor) == [
        (watch, inotify.IN_MODIFY) for watch in watches[::-1]
    ]


def test_a_removed_watch_tells_its_end_only(descriptor: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    watch = inotify.add_watch(descriptor, str(file), inotify.IN_MODIFY)
    inotify.remove_watch(descriptor, watch)
    file.write_text("x")
    assert inotify.read_events(descriptor) == [(watch, inotify.IN_IGNORED)]
    inotify.remove_watch(descriptor, watch)


def test_names_in_directories_are_skipped(descriptor: int, tmp_path: Path) -> None:
    watch = inotify.add_watch(descriptor, str(tmp_path), inotify.IN_MODIFY)
    for name in ("a", "a-longer-name"):
        (tmp_path / name).write_text("x")
    assert inotify.read_events(descriptor) == [(watch, inotify.IN_MODIFY)] * 2


def test_a_missing_file_is_named(descriptor: int, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"inotify_add_watch.*{tmp_path}/none"):
        inotify.add_watch(descriptor, f"{tmp_path}/none", inotify.IN_MODIFY)
