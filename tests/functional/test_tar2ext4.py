"""Images of `tar2ext4` in the hands of the kernel, of e2fsprogs and of cryptsetup."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import io
import os
import re
import stat
import struct
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tar2ext4 import OutputError, convert, verity
from tests.support.ext4_check import fsck
from tests.support.loop_disks import run
from tests.support.tar_archives import ARCHIVES, archive
from tests.support.tar_entries import (
    directory,
    end,
    hard_link,
    header,
    old_sparse,
    pattern,
    pax,
    regular,
    symlink,
    xattrs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
#: Two entries for named users besides the usual three, as the kernel's ABI has them.
ACL = struct.pack(
    "<I" + "HHI" * 6,
    2,
    *(1, 6, 0xFFFFFFFF),
    *(2, 4, 1234),
    *(2, 7, 70000),
    *(4, 4, 0xFFFFFFFF),
    *(16, 7, 0xFFFFFFFF),
    *(32, 0, 0xFFFFFFFF),
)


@contextlib.contextmanager
def mounted(image: Path, target: Path, *options: str) -> Iterator[Path]:
    """The image's file system, read-only."""
    target.mkdir()
    run("mount", "-t", "ext4", "-o", ",".join(("loop", "ro", *options)), str(image), str(target))
    try:
        yield target
    finally:
        run("umount", str(target))


def below(root: Path) -> list[Path]:
    """All paths below a directory, sorted."""
    return sorted(
        root / directory_ / name
        for directory_, directories, files in os.walk(root)
        for name in (*directories, *files)
    )


def attribute_of(path: Path, name: str) -> bytes | None:
    """Its value; None when it is listed, and the kernel makes nothing of it.

    That is so with malformed lists, and with `user.` attributes of symbolic links.
    """
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENODATA):
            raise
        return None


def snapshot(root: Path) -> dict[str, dict[str, Any]]:
    """Everything of a tree that an archive can carry; hard links by the first of their names."""
    names: dict[int, str] = {}
    found: dict[str, dict[str, Any]] = {}
    for path in (root, *below(root)):
        status = path.lstat()
        name = str(path.relative_to(root))
        entry: dict[str, Any] = {
            "mode": stat.filemode(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "mtime": status.st_mtime_ns,
            "links": status.st_nlink,
            "attributes": {
                attribute: attribute_of(path, attribute)
                for attribute in sorted(os.listxattr(path, follow_symlinks=False))
            },
        }
        if not stat.S_ISDIR(status.st_mode):
            entry["same as"] = names.setdefault(status.st_ino, name)
        if stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                entry["data"] = (status.st_size, hashlib.file_digest(file, "sha256").hexdigest())
        elif stat.S_ISLNK(status.st_mode):
            entry["target"] = os.readlink(path)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            entry["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
        found[name] = entry
    return found


def plant(tree: Path) -> None:
    """A tree with one of everything."""
    for size in (0, 1, 60, 61, 136, 137, 4095, 4096, 4097, 3 * MIB + 5):
        (tree / f"size {size}").write_bytes(pattern(size, size))
    for length in (1, 59, 60, 61, 255, 1023):
        (tree / f"link {length}").symlink_to("t" * length)
    with (tree / "sparse").open("wb") as file:
        file.seek(40 * MIB)
        file.write(b"end")
        file.seek(5 * MIB)
        file.write(pattern(10_000))
    plant_modes_and_devices(tree)
    plant_names(tree)


def plant_modes_and_devices(tree: Path) -> None:
    modes = tree / "modes"
    modes.mkdir(0o1777)
    modes.chmod(0o1777)
    for mode in (0, 0o4755, 0o2711, 0o1644, 0o7777):
        (modes / oct(mode)).touch()
        (modes / oct(mode)).chmod(mode)
    owners = tree / "owners"
    owners.mkdir()
    for uid, gid in ((1, 2), (65535, 65536), (2_000_000_000, 4_000_000_000)):
        (owners / str(uid)).touch()
        os.chown(owners / str(uid), uid, gid)
    devices = tree / "devices"
    devices.mkdir()
    os.mkfifo(devices / "fifo")
    for number, (major, minor) in enumerate(((1, 3), (255, 255), (256, 256), (0xFFF, 0xFFFFF))):
        os.mknod(devices / f"c{number}", stat.S_IFCHR | 0o640, os.makedev(major, minor))
        os.mknod(devices / f"b{number}", stat.S_IFBLK | 0o640, os.makedev(major, minor))
    links = tree / "links"
    links.mkdir()
    (links / "file").write_text("x")
    os.link(links / "file", links / "second")
    os.link(links / "file", tree / "third")
    os.link(tree / "link 61", links / "of a symbolic link", follow_symlinks=False)
    attributes = tree / "attributes"
    attributes.mkdir()
    os.setxattr(attributes, "user.of a directory", b"x" * 200)
    os.setxattr(attributes, "system.posix_acl_default", ACL)
    for name, values in {
        "small": {"user.a": b"1", "trusted.b": b"\0\xff", "security.c": b""},
        "large": {"user.block": b"v" * 3000, "user.inode": b"w" * 20},
        "capability": {"security.capability": bytes.fromhex("0100000200200000" + "00" * 12)},
        "list": {"system.posix_acl_access": ACL, "user.behind": b"1"},
    }.items():
        (attributes / name).write_text(name)
        for key, value in values.items():
            os.setxattr(attributes / name, key, value)


def plant_names(tree: Path) -> None:
    names = tree / "names"
    (names / "deep" / ("d" * 255) / "er").mkdir(parents=True)
    for name in ("n" * 255, "nä\u00efve \u65e5\u672c", "a\nb", os.fsdecode(b"\xff")):
        (names / name).touch()
    many = tree / "many"
    many.mkdir()
    for number in range(2000):
        (many / f"a rather long name, so that there are several blocks, {number}").touch()
    for nanoseconds in (
        -1_500_000_000,
        1_000_000_000_123_456_789,
        0x80000000 * 10**9 + 1,
        0x300000000 * 10**9,
    ):
        (tree / f"time {nanoseconds}").touch()
        os.utime(tree / f"time {nanoseconds}", ns=(nanoseconds, nanoseconds))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A real tree packed by GNU tar, and what is in it."""
    base = tmp_path_factory.mktemp("packed")
    tree = base / "tree"
    tree.mkdir()
    plant(tree)
    source = base / "tree.tar"
    # Names sorted: hard links come behind what they link to.
    options = "--format=posix --sparse --sort=name --numeric-owner --xattrs --xattrs-include=*"
    run("tar", "-c", "-f", str(source), *options.split(), "-C", str(tree), ".")
    return source, snapshot(tree)


#: The reference writes access control lists as they are in archives, which the kernel refuses.
LISTS = ("system.posix_acl_access", "system.posix_acl_default")


def without_ours(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A tree without what every ext4 has; root's links count it."""
    assert found.pop("lost+found")["mode"] == "drwx------"
    found["."]["links"] -= 1
    return found


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("as_unpacked", [False, True])
def test_a_tree_packed_by_tar_comes_back(
    as_unpacked: bool,
    inline: bool,
    packed: tuple[Path, dict[str, dict[str, Any]]],
    tmp_path: Path,
) -> None:
    source, expected = packed[0], copy.deepcopy(packed[1])
    image = tmp_path / "out.img"
    convert(source, image, inline_data=inline, as_unpacked=as_unpacked)
    with mounted(image, tmp_path / "mnt") as root:
        found = without_ours(snapshot(root))
        assert ((root / "size 61").stat().st_blocks < 8) == inline
    for tree in (found, expected):
        for name, entry in tree.items():
            # It depends on the file system.
            if entry["mode"].startswith("d"):
                entry.pop("links")
            if not as_unpacked:
                # What the reference writes is not what a kernel reads.
                for attribute in LISTS:
                    entry["attributes"].pop(attribute, None)
                if name.startswith(("time -", "time 2147")):
                    entry.pop("mtime")
    assert found.keys() == expected.keys()
    for name, entry in found.items():
        assert entry == expected[name], name
    # A hole stays one in the image, though not in the file system.
    assert image.stat().st_blocks * 512 < 32 * MIB
    assert [line for line in fsck(image) if as_unpacked or not BEFORE_1970.match(line)] == []


def test_links_and_counts_of_directories(tmp_path: Path) -> None:
    data = directory(b"a") + directory(b"a/b") + directory(b"a/c") + regular(b"a/f") + end()
    image = tmp_path / "out.img"
    convert(io.BytesIO(data), image)
    with mounted(image, tmp_path / "mnt") as root:
        assert (root / "a").stat().st_nlink == 4
        assert root.stat().st_nlink == 4  # ., .., a, lost+found


# --- e2fsck -------------------------------------------------------------------------------------

#: The reference sets all higher bits of a time before 1970, which stands for one after 2310.
BEFORE_1970 = re.compile(r"Timestamp\(s\) on inode \d+ beyond 2310-04-04 are likely pre-1970\.")
#: What has no prefix that ext4 knows has no number on disk; the kernel shows it to nobody.
FOREIGN = re.compile(r"Extended attribute block \d+ is corrupt \((invalid name|allocation .*)\)\.")
#: What of an archive e2fsck has something to say about.
EXPLAINED = {
    "owners_and_times": BEFORE_1970,
    "names": BEFORE_1970,
    "attributes": FOREIGN,
}


@pytest.mark.parametrize(
    ("name", "inline"),
    [(name, inline) for name in ARCHIVES for inline in (False, True) if name != "big_file"]
    # More than the four extents that an inode has room for.
    + [("big_file", False)],
)
def test_the_checker_finds_nothing(name: str, inline: bool, tmp_path: Path) -> None:
    image = tmp_path / "out.img"
    convert(io.BytesIO(archive(name)), image, convert_whiteout=True, inline_data=inline)
    findings = fsck(image)
    if explained := EXPLAINED.get(name):
        assert findings
        findings = [line for line in findings if not explained.match(line)]
    assert findings == []
    with mounted(image, tmp_path / "mnt") as root:
        assert snapshot(root)


@pytest.mark.parametrize("name", sorted({*ARCHIVES} - {"big_file", "replaced", "links"}))
def test_the_checker_finds_nothing_at_all_as_unpacked(name: str, tmp_path: Path) -> None:
    image = tmp_path / "out.img"
    convert(io.BytesIO(archive(name)), image, convert_whiteout=True, as_unpacked=True)
    assert fsck(image) == []
    with mounted(image, tmp_path / "mnt") as root:
        assert snapshot(root)


@pytest.mark.parametrize("name", ["replaced", "links"])
def test_what_was_replaced_keeps_its_blocks(name: str, tmp_path: Path) -> None:
    """They have been written, and nobody can use them on a file system that is read-only."""
    image = tmp_path / "out.img"
    convert(io.BytesIO(archive(name)), image, as_unpacked=True)
    bitmap = re.compile(r"(Block|Inode) bitmap differences:  ?-.*")
    assert [line for line in fsck(image) if not bitmap.match(line)] == []
    with mounted(image, tmp_path / "mnt") as root:
        assert snapshot(root)


def test_the_checker_would_find_something(tmp_path: Path) -> None:
    image = tmp_path / "out.img"
    size = convert(io.BytesIO(archive("links")), image).filesystem_size
    with image.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 4096)
    assert fsck(image)


# --- layers -------------------------------------------------------------------------------------


def test_whiteouts_hide_what_is_below(tmp_path: Path) -> None:
    base = (
        directory(b"dir")
        + regular(b"dir/kept", b"1")
        + regular(b"dir/gone", b"2")
        + directory(b"tree")
        + regular(b"tree/below", b"3")
        + directory(b"opaque")
        + regular(b"opaque/below", b"4")
        + symlink(b"link", b"dir")
        + regular(b"file", b"5")
    )
    top = (
        regular(b"dir/.wh.gone")
        + regular(b".wh.tree")
        + regular(b".wh.link")
        # The directory may come before its mark or behind it.
        + regular(b"opaque/.wh..wh..opq")
        + pax(xattrs(user__kept=b"yes"))
        + directory(b"opaque", mode=0o700, uid=7)
        + regular(b"opaque/above", b"6")
        + regular(b"file", b"7")
    )
    images = []
    for number, data in enumerate((top, base)):
        images.append(tmp_path / f"{number}.img")
        convert(io.BytesIO(data + end()), images[-1], convert_whiteout=True)
        assert fsck(images[-1]) == []
    merged = tmp_path / "merged"
    merged.mkdir()
    with (
        mounted(images[0], tmp_path / "top") as upper,
        mounted(images[1], tmp_path / "base") as lower,
    ):
        hidden = (upper / "dir/gone").lstat()
        assert stat.S_ISCHR(hidden.st_mode)
        assert hidden.st_rdev == 0
        assert os.getxattr(upper / "opaque", "trusted.overlay.opaque") == b"y"
        assert os.getxattr(upper / "opaque", "user.kept") == b"yes"
        run(
            "mount", "-t", "overlay", "overlay", "-o", f"lowerdir={upper}:{lower}", str(merged)
        )  # fmt: skip
        try:
            found = {str(path.relative_to(merged)) for path in below(merged)}
            assert found == {
                *("dir", "dir/kept", "file", "lost+found", "opaque", "opaque/above"),
            }
            assert (merged / "file").read_bytes() == b"7"
            status = (merged / "opaque").stat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, 7)
        finally:
            run("umount", str(merged))


def test_names_that_lead_out_stay_in_the_image(tmp_path: Path) -> None:
    data = (
        regular(b"../../etc/passwd", b"1")
        + regular(b"/absolute", b"2")
        + symlink(b"link", b"/etc")
        + hard_link(b"hard", b"../etc/passwd")
        + header(b"dir/../../device", b"3", device=(1, 3))
    )
    image = tmp_path / "out.img"
    convert(io.BytesIO(data + end()), image)
    with mounted(image, tmp_path / "mnt") as root:
        names = {str(path.relative_to(root)) for path in below(root)}
        assert names == {"absolute", "device", "etc", "etc/passwd", "hard", "link", "lost+found"}
        assert (root / "hard").samefile(root / "etc/passwd")


def read_as(uid: int, directory_: Path, name: str) -> bytes:
    """What a user reads from a file whose parents are private, or why not."""
    descriptor = os.open(directory_, os.O_PATH)
    try:
        return subprocess.run(
            [
                *("setpriv", f"--reuid={uid}", "--regid=5", "--clear-groups"),
                *("cat", f"/proc/self/fd/{descriptor}/{name}"),
            ],
            pass_fds=[descriptor],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        ).stdout
    finally:
        os.close(descriptor)


def test_access_control_lists_do_their_work(tmp_path: Path) -> None:
    data = pax(xattrs(system__posix_acl_access=ACL)) + regular(b"file", b"x", mode=0o670, uid=6)
    image = tmp_path / "out.img"
    convert(io.BytesIO(data + end()), image, as_unpacked=True)
    with mounted(image, tmp_path / "mnt") as root:
        assert os.getxattr(root / "file", "system.posix_acl_access") == ACL
        assert read_as(1234, root, "file") == b"x"
        assert b"Permission denied" in read_as(99, root, "file")


# --- verity -------------------------------------------------------------------------------------


def test_veritysetup_agrees_with_the_tree(tmp_path: Path) -> None:
    image = tmp_path / "out.img"
    source = archive("sizes") + b""
    result = convert(io.BytesIO(source), image, append_dm_verity=True)
    assert result.root_digest is not None
    offset = ("--hash-offset", str(result.filesystem_size))
    run("veritysetup", "verify", *offset, str(image), str(image), result.root_digest)
    dump = run("veritysetup", "dump", *offset, str(image))
    assert re.search(r"Hash type:\s+1\n", dump)
    assert re.search(r"Hash algorithm:\s+sha256\n", dump)
    assert re.search(rf"Data blocks:\s+{result.filesystem_size // 4096}\n", dump)
    # One bit of the data, and it does not any more.
    with image.open("r+b") as file:
        file.seek(result.filesystem_size // 2)
        byte = file.read(1)[0]
        file.seek(result.filesystem_size // 2)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(subprocess.CalledProcessError):
        run("veritysetup", "verify", *offset, str(image), str(image), result.root_digest)


def test_veritysetup_makes_the_same_tree(tmp_path: Path) -> None:
    image, hashes = tmp_path / "out.img", tmp_path / "hashes"
    convert(io.BytesIO(archive("many_files")), image)
    report = run("veritysetup", "format", "--salt", "00" * 32, str(image), str(hashes))
    found = re.search(r"Root hash:\s+(\w+)", report)
    assert found is not None
    with image.open("rb") as file:
        tree = verity.tree(file)
    assert verity.root_digest(tree[:4096]) == found[1]
    assert hashes.read_bytes()[4096 : 4096 + len(tree)] == tree


def test_the_file_system_is_mounted_with_its_tree_and_footer_behind_it(tmp_path: Path) -> None:
    image = tmp_path / "out.vhd"
    options = {"append_dm_verity": True, "append_vhd_footer": True}
    convert(io.BytesIO(archive("links")), image, **options)  # type: ignore[arg-type]
    with mounted(image, tmp_path / "mnt") as root:
        assert (root / "dir/link").read_bytes() == pattern(5000)


# --- where images go ----------------------------------------------------------------------------


def test_a_full_file_system_keeps_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small))
    try:
        (small / "out.img").write_bytes(b"previous")
        with pytest.raises(OutputError, match=r"small/out\.img: cannot write .*No space left"):
            convert(io.BytesIO(archive("sizes")), small / "out.img")
        assert [path.name for path in small.iterdir()] == ["out.img"]
        assert (small / "out.img").read_bytes() == b"previous"
        # With a tree, which is what does not fit any more.
        data = regular(b"file", bytes(range(256)) * 3950) + end()
        with pytest.raises(OutputError, match="No space left"):
            convert(io.BytesIO(data), small / "out.img", append_dm_verity=True)
        assert [path.name for path in small.iterdir()] == ["out.img"]
    finally:
        run("umount", str(small))


def test_a_disk_is_written_in_place(tmp_path: Path) -> None:
    """What was on it shows nowhere, though it has no holes."""
    disk, image = tmp_path / "disk", tmp_path / "out.img"
    disk.write_bytes(b"\xa5" * (16 * MIB))
    data = archive("sizes") + b""
    convert(io.BytesIO(old_sparse(b"hole", MIB, [(0, b"x")]) + data), image)
    device = run("losetup", "--find", "--show", str(disk)).strip()
    try:
        convert(io.BytesIO(old_sparse(b"hole", MIB, [(0, b"x")]) + data), device)
        os.sync()
        written = disk.read_bytes()
    finally:
        run("losetup", "--detach", device)
    size = image.stat().st_size
    assert written[:size] == image.read_bytes()
    assert written[size:] == b"\xa5" * (16 * MIB - size)


# --- memory -------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from tar2ext4 import convert
convert(sys.stdin.buffer, sys.argv[1], append_dm_verity=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(size: int, files: int, image: Path) -> int:
    """Peak memory of a conversion of so many files of altogether so many bytes, by a pipe."""
    command = [sys.executable, "-c", PEAK, str(image)]
    piece = bytes(range(256)) * 4096
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdin, mode="w|", format=tarfile.PAX_FORMAT) as writer:
            for number in range(files):
                info = tarfile.TarInfo(f"file{number}")
                info.size = size // files
                content = io.BytesIO(piece * -(-info.size // len(piece)))
                writer.addfile(info, content)
        process.stdin.close()
        return int(process.stdout.read())


def test_memory_does_not_grow_with_the_size_of_a_layer(tmp_path: Path) -> None:
    small = peak_kib(10 * MIB, 4, tmp_path / "small.img")
    large = peak_kib(200 * MIB, 4, tmp_path / "large.img")
    assert large - small < 2048
