"""Images as files become disks: every form of archive, and what is wrong with some."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from tests.support.ext4_check import fsck
from tests.support.images import (
    ImageFiles,
    archive,
    digest,
    docker_archive,
    layer,
    member,
    write_archive,
)
from uvm.errors import MissingFileError, UvmError
from uvm.image import load
from uvm.image.load import RootFileSystem, load_root, split_source
from uvm.spec import User
from uvm.users import resolve_user

if TYPE_CHECKING:
    from collections.abc import Callable

BASE = layer({"etc/": "", "etc/passwd": "root:x:0:0::/:/bin/sh\n", "gone": "x", "full/": ""})
TOP = archive(
    [
        member("etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n"),
        member(".wh.gone"),
        member("full/.wh..wh..opq"),
        member("full/.wh..wh.plnk"),
        member("tool", "#!", mode=0o4755, uid=1234, gid=70000, mtime=1_000_000_000),
        member("name", kind=tarfile.SYMTYPE, linkname="/somewhere/else", uid=7),
        member("same", kind=tarfile.LNKTYPE, linkname="tool"),
        member("pipe", kind=tarfile.FIFOTYPE),
        member("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("deep/er/file", "x", pax_headers={"SCHILY.xattr.user.note": "a\u00e9"}),
    ]
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "uvm" / "images"


def two_layers(**options: Any) -> ImageFiles:
    files = ImageFiles()
    files.image([BASE, TOP], Cmd=["/bin/app"], Env=["A=1"], **options)
    return files


def inspect(image: Path, command: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", command, image], capture_output=True, check=True, text=True
    ).stdout


def check(image: Path) -> None:
    """See that e2fsck has nothing to say but what tests/functional/test_tar2ext4.py explains."""
    assert fsck(image) == []


def names(cache: Path, beginning: str) -> set[str]:
    return {name for name in os.listdir(cache) if name.startswith(beginning)}


def disk_name(data: bytes) -> str:
    return digest(data).replace(":", "-") + "-2.ext4"


async def load_file(path: Path, reference: str | None = None) -> RootFileSystem:
    return await load_root(path, reference, lambda _: None)


FORMS: dict[str, Callable[[Path], Path]] = {
    "layout": lambda path: two_layers().write_directory(path / "layout"),
    "archive": lambda path: two_layers().write_archive(path / "a.tar"),
    "compressed archive": lambda path: two_layers().write_archive(path / "a.tgz", mode="w:gz"),
    "zstd layers": lambda path: two_layers(compression="+zstd").write_archive(path / "a.tar"),
    "plain layers": lambda path: two_layers(compression="").write_archive(path / "a.tar"),
    "docker": lambda path: two_layers(name="box:1").write_archive(path / "a.tar", docker=True),
    "old docker": lambda path: docker_archive(
        path / "a.tar", {"box:1": [BASE, TOP]}, Cmd=["/bin/app"], Env=["A=1"]
    ),
}


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_gives_the_same_disks(form: str, tmp_path: Path, cache: Path) -> None:
    source = FORMS[form](tmp_path)
    root = await load_file(source)
    assert root.config is not None
    assert (root.config.cmd, root.config.env) == (["/bin/app"], ["A=1"])
    assert [path.name for path in root.layers] == [disk_name(TOP), disk_name(BASE)]
    made = [path.stat().st_ino for path in root.layers]
    again = await load_file(source)
    assert again.layers == root.layers
    assert [path.stat().st_ino for path in again.layers] == made
    assert not names(cache, "new-")


async def test_what_is_in_a_layer(tmp_path: Path) -> None:
    top, base = (await load_file(FORMS["archive"](tmp_path))).layers
    check(top)
    check(base)
    gone = inspect(top, "stat /gone")
    assert "Type: character special" in gone
    assert "Device major/minor number: 00:00" in gone
    assert 'trusted.overlay.opaque (1) = "y"' in inspect(top, "ea_list /full")
    assert "plnk" not in inspect(top, "ls /full")
    tool = inspect(top, "stat /tool")
    assert re.search(r"Mode:\s+04755\s.*User:\s+1234\s+.*Group:\s+70000\s", tool, re.DOTALL)
    assert "Links: 2" in tool
    assert "mtime: 0x3b9aca00" in tool
    link = inspect(top, "stat /name")
    assert 'link dest: "/somewhere/else"' in link
    assert re.search(r"User:\s+7\s", link)
    assert "Type: FIFO" in inspect(top, "stat /pipe")
    assert "01:03" in inspect(top, "stat /null")
    assert "user.note" in inspect(top, "ea_list /deep/er/file")


async def test_users_come_from_the_top_most_layer(tmp_path: Path) -> None:
    root = await load_file(FORMS["archive"](tmp_path))
    assert await resolve_user(root.layers, "web") == User(33, 44)
    linked = archive(
        [
            member("etc/passwd", kind=tarfile.SYMTYPE, linkname="../lib/users"),
            member("lib/users", "app:x:5:6::/:/bin/sh\n"),
        ]
    )
    files = ImageFiles()
    files.image([BASE, linked])
    root = await load_file(files.write_archive(tmp_path / "linked.tar"))
    assert await resolve_user(root.layers, "app") == User(5, 6)
    files = ImageFiles()
    files.image([BASE, layer({"etc/.wh.passwd": ""})])
    root = await load_file(files.write_archive(tmp_path / "removed.tar"))
    with pytest.raises(UvmError, match="no user 'root'"):
        await resolve_user(root.layers, "root")


async def test_a_layer_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    source = docker_archive(tmp_path / "a.tar", {"box:1": [TOP, BASE, TOP]})
    root = await load_file(source)
    assert [path.name[:15] for path in root.layers] == [
        digest(data).replace(":", "-")[:15] for data in (TOP, BASE)
    ]


async def test_images_are_chosen_by_name_and_platform(tmp_path: Path) -> None:
    other = layer({"other": "x"})
    files = ImageFiles()
    files.image([BASE], name="box:1", Cmd=["one"])
    files.image([other], name="box:2", Cmd=["two"])
    source = files.write_archive(tmp_path / "a.tar")
    for reference in ("box:2", "2", "docker.io/library/box:2"):
        root = await load_file(source, reference)
        assert root.config is not None
        assert root.config.cmd == ["two"]
    with pytest.raises(UvmError, match=r"several images: choose one by .*a\.tar#NAME of .*box:1"):
        await load_file(source)
    with pytest.raises(UvmError, match=r"has no image 'box:3': 1, 2, docker\.io/library/box:1"):
        await load_file(source, "box:3")

    files = ImageFiles()
    entries = [
        files.image([other], architecture="arm64", listed=False, Cmd=["arm"]),
        files.image([BASE], listed=False, Cmd=["amd"]),
        files.blob(b"{}", "x/y", platform={"os": "unknown", "architecture": "unknown"}),
    ]
    files.index(entries)
    root = await load_file(files.write_directory(tmp_path / "layout"))
    assert root.config is not None
    assert root.config.cmd == ["amd"]


async def test_names_in_an_old_archive(tmp_path: Path) -> None:
    source = docker_archive(tmp_path / "a.tar", {"one:latest": [BASE], "two:1": [TOP]})
    assert len((await load_file(source, "one")).layers) == 1
    with pytest.raises(UvmError, match="several images"):
        await load_file(source)
    with pytest.raises(UvmError, match="no image 'three'"):
        await load_file(source, "three")
    assert split_source(f"{source}#two:1") == (source, "two:1")
    odd = tmp_path / "a#b"
    odd.touch()
    assert split_source(str(odd)) == (odd, None)


def broken(change: Callable[[dict[str, bytes], ImageFiles], None]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        image = two_layers()
        files = image.all_files()
        change(files, image)
        write_archive(path, files)
        return path

    return write


def blob_name(kind: str, image: ImageFiles) -> str:
    manifest = json.loads(image.files["blobs/" + image.entries[0]["digest"].replace(":", "/")])
    found = {"config": manifest["config"], "layer": manifest["layers"][1]}[kind]
    return "blobs/" + str(found["digest"]).replace(":", "/")


def flip(files: dict[str, bytes], image: ImageFiles, kind: str) -> None:
    name = blob_name(kind, image)
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])


def retype(kind: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        image = two_layers()
        entry = image.entries[0]
        manifest = json.loads(image.files["blobs/" + entry["digest"].replace(":", "/")])
        manifest["layers"][0]["mediaType"] = kind
        image.entries = [image.blob(json.dumps(manifest).encode(), entry["mediaType"])]
        return image.write_archive(path)

    return write


def with_layer(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        image = ImageFiles()
        image.image([BASE, archive(members)])
        return image.write_archive(path)

    return write


def cut(path: Path) -> Path:
    two_layers().write_archive(path)
    os.truncate(path, path.stat().st_size // 2)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut archive": (cut, "is damaged"),
    "missing layer": (
        broken(lambda files, image: files.__delitem__(blob_name("layer", image))),
        "layer sha256:[0-9a-f]{64} is missing",
    ),
    "missing config": (
        broken(lambda files, image: files.__delitem__(blob_name("config", image))),
        "sha256:[0-9a-f]{64} is missing",
    ),
    "changed layer": (
        broken(lambda files, image: flip(files, image, "layer")),
        "has the digest sha256:.* instead of|is damaged",
    ),
    "changed config": (
        broken(lambda files, image: flip(files, image, "config")),
        "has the digest sha256:.* instead of",
    ),
    "index that is no JSON": (
        broken(lambda files, _: files.__setitem__("index.json", b"{")),
        "can't read index.json",
    ),
    "digest that is a path": (
        broken(
            lambda files, _: files.__setitem__(
                "index.json",
                b'{"manifests":[{"digest":"sha256:../../../etc/passwd","size":1}]}',
            )
        ),
        "is no digest",
    ),
    "encrypted layer": (
        retype("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
        "layer 1 is encrypted",
    ),
    "unknown layer": (retype("text/plain"), "layer 1 is of an unknown type, 'text/plain'"),
    "other machine": (
        lambda path: two_layers(architecture="arm64").write_archive(path),
        "no image for linux/amd64: only for linux/arm64",
    ),
    "no image": (lambda path: ImageFiles().write_archive(path), "none at all"),
    "dots in a name": (with_layer(member("a/../../b", "x")), "leads out of the layer"),
    "absolute name": (with_layer(member("/etc/x", "x")), "leads out of the layer"),
    "hard link out": (
        with_layer(member("x", kind=tarfile.LNKTYPE, linkname="../../etc/passwd")),
        "leads out of the layer",
    ),
    "whiteout of the parent": (with_layer(member("a/.wh...", "")), "hides nothing"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_images_leave_nothing(case: str, tmp_path: Path, cache: Path) -> None:
    write, text = BAD[case]
    source = write(tmp_path / "bad.tar")
    with pytest.raises(UvmError, match=text) as raised:
        await load_file(source)
    assert "\n" not in str(raised.value)
    assert str(source) in str(raised.value)
    assert set(os.listdir(cache)) <= {"lock", disk_name(BASE)}


async def test_links_in_a_layer_stay_in_it(tmp_path: Path) -> None:
    """What is put through one is put into the layer, wherever the link leads on the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, target in enumerate((f"../../../../../..{outside}", str(outside))):
        link = member("a", kind=tarfile.SYMTYPE, linkname=target)
        files = ImageFiles()
        files.image([archive([link, member("a/file", str(number))])])
        root = await load_file(files.write_archive(tmp_path / f"{number}.tar"))
        assert inspect(root.layers[0], f"cat {outside}/file") == str(number)
    assert list(outside.iterdir()) == []


async def test_a_layer_as_odd_programs_write_them(tmp_path: Path) -> None:
    """Members that come twice, directories through links, attributes that ext4 does not know."""
    odd = archive(
        [
            member("usr/lib/", kind=tarfile.DIRTYPE),
            member("lib", kind=tarfile.SYMTYPE, linkname="usr/lib"),
            member("lib/library", "first"),
            member("lib/library", "second"),
            member("empty", kind=tarfile.DIRTYPE),
            member("empty", kind=tarfile.SYMTYPE, linkname="usr"),
            member("a", "x", pax_headers={"SCHILY.xattr.nobody.knows": "1"}),
            member("b", "x", pax_headers={"SCHILY.xattr.security.selinux": "system_u:x\0"}),
        ]
    )
    files = ImageFiles()
    files.image([odd])
    (disk,) = (await load_file(files.write_archive(tmp_path / "a.tar"))).layers
    assert inspect(disk, "cat /usr/lib/library") == "second"
    assert "Type: symlink" in inspect(disk, "stat /empty")
    assert "knows" not in inspect(disk, "ea_list /a")
    assert "security.selinux" in inspect(disk, "ea_list /b")


LOAD = """
import asyncio, sys
from pathlib import Path
from uvm.image.load import load_root
for name in sys.argv[1:]:
    print(*asyncio.run(load_root(Path(name), None, lambda _: None)).layers)
"""


def test_disks_need_no_privileges(tmp_path: Path) -> None:
    """Owners, devices and attributes of an archive are bytes of its image."""
    image = FORMS["archive"](tmp_path)
    (tmp_path / "rootfs.tar").write_bytes(TOP)
    nothing = ("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
    result = subprocess.run(
        [
            *("setpriv", *nothing, "--securebits=+noroot,+noroot_locked"),
            *(sys.executable, "-c", LOAD, image, tmp_path / "rootfs.tar"),
        ],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    layers, rootfs = (line.split() for line in result.stdout.splitlines())
    assert len(layers) == 2
    status = inspect(Path(layers[0]), "stat /tool")
    assert re.search(r"User:\s+1234\s+.*Group:\s+70000\s", status)
    assert "01:03" in inspect(Path(rootfs[0]), "stat /null")
    # No layer: its names are names.
    assert "Type: regular" in inspect(Path(rootfs[0]), "stat /.wh.gone")


async def test_what_is_no_image_is_a_root_file_system(tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar.zst"
    data = layer({"etc/": "", "etc/passwd": "root:x:0:0::/:/bin/sh\n"})
    path.write_bytes(zstandard.ZstdCompressor().compress(data))
    root = await load_file(path)
    assert root.config is None
    assert "root:x" in inspect(root.layers[0], "cat /etc/passwd")
    with pytest.raises(UvmError, match="no archive of images: leave #x out"):
        await load_file(tmp_path, "x")
    with pytest.raises(MissingFileError):
        await load_file(tmp_path / "nothing")


async def test_old_layers_go_first(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_KEPT_BYTES", 0)
    first = ImageFiles()
    first.image([BASE])
    second = ImageFiles()
    second.image([TOP])
    await load_file(first.write_archive(tmp_path / "1.tar"))
    root = await load_file(second.write_archive(tmp_path / "2.tar"))
    assert names(cache, "sha256-") == {path.name for path in root.layers}
    # Its note is of no use any more.
    assert len((await load_file(tmp_path / "1.tar")).layers) == 1
