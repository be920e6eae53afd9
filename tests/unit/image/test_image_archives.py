"""Archives: what is written is what other tools read, and what other tools write is read."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from scripts.image import archive, cpio, tarball
from scripts.image.errors import BuildError
from scripts.image.tree import FileSlice, Node, Tree, directory, regular, symlink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMATS = pytest.mark.parametrize("kind", [cpio, tarball])


def sample() -> Tree:
    tree = Tree()
    tree.put("bin/tool", regular(b"#!/bin/sh\n", 0o755))
    tree.link("bin/other", "bin/tool")
    tree.put("bin/link", symlink("tool"))
    tree.put("dev/null", Node(stat.S_IFCHR | 0o666, device=(1, 3)))
    tree.put("empty", regular(b""))
    tree.put("tmp", directory(0o1777))
    tree.put("odd \udcff name", regular(b"x" * 5000))
    return tree


def described(tree: Tree) -> dict[str, tuple[int, bytes, str, tuple[int, int]]]:
    return {path: (node.mode, node.read(), node.target, node.device) for path, node in tree}


def written(kind: object, tree: Tree, mtime: int = 1_700_000_000) -> bytes:
    out = io.BytesIO()
    kind.write(tree, out, mtime)  # type: ignore[attr-defined]
    return out.getvalue()


def stored(folder: Path, data: bytes) -> Path:
    path = folder / "archive"
    path.write_bytes(data)
    return path


@FORMATS
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_written_is_read_again(
    tmp_path: Path, kind: object, pack: Callable[[bytes], bytes]
) -> None:
    path = stored(tmp_path, pack(written(kind, sample())))
    tree = archive.read(path, tmp_path / "work")
    assert described(tree) == described(sample())
    assert tree.nodes["bin/tool"] is tree.nodes["bin/other"]


@FORMATS
def test_the_same_tree_gives_the_same_bytes_in_whatever_order_it_was_filled(kind: object) -> None:
    other = Tree()
    for path, node in reversed(list(sample())):
        other.nodes[path] = node
    assert written(kind, other) == written(kind, sample())


def test_gnu_cpio_unpacks_what_is_written(tmp_path: Path) -> None:
    target = tmp_path / "root"
    target.mkdir()
    data = written(cpio, sample())
    subprocess.run(["cpio", "-idm", "--quiet"], input=data, cwd=target, check=True)
    assert (target / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (target / "bin/tool").samefile(target / "bin/other")
    assert os.readlink(target / "bin/link") == "tool"
    assert (target / "tmp").stat().st_mode == stat.S_IFDIR | 0o1777
    assert (target / "bin/tool").stat().st_mtime == 1_700_000_000


@pytest.mark.parametrize("form", ["newc", "crc", "odc"])
def test_archives_of_gnu_cpio_are_read(tmp_path: Path, form: str) -> None:
    source = tmp_path / "root"
    (source / "bin").mkdir(parents=True)
    (source / "bin/tool").write_bytes(b"tool")
    (source / "bin/other").hardlink_to(source / "bin/tool")
    (source / "link").symlink_to("bin/tool")
    names = b".\n./bin\n./bin/tool\n./bin/other\n./link\n"
    data = subprocess.run(
        ["cpio", "-o", "--quiet", f"--format={form}"],
        input=names,
        cwd=source,
        check=True,
        capture_output=True,
    ).stdout
    tree = archive.read(stored(tmp_path, data), tmp_path)
    assert tree.nodes["bin/tool"].read() == tree.nodes["bin/other"].read() == b"tool"
    assert tree.nodes["link"].target == "bin/tool"


def test_a_second_cpio_archive_behind_the_first_is_read(tmp_path: Path) -> None:
    later = Tree()
    later.put("etc/later", regular(b"2"))
    data = written(cpio, sample()) + bytes(512) + written(cpio, later)
    tree = archive.read(stored(tmp_path, data), tmp_path)
    assert {"bin/tool", "etc/later"} <= set(tree.nodes)


@FORMATS
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_truncation_is_noticed(
    tmp_path: Path, kind: object, pack: Callable[[bytes], bytes]
) -> None:
    whole = written(kind, sample())
    end = len(whole)
    if kind is tarball:  # zeros behind the end-of-archive blocks may be missing
        end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    packed = pack(whole[:end] if pack is bytes else whole)
    for size in sorted({*range(1, len(packed), 101), len(packed) - 1}):
        with pytest.raises(BuildError):
            archive.read(stored(tmp_path, packed[:size]), tmp_path / "work")


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../outside"])
def test_members_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(BuildError, match="member name"):
        archive.read(stored(tmp_path, out.getvalue()), tmp_path)
    harmless = Tree()
    harmless.nodes["x" * len(name)] = regular(b"")
    data = written(cpio, harmless).replace(b"x" * len(name), name.encode())
    with pytest.raises(BuildError, match="member name"):
        archive.read(stored(tmp_path, data), tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither a tar nor a cpio"),
        (b"hello" * 1000, "neither a tar nor a cpio"),
        (gzip.compress(b"hello" * 1000), "neither a tar nor a cpio"),
        (b"\xfd7zXZ\0" + bytes(600), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed with zstd"),
    ],
)
def test_what_is_no_archive_is_refused_with_the_reason(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = stored(tmp_path, data)
    with pytest.raises(BuildError, match=message) as caught:
        archive.read(path, tmp_path / "work")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="absent: No such file"):
        archive.read(tmp_path / "absent", tmp_path)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
@given(position=st.integers(0, 3000), value=st.integers(0, 255))
def test_a_damaged_archive_is_read_or_refused_but_nothing_else(
    tmp_path: Path, position: int, value: int
) -> None:
    for kind in (cpio, tarball):
        data = bytearray(written(kind, sample()))
        data[position % len(data)] = value
        with contextlib.suppress(BuildError):
            archive.read(stored(tmp_path, bytes(data)), tmp_path / "work")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "product"
    path.write_bytes(b"old")
    shortened = tmp_path / "shortened"
    shortened.write_bytes(b"123")
    tree = Tree()
    tree.put("file", regular(FileSlice(shortened, 0, 10)))

    def write() -> None:
        with archive.gzipped(path) as out:
            cpio.write(tree, out, 0)

    with pytest.raises(BuildError, match="shortened: changed"):
        write()
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [path, shortened]


def test_the_gzip_header_has_neither_name_nor_time(tmp_path: Path) -> None:
    with archive.gzipped(tmp_path / "product.gz") as out:
        out.write(b"x")
    header = (tmp_path / "product.gz").read_bytes()[:10]
    assert header[3:8] == bytes(5)
