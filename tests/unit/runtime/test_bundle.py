"""Making and removing the directory of a container."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import InvalidArgumentError
from gcs.runtime.bundle import Bundle, check_path, make_directories_beneath, remove_tree

if TYPE_CHECKING:
    from pathlib import Path


def test_undo_removes_what_was_written(tmp_path: Path) -> None:
    bundle = Bundle(os.fspath(tmp_path / "a/b"))
    bundle.write({"config.json": b"{}", "hosts": b"x"})
    assert (tmp_path / "a/b/config.json").read_bytes() == b"{}"
    bundle.undo()
    assert not (tmp_path / "a/b").exists()


def test_undo_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    bundle = Bundle(os.fspath(tmp_path))
    bundle.write({"config.json": b"{}"})
    bundle.undo()
    assert os.listdir(tmp_path) == ["rootfs"]


def test_undo_after_a_failure_half_way(tmp_path: Path) -> None:
    bundle = Bundle(os.fspath(tmp_path / "b"))
    with pytest.raises(FileNotFoundError):
        bundle.write({"one": b"", "missing/two": b""})
    bundle.undo()
    assert not (tmp_path / "b").exists()


def test_remove_tree_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").touch()
    tree = tmp_path / "tree"
    (tree / "deep/deeper").mkdir(parents=True)
    (tree / "deep/file").touch()
    (tree / "link").symlink_to(tmp_path / "outside")
    assert remove_tree(os.fspath(tree)) == []
    assert os.listdir(tmp_path) == ["outside"]
    assert (tmp_path / "outside/precious").exists()


def test_remove_tree_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to("outside")
    assert remove_tree(os.fspath(tmp_path / "link")) == []
    assert os.listdir(tmp_path) == ["outside"]


def test_remove_tree_of_nothing(tmp_path: Path) -> None:
    assert remove_tree(os.fspath(tmp_path / "none/at/all")) == []


def test_make_directories(tmp_path: Path) -> None:
    make_directories_beneath(os.fspath(tmp_path), "/a//b/./c/")
    assert (tmp_path / "a/b/c").is_dir()
    make_directories_beneath(os.fspath(tmp_path), "/a/b/c/d")
    assert (tmp_path / "a/b/c/d").is_dir()


@pytest.mark.parametrize("path", ["/../x", "/link/x", "/a/link/x", "/file/x"])
def test_make_directories_stays_beneath(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "file").touch()
    (root / "link").symlink_to(tmp_path)
    (root / "a/link").symlink_to("../..")
    make_directories_beneath(os.fspath(root), path)
    assert os.listdir(tmp_path) == ["root"]
    assert sorted(os.listdir(root)) == ["a", "file", "link"]


def test_paths() -> None:
    assert check_path("/run//gcs/./c/x/", "bundle") == "/run/gcs/c/x"
    for path in ("", "x", "/", "//", "/x/..", "/a\0b"):
        with pytest.raises(InvalidArgumentError, match="bundle"):
            check_path(path, "bundle")
