"""The tree an image is put together in: links inside it are followed, and nothing leads out."""

from __future__ import annotations

import stat

import pytest

from scripts.image.errors import BuildError
from scripts.image.tree import Tree, directory, member_path, mode_for_root, regular, symlink


def paths(tree: Tree) -> list[str]:
    return [path for path, _ in tree]


@pytest.mark.parametrize(
    ("name", "path"),
    [("./bin/sh", "bin/sh"), ("bin//sh/", "bin/sh"), (".", ""), ("./", ""), ("a/./b", "a/b")],
)
def test_member_names_are_normalised(name: str, path: str) -> None:
    assert member_path(name) == path


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a/..", "//x"])
def test_member_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(BuildError, match="member name"):
        member_path(name)


def test_parents_are_made_and_come_first() -> None:
    tree = Tree()
    tree.put("a/b/c", regular(b""))
    tree.put("a-b", regular(b""))
    assert paths(tree) == ["a", "a/b", "a/b/c", "a-b"]


def test_files_go_through_a_linked_directory_of_the_base() -> None:
    tree = Tree()
    tree.put("usr/bin/sh", regular(b"base"))
    tree.put("bin", symlink("usr/bin"))
    delta = Tree()
    delta.put("bin/gcs", regular(b"agent"))
    tree.merge(delta)
    assert tree.nodes["bin"].target == "usr/bin"
    assert tree.nodes["usr/bin/gcs"].read() == b"agent"


def test_an_absolute_link_stays_inside_the_tree() -> None:
    tree = Tree()
    tree.put("var/run", symlink("/../../run"))
    tree.put("var/run/gcs/pid", regular(b"1"))
    assert tree.nodes["run/gcs/pid"].read() == b"1"


def test_a_later_file_replaces_an_earlier_one_and_a_link_itself() -> None:
    tree = Tree()
    tree.put("bin/busybox", regular(b"busybox"))
    tree.put("bin/gcs", symlink("busybox"))
    tree.put("bin/gcs", regular(b"agent"))
    assert tree.nodes["bin/gcs"].read() == b"agent"
    assert tree.nodes["bin/busybox"].read() == b"busybox"


def test_links_in_a_circle_are_an_error() -> None:
    tree = Tree()
    tree.put("a", symlink("b"))
    tree.put("b", symlink("a"))
    with pytest.raises(BuildError, match="too many levels"):
        tree.put("a/x", regular(b""))


def test_a_file_never_replaces_a_directory_nor_the_other_way_round() -> None:
    tree = Tree()
    tree.put("etc/x", regular(b""))
    with pytest.raises(BuildError, match="/etc: a file would replace a directory"):
        tree.put("etc", regular(b""))
    with pytest.raises(BuildError, match="/etc/x: a directory would replace"):
        tree.put("etc/x", directory())
    with pytest.raises(BuildError, match="/etc/x: is no directory"):
        tree.put("etc/x/y", regular(b""))


def test_a_hard_link_needs_its_target() -> None:
    tree = Tree()
    with pytest.raises(BuildError, match="/a: hard link to /b"):
        tree.link("a", "b")


def test_equal_files_are_stored_once_when_they_are_big() -> None:
    tree = Tree()
    for name in ("a", "b"):
        tree.put(f"lib/{name}", regular(b"x" * 70_000, 0o755))
        tree.put(f"etc/{name}", regular(b"x", 0o644))
    tree.put("lib/c", regular(b"x" * 70_000, 0o644))
    tree.share_equal_files()
    assert tree.nodes["lib/a"] is tree.nodes["lib/b"]
    assert tree.nodes["lib/a"] is not tree.nodes["lib/c"]
    assert tree.nodes["etc/a"] is not tree.nodes["etc/b"]


def test_set_id_bits_survive_for_root_only() -> None:
    setuid = stat.S_ISUID | stat.S_ISGID | 0o755
    assert mode_for_root(setuid, 0, 0) == setuid
    assert mode_for_root(setuid, 1000, 1000) == 0o755
    assert mode_for_root(setuid, 0, 1000) == stat.S_ISUID | 0o755


def test_a_tree_is_moved_to_where_links_lead() -> None:
    base, modules = Tree(), Tree()
    base.put("usr/lib", directory())
    base.put("lib", symlink("usr/lib"))
    modules.put("lib/modules/6.1/one.ko", regular(b"1"))
    moved = base.relocate(modules)
    assert moved.nodes["usr/lib/modules/6.1/one.ko"].read() == b"1"
    assert "lib" not in moved
    assert Tree().relocate(modules).nodes.keys() == modules.nodes.keys()
