"""Places a host may name, and directories made and removed."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError
from gcs.storage.mounts import KernelMounts
from gcs.storage.paths import (
    checked_mount_point,
    checked_path,
    checked_target,
    is_inside,
    make_directories,
    remove_directory,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("path", ["", "run/x", "/run/../etc/x", "/run/x/..", "/run/\0x"])
def test_paths_are_absolute_and_do_not_climb(path: str) -> None:
    with pytest.raises(GcsError, match="MountPath"):
        checked_path(path, "MountPath")


def test_a_path_gets_one_form(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    path = f"/{tmp_path}//link/./x y:z//"
    assert checked_path(path, "MountPath") == f"{tmp_path}/real/x y:z"


@pytest.mark.parametrize(
    "path", ["/", "//", "/proc/1", "/sys", "/dev/x", "/run/", "/usr/./lib/gcs"]
)
def test_the_guest_itself_is_no_target(path: str) -> None:
    with pytest.raises(GcsError, match="belongs to the guest itself"):
        checked_target(path, "MountPath")


def test_links_do_not_lead_to_the_guest_itself(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    with pytest.raises(GcsError, match="belongs to the guest itself"):
        checked_target(f"{tmp_path}/link/self", "MountPath")
    with pytest.raises(GcsError, match="is a symbolic link"):
        checked_mount_point(f"{tmp_path}/link", "MountPath")


@pytest.mark.parametrize(
    ("path", "directory", "expected"),
    [
        ("/run/gcs/c/abc", "/run/gcs/c/abc", True),
        ("/run/gcs/c/abc/scratch/abc", "/run/gcs/c/abc", True),
        ("/run/gcs/c/abcdef/scratch", "/run/gcs/c/abc", False),
        ("/run/gcs/c", "/run/gcs/c/abc", False),
        ("/run", "/", True),
    ],
)
def test_inside_goes_by_component(path: str, directory: str, expected: bool) -> None:
    assert is_inside(path, directory) is expected


def test_exactly_the_directories_that_were_made_are_undone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with ExitStack() as undo:
        make_directories(KernelMounts(), f"{tmp_path}/a/b/c", 0o700, undo)
        modes = {stat.S_IMODE(os.stat(f"{tmp_path}/{path}").st_mode) for path in ("a/b", "a/b/c")}
        assert modes == {0o700}
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with ExitStack() as undo, pytest.raises(NotADirectoryError, match="/file'"):
        make_directories(KernelMounts(), f"{tmp_path}/file/a", 0o700, undo)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
def test_a_directory_on_a_dead_disk_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "rmdir", refuse)
    remove_directory(str(tmp_path))


def test_a_directory_with_content_stays(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("precious")
    remove_directory(str(tmp_path))
    assert (tmp_path / "data").read_text() == "precious"
    remove_directory(f"{tmp_path}/missing")
