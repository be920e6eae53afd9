"""Opening paths that must not lead out of a directory."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from gcs.linux.beneath import open_beneath, open_in_root, path_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    base = tmp_path / "base"
    (base / "deep").mkdir(parents=True)
    (base / "file").write_text("inside")
    (tmp_path / "file").write_text("outside")
    (base / "absolute").symlink_to("/file")
    (base / "climbing").symlink_to("../file")
    (base / "deep/inside").symlink_to("../file")
    (base / "magic").symlink_to("/proc/self/cwd")
    (base / "loop").symlink_to("loop")
    descriptor = os.open(base, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def content(descriptor: int) -> str:
    with open(descriptor, encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("path", ["file", "deep/../file", "deep/inside", "./file"])
def test_inside(directory: int, path: str) -> None:
    assert content(open_beneath(directory, path, os.O_RDONLY)) == "inside"
    assert content(open_in_root(directory, path, os.O_RDONLY)) == "inside"


@pytest.mark.parametrize("path", ["../file", "/file", "absolute", "climbing", "deep/../../file"])
def test_what_leads_out(directory: int, path: str) -> None:
    with pytest.raises(OSError, match="open: Invalid cross-device link") as caught:
        open_beneath(directory, path, os.O_RDONLY)
    assert (caught.value.errno, caught.value.filename) == (errno.EXDEV, path)
    assert content(open_in_root(directory, path, os.O_RDONLY)) == "inside"


@pytest.mark.parametrize(("path", "number"), [("loop", errno.ELOOP), ("missing", errno.ENOENT)])
def test_errors_name_the_path(directory: int, path: str, number: int) -> None:
    for function in (open_beneath, open_in_root):
        with pytest.raises(OSError, match=path) as caught:
            function(directory, path, os.O_RDONLY)
        assert caught.value.errno == number


def test_links_of_proc_are_not_followed() -> None:
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    try:
        for function in (open_beneath, open_in_root):
            with pytest.raises(OSError, match="cwd"):
                function(proc, "cwd/anything", os.O_RDONLY)
    finally:
        os.close(proc)


def test_a_file_is_made_with_its_mode_and_closed_on_exec(directory: int) -> None:
    descriptor = open_beneath(directory, "new", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_the_path_of_a_descriptor(directory: int, tmp_path: Path) -> None:
    descriptor = open_beneath(directory, "deep/inside", os.O_PATH)
    try:
        assert path_of(descriptor) == f"{tmp_path}/base/file"
    finally:
        os.close(descriptor)


def test_a_zero_byte_is_not_the_end(directory: int) -> None:
    with pytest.raises(ValueError, match="null byte"):
        open_beneath(directory, "file\0x", os.O_RDONLY)
