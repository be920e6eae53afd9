"""The 9p server: what each request does to the files of a share, and what none of them can do."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.plan9 import RDWR_CREAT, ROOT_FID, attached, connection, refused, setattr_
from uvm.errors import UvmError
from uvm.plan9.codec import QID_DIRECTORY, QID_SYMLINK
from uvm.plan9.messages import (
    NO_FID,
    SET_ATIME,
    SET_ATIME_GIVEN,
    SET_CTIME,
    SET_GROUP,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_GIVEN,
    SET_SIZE,
    SET_USER,
    Rfsync,
    Rlcreate,
    Rlink,
    Rlopen,
    Rmkdir,
    Rmknod,
    Rreadlink,
    Rremove,
    Rrename,
    Rrenameat,
    Rsetattr,
    Rstatfs,
    Rsymlink,
    Runlinkat,
    Rwalk,
    Tattach,
    Tclunk,
    Tfsync,
    Tlcreate,
    Tlink,
    Tlopen,
    Tmkdir,
    Tmknod,
    Treadlink,
    Tremove,
    Trename,
    Trenameat,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Twalk,
    Twrite,
)
from uvm.plan9.share import Share

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.plan9 import Client

NOBODY = 65534


@pytest.fixture
def share(tmp_path: Path) -> Path:
    directory = tmp_path / "share"
    directory.mkdir()
    (tmp_path / "outside").write_text("secret")
    return directory


def inode(path: Path) -> int:
    return path.stat().st_ino


async def test_a_file_is_created_written_and_read(share: Path) -> None:
    content = os.urandom(300_000)
    async with attached(share, user=1234) as client:
        fid = await client.walk()
        await client.call(Tlcreate(fid, b"f\xff", 0o302, 0o6751, 77), Rlcreate)
        for at in range(0, len(content), 60_000):
            piece = content[at : at + 60_000]
            assert await client.write(fid, piece, at) == len(piece)
        assert (await client.call(Tfsync(fid, 0), Rfsync), await client.read(fid, 1 << 40)) == (
            Rfsync(),
            b"",
        )
        await client.clunk(fid)
        path = os.fsencode(share) + b"/f\xff"
        status = os.stat(path)
        assert (status.st_uid, status.st_gid, status.st_mode) == (1234, 77, stat.S_IFREG | 0o6751)
        fid = await client.open(b"f\xff")
        found = b""
        while piece := await client.read(fid, len(found)):
            found += piece
        assert found == content
        await refused(client, Twrite(fid, 0, b"x"), errno.EBADF)


async def test_no_answer_is_longer_than_agreed(share: Path) -> None:
    (share / "big").write_bytes(bytes(20_000))
    async with connection(Share(share)) as client:
        assert (await client.version(1 << 30)).message_size == 1 << 20
        assert (await client.version(8192)).message_size == 8192
        await client.attach()
        fid = await client.open(b"big")
        assert len(await client.read(fid, 0, 1 << 31)) == 8192 - 24
        os.symlink("x" * 4000, share / "long")
    async with connection(Share(share)) as client:
        await client.version(4096)
        await client.attach()
        # 4000 bytes fit, with what is around them.
        answer = await client.call(Treadlink(await client.walk(b"long")), Rreadlink)
        assert answer.target == b"x" * 4000


async def test_opening_truncates_and_appends(share: Path) -> None:
    (share / "f").write_text("0123456789")
    async with attached(share) as client:
        fid = await client.open(b"f", flags=0o2002)
        await client.write(fid, b"end", 0)
        assert (share / "f").read_text() == "0123456789end"
        await client.open(b"f", flags=0o1001)
        assert (share / "f").read_text() == ""


async def test_creating_what_is_there_already(share: Path) -> None:
    (share / "f").write_text("old")
    os.symlink("../outside", share / "link")
    os.mkfifo(share / "pipe")
    async with attached(share) as client:
        for name, flags, number in (
            (b"f", 0o302, errno.EEXIST),
            (b"link", RDWR_CREAT, errno.ELOOP),
            (b"pipe", RDWR_CREAT, errno.ENXIO),
        ):
            fid = await client.walk()
            await refused(client, Tlcreate(fid, name, flags, 0o600, 0), number)
        fid = await client.create(b"f", flags=RDWR_CREAT)
        assert await client.read(fid) == b"old"
    assert (share.parent / "outside").read_text() == "secret"


async def test_attributes_are_those_of_the_host(share: Path) -> None:
    path = share / "f"
    path.write_bytes(bytes(5000))
    os.utime(path, ns=(-1_500_000_000, 2_000_000_003))
    async with attached(share) as client:
        fid = await client.walk(b"f")
        found = await client.attributes(fid)
        status = path.stat()
        assert (found.mode, found.links, found.size) == (status.st_mode, 1, 5000)
        assert (found.qid.path, found.qid.type, found.blocks) == (status.st_ino, 0, 16)
        # Before 1970, in two's complement.
        assert (found.atime, found.atime_nanoseconds) == ((1 << 64) - 2, 500_000_000)
        assert (found.mtime, found.mtime_nanoseconds) == (2, 3)
        assert 4096 <= found.block_size <= 65536
        root = await client.attributes(ROOT_FID)
        assert root.qid.type == QID_DIRECTORY
        space = await client.call(Tstatfs(ROOT_FID), Rstatfs)
        assert (space.type, space.longest_name) == (0x01021997, 255)
        assert space.blocks == os.statvfs(share).f_blocks


async def test_attributes_are_set_one_by_one(share: Path) -> None:
    path = share / "f"
    path.write_text("0123456789")
    async with attached(share) as client:
        fid = await client.walk(b"f")
        owner = setattr_(fid, SET_USER | SET_GROUP | SET_MODE, user=5, group=6, mode=0o104755)
        await client.call(owner, Rsetattr)
        await client.call(setattr_(fid, SET_GROUP, group=7), Rsetattr)
        await client.call(setattr_(fid, SET_MODE, mode=0o2711), Rsetattr)
        await client.call(setattr_(fid, SET_SIZE, size=4), Rsetattr)
        times = setattr_(fid, SET_ATIME | SET_ATIME_GIVEN, atime=9, atime_nanoseconds=8)
        await client.call(times, Rsetattr)
        status = path.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (5, 7, 0o2711)
        assert (status.st_size, status.st_atime_ns) == (4, 9_000_000_008)
        assert status.st_mtime_ns > 1_000_000_000_000_000_000
        before_1970 = (1 << 64) - 3
        times = setattr_(fid, SET_MTIME | SET_MTIME_GIVEN, mtime=before_1970, mtime_nanoseconds=1)
        await client.call(times, Rsetattr)
        assert (path.stat().st_mtime_ns, path.stat().st_atime_ns) == (-2_999_999_999, 9_000_000_008)
        await client.call(setattr_(fid, SET_MTIME | SET_CTIME), Rsetattr)
        assert path.stat().st_mtime_ns > 1_000_000_000_000_000_000
        await refused(client, setattr_(fid, SET_SIZE, size=1 << 63), errno.EINVAL)


async def test_an_open_file_is_cut_whatever_its_mode_is_now(share: Path) -> None:
    async with attached(share) as client:
        fid = await client.create(b"f", mode=0)
        await client.write(fid, b"0123456789")
        await client.call(setattr_(fid, SET_SIZE, size=3), Rsetattr)
        # Its name may be gone, too.
        await client.call(Tunlinkat(ROOT_FID, b"f", 0), Runlinkat)
        assert (await client.attributes(fid)).size == 3
        assert await client.read(fid) == b"012"


async def test_a_symlink_is_changed_itself(share: Path) -> None:
    (share / "f").write_text("x")
    async with attached(share, user=11) as client:
        await client.call(Tsymlink(ROOT_FID, b"l", b"f", 12), Rsymlink)
        fid = await client.walk(b"l")
        assert (await client.call(Treadlink(fid), Rreadlink)).target == b"f"
        assert (await client.attributes(fid)).qid.type == QID_SYMLINK
        await client.call(setattr_(fid, SET_USER, user=99), Rsetattr)
        assert (os.lstat(share / "l").st_uid, os.lstat(share / "l").st_gid) == (99, 12)
        assert (share / "f").stat().st_uid == os.geteuid()
        await refused(client, setattr_(fid, SET_MODE, mode=0o777), errno.EOPNOTSUPP)
        await refused(client, setattr_(fid, SET_SIZE, size=0), errno.EINVAL)
        await refused(client, Tlopen(fid, 0), errno.ELOOP)


async def test_directories_and_their_removal(share: Path) -> None:
    async with attached(share, user=21) as client:
        made = await client.call(Tmkdir(ROOT_FID, b"d", 0o41777, 22), Rmkdir)
        status = (share / "d").stat()
        assert made.qid.path == status.st_ino
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (21, 22, 0o1777)
        await refused(client, Tmkdir(ROOT_FID, b"d", 0o755, 0), errno.EEXIST)
        (share / "d" / "f").write_text("")
        await refused(client, Tunlinkat(ROOT_FID, b"d", 0x200), errno.ENOTEMPTY)
        await refused(client, Tunlinkat(ROOT_FID, b"d", 0), errno.EISDIR, errno.EPERM)
        directory = await client.walk(b"d")
        await refused(client, Tunlinkat(directory, b"f", 0x200), errno.ENOTDIR)
        await client.call(Tunlinkat(directory, b"f", 0), Runlinkat)
        await client.call(Tremove(directory), Rremove)
        assert os.listdir(share) == []
        await refused(client, Tclunk(directory), errno.EBADF)


async def test_names_are_moved_and_linked(share: Path) -> None:
    (share / "a").mkdir()
    (share / "b").mkdir()
    (share / "a" / "f").write_text("x")
    async with attached(share) as client:
        a, b = await client.walk(b"a"), await client.walk(b"b")
        file = await client.walk(b"a", b"f")
        await client.call(Tlink(b, file, b"hard"), Rlink)
        assert (share / "b" / "hard").stat().st_nlink == 2
        await client.call(Trenameat(a, b"f", b, b"g"), Rrenameat)
        # By the fid, wherever that is now.
        await client.call(Trename(file, a, b"h"), Rrename)
        assert (os.listdir(share / "a"), os.listdir(share / "b")) == (["h"], ["hard"])
        await client.call(Tremove(file), Rremove)
        assert os.listdir(share / "a") == []
        await refused(client, Trenameat(a, b"nothing", b, b"g"), errno.ENOENT)
        await refused(client, Trename(ROOT_FID, a, b"r"), errno.EBUSY)


async def test_nodes_are_pipes_and_sockets_but_no_devices(share: Path) -> None:
    async with attached(share, user=3) as client:
        for name, kind in ((b"p", stat.S_IFIFO), (b"s", stat.S_IFSOCK), (b"f", stat.S_IFREG)):
            await client.call(Tmknod(ROOT_FID, name, kind | 0o624, 0, 0, 4), Rmknod)
            status = os.stat(os.fsencode(share) + b"/" + name)
            assert (status.st_mode, status.st_uid, status.st_gid) == (kind | 0o624, 3, 4)
        for kind in (stat.S_IFBLK, stat.S_IFCHR):
            await refused(client, Tmknod(ROOT_FID, b"d", kind | 0o666, 1, 3, 0), errno.EPERM)
        # Opening a pipe would block.
        await refused(client, Tlopen(await client.walk(b"p"), 0), errno.ENXIO)
    assert sorted(os.listdir(share)) == ["f", "p", "s"]


async def test_a_device_of_the_host_is_not_opened(share: Path) -> None:
    os.mknod(share / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    async with attached(share) as client:
        fid = await client.walk(b"zero")
        assert (await client.attributes(fid)).device == os.makedev(1, 5)
        await refused(client, Tlopen(fid, 0), errno.ENXIO)


async def test_a_directory_is_listed_in_pieces(share: Path) -> None:
    names = sorted(f"{number:04}-{'x' * (number % 200)}".encode() for number in range(2000))
    for name in names:
        (share / os.fsdecode(name)).write_text("")
    (share / "sub").mkdir()
    (share / "link").symlink_to("sub")
    async with attached(share, size=8192) as client:
        fid = await client.open()
        expected = sorted([*names, b".", b"..", b"sub", b"link"])
        for count in (65536, 400):
            assert sorted(await client.names(fid, count)) == expected
        kinds = {name: numbers for numbers, name in await client.entries(fid)}
        kinds |= {name: numbers for numbers, name in await _all_entries(client, fid)}
        assert (kinds[b"sub"][0], kinds[b"link"][0]) == (QID_DIRECTORY, QID_SYMLINK)
        assert kinds[b"sub"][2] == (share / "sub").stat().st_ino
        # What is above the share is not told.
        assert kinds[b".."][2] == kinds[b"."][2] == inode(share)
        with pytest.raises(OSError, match="Errno 22"):
            await client.entries(fid, 0, 20)


async def _all_entries(client: Client, fid: int) -> list[tuple[tuple[int, ...], bytes]]:
    found: list[tuple[tuple[int, ...], bytes]] = []
    while entries := await client.entries(fid, found[-1][0][3] if found else 0):
        found += entries
    return found


async def test_a_directory_can_be_emptied_while_it_is_listed(share: Path) -> None:
    for number in range(500):
        (share / str(number)).write_text("")
    async with attached(share, size=4096) as client:
        fid = await client.open()
        offset = 0
        while entries := await client.entries(fid, offset):
            for _, name in entries:
                if name not in (b".", b".."):
                    await client.call(Tunlinkat(ROOT_FID, name, 0), Runlinkat)
            offset = entries[-1][0][3]
    assert os.listdir(share) == []


async def test_walks(share: Path) -> None:
    (share / "a" / "b").mkdir(parents=True)
    (share / "a" / "f").write_text("x")
    async with attached(share) as client:
        found = await client.call(Twalk(ROOT_FID, 50, [b"a", b"b", b"..", b"f"]), Rwalk)
        assert len(found.qids) == 4
        # What ends behind the first name makes no fid; before it, it is an error.
        found = await client.call(Twalk(ROOT_FID, 51, [b"a", b"none", b"c"]), Rwalk)
        assert len(found.qids) == 1
        await refused(client, Tclunk(51), errno.EBADF)
        await refused(client, Twalk(ROOT_FID, 51, [b"none"]), errno.ENOENT)
        await refused(client, Twalk(50, 51, [b"x"]), errno.ENOTDIR)
        await refused(client, Twalk(ROOT_FID, 50, [b"a"]), errno.EBADF)
        await refused(client, Twalk(777, 51, []), errno.EBADF)
        # In place.
        await client.call(Twalk(50, 50, []), Rwalk)
        assert (await client.attributes(50)).size == 1


async def test_no_way_leads_out(share: Path) -> None:
    outside = share.parent / "outside"
    os.symlink("..", share / "up")
    os.symlink(outside, share / "absolute")
    (share / "d").mkdir()
    async with attached(share) as client:
        for path in ([b".."], [b"..", b".."], [b"d", b"..", b".."]):
            fid = await client.walk(*path)
            assert (await client.attributes(fid)).qid.path == inode(share)
        for path in ([b"up", b"outside"], [b"absolute", b"x"]):
            assert len((await client.call(Twalk(ROOT_FID, 61, path), Rwalk)).qids) == 1
            await refused(client, Tclunk(61), errno.EBADF)
        for name in (b"", b".", b"../outside", b"/etc", b"d/../../outside", b"x\0y"):
            await refused(client, Twalk(ROOT_FID, 62, [name]), errno.EINVAL)
            for request in (
                Tmkdir(ROOT_FID, name, 0o755, 0),
                Tsymlink(ROOT_FID, name, b"t", 0),
                Tmknod(ROOT_FID, name, stat.S_IFIFO, 0, 0, 0),
                Tunlinkat(ROOT_FID, name, 0),
                Tunlinkat(ROOT_FID, b"..", 0x200),
                Trenameat(ROOT_FID, b"d", ROOT_FID, name),
                Trenameat(ROOT_FID, name, ROOT_FID, b"e"),
            ):
                await refused(client, request, errno.EINVAL)
    assert outside.read_text() == "secret"
    assert sorted(os.listdir(share)) == ["absolute", "d", "up"]


async def test_a_directory_that_was_moved_away_leads_nowhere(share: Path, tmp_path: Path) -> None:
    (share / "d" / "e").mkdir(parents=True)
    async with attached(share) as client:
        fid = await client.walk(b"d", b"e")
        (share / "d").rename(tmp_path / "d")
        await refused(client, Twalk(fid, 70, [b".."]), errno.ENOENT)
        await refused(client, Tremove(fid), errno.ENOENT)
        assert (tmp_path / "d" / "e").is_dir()


async def test_a_name_of_more_than_255_bytes(share: Path) -> None:
    async with attached(share) as client:
        fid = await client.walk()
        request = Tlcreate(fid, b"x" * 256, RDWR_CREAT, 0o600, 0)
        await refused(client, request, errno.ENAMETOOLONG)


async def test_a_fid_that_is_open_is_not_opened_again(share: Path) -> None:
    (share / "f").write_text("x")
    async with attached(share) as client:
        fid = await client.open(b"f")
        await refused(client, Tlopen(fid, 0), errno.EBADF)
        await refused(client, Tlcreate(fid, b"g", RDWR_CREAT, 0o600, 0), errno.EBADF)
        await refused(client, Tlopen(await client.walk(b"f"), 3), errno.EINVAL)
        await refused(client, Tfsync(await client.walk(b"f"), 0), errno.EBADF)
        # The walk of an open file is a way to open it again.
        second = client.fid()
        await client.call(Twalk(fid, second, []), Rwalk)
        await client.call(Tlopen(second, 0), Rlopen)
        assert await client.read(second) == b"x"


async def test_attaching_twice_as_somebody_else(share: Path) -> None:
    async with attached(share) as client:
        await client.attach(20, user=NOBODY)
        fid = client.fid()
        await client.call(Twalk(20, fid, []), Rwalk)
        await client.call(Tlcreate(fid, b"f", RDWR_CREAT, 0o600, 0xFFFFFFFF), Rlcreate)
        assert (share / "f").stat().st_uid == NOBODY
        await refused(client, Tattach(20, NO_FID, b"", b"s", 0), errno.EBADF)
        await refused(client, Tattach(21, NO_FID, b"", b"other", 0), errno.ENOENT)
        await refused(client, Tattach(21, 5, b"", b"s", 0), errno.EOPNOTSUPP)


async def test_two_shares_in_one_connection_stay_apart(share: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (share / "f").write_text("x")
    async with connection(Share(share), Share(other)) as client:
        await client.version()
        await client.attach(500)
        await client.attach(501, share=b"ss")
        await refused(client, Trenameat(500, b"f", 501, b"f"), errno.EXDEV)
        file = await client.walk(b"f", fid=500)
        await refused(client, Tlink(501, file, b"f"), errno.EXDEV)
        await refused(client, Trename(file, 501, b"f"), errno.EXDEV)
    assert os.listdir(other) == []


def test_what_can_not_be_shared(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UvmError, match="none can't be shared: No such file"):
        Share(tmp_path / "none")
    with pytest.raises(UvmError, match="file can't be shared: Not a directory"):
        Share(tmp_path / "file")


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[None]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "uvm-test", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


async def test_files_of_several_devices_have_different_numbers(share: Path) -> None:
    with mounted(share / "a"), mounted(share / "b"):
        assert inode(share / "a") == inode(share / "b")
        async with attached(share) as client:
            a, b = [await client.attributes(await client.walk(name)) for name in (b"a", b"b")]
            again = await client.attributes(await client.walk(b"a", b"..", b"a"))
            assert a.qid.path != b.qid.path
            assert a.qid == again.qid
            root = await client.attributes(await client.walk(b"b", b".."))
            assert root.qid.path == inode(share)
