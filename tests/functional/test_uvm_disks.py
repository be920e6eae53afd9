"""Images of root file systems and scratch disks, made with the real tools."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.support.ext4_check import fsck
from uvm.errors import MissingFileError, UvmError
from uvm.spec import User
from uvm.users import resolve_user
from uvm.vm import disks
from uvm.vm.disks import layer_image, scratch_image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "uvm" / "images"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n")
    (tree / "etc/group").write_text("www:x:44:\n")
    (tree / "link").symlink_to("etc/passwd")
    os.mkfifo(tree / "pipe")
    (tree / "large").write_bytes(os.urandom(3 << 20))
    (tree / "a name with spaces").write_text("x")
    os.chown(tree / "large", 1234, 5678)
    (tree / "large").chmod(0o4711)
    return tree


def inspect(image: Path, command: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", command, image], capture_output=True, check=True, text=True
    ).stdout


def check(image: Path) -> None:
    """See that e2fsck has nothing to say but what tests/functional/test_tar2ext4.py explains."""
    assert fsck(image) == []


def pack(archive: Path, flags: str, tree: Path) -> None:
    subprocess.run(["tar", flags, "-f", archive, "-C", tree, "."], check=True)


async def test_an_image_holds_the_tree_with_its_owners(tree: Path, tmp_path: Path) -> None:
    image = await layer_image(tree)
    check(image)
    status = inspect(image, "stat /large")
    assert "User:  1234" in status
    assert "Group:  5678" in status
    assert "Mode:  04711" in status
    assert "Type: FIFO" in inspect(image, "stat /pipe")
    assert 'Fast link dest: "etc/passwd"' in inspect(image, "stat /link")
    copy = tmp_path / "copy"
    inspect(image, f"dump /large {copy}")
    assert copy.read_bytes() == (tree / "large").read_bytes()


@pytest.mark.parametrize("flags", ["-c", "-cz", "-cJ"])
async def test_archives_compressed_or_not(tree: Path, tmp_path: Path, flags: str) -> None:
    archive = tmp_path / "rootfs.tar"
    pack(archive, flags, tree)
    image = await layer_image(archive)
    check(image)
    assert "User:  1234" in inspect(image, "stat /large")


async def test_an_image_is_made_once_and_again_after_a_change(tree: Path) -> None:
    first = await layer_image(tree)
    made = first.stat().st_ino
    assert (await layer_image(tree)).stat().st_ino == made
    (tree / "new").touch()
    assert await layer_image(tree) != first


async def test_only_so_many_images_are_kept(
    tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "_KEPT_IMAGES", 2)
    images = []
    for number in range(3):
        (tree / "number").write_text("x" * number)
        images.append(await layer_image(tree))
    kept = {name for name in os.listdir(cache) if name.startswith("layer-")}
    assert kept == {image.name for image in images[1:]}


async def test_many_small_files_fit(tmp_path: Path) -> None:
    tree = tmp_path / "many"
    tree.mkdir()
    for number in range(5000):
        (tree / str(number)).write_text("x")
    check(await layer_image(tree))


async def test_what_can_not_be_an_image(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(MissingFileError, match="does not exist"):
        await layer_image(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"nonsense" * 1000)
    with pytest.raises(UvmError, match=r"file is no tar archive, or is damaged: .* wrong checksum"):
        await layer_image(tmp_path / "file")
    for name in ("../../x", "a/../../x"):
        with tarfile.open(tmp_path / "out.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        with pytest.raises(UvmError, match=r"must not be unpacked: .* leads out of the archive"):
            await layer_image(tmp_path / "out.tar")
    cut = gzip.compress(bytes(10240))[:-10]
    (tmp_path / "cut.tar.gz").write_bytes(cut)
    with pytest.raises(UvmError, match=r"cut\.tar\.gz.* damaged"):
        await layer_image(tmp_path / "cut.tar.gz")
    assert os.listdir(cache) == ["lock"]


async def test_names_may_begin_with_a_slash(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "rootfs.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("/etc/hostname"))
    image = await layer_image(tmp_path / "rootfs.tar")
    assert "Type: regular" in inspect(image, "stat /etc/hostname")


async def test_a_scratch_disk_is_formatted_and_sparse(tmp_path: Path) -> None:
    path = await scratch_image(tmp_path / "scratch", 1024)
    check(path)
    assert path.stat().st_size == 1 << 30
    assert path.stat().st_blocks * 512 < 64 << 20
    other = await scratch_image(tmp_path / "other", 1024)
    assert other.stat().st_ino != path.stat().st_ino


async def test_users_of_an_image(tree: Path) -> None:
    image = await layer_image(tree)
    assert await resolve_user([image], "web") == User(33, 44)
    assert await resolve_user([image], None) == User()
    assert await resolve_user([image], "5:6") == User(5, 6)
    with pytest.raises(UvmError, match="no user 'nobody'"):
        await resolve_user([image], "nobody")
