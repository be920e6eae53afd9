"""The 9p server: extended attributes, locks, and shares that guests may not change."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.plan9 import RDWR_CREAT, ROOT_FID, attached, refused, setattr_
from uvm.plan9.messages import (
    LOCK_BLOCKED,
    LOCK_EXCLUSIVE,
    LOCK_NONE,
    LOCK_SHARED,
    LOCK_SUCCESS,
    SET_MODE,
    Rgetlock,
    Rlock,
    Rlopen,
    Rxattrcreate,
    Rxattrwalk,
    Tclunk,
    Tgetlock,
    Tlcreate,
    Tlink,
    Tlock,
    Tlopen,
    Tmkdir,
    Tmknod,
    Tremove,
    Trename,
    Trenameat,
    Tsymlink,
    Tunlinkat,
    Twrite,
    Txattrcreate,
    Txattrwalk,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.plan9 import Client


@pytest.fixture
def share(tmp_path: Path) -> Path:
    directory = tmp_path / "share"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("size", [1, 3000])
async def test_extended_attributes(share: Path, size: int) -> None:
    path = share / "f"
    path.write_text("")
    value = os.urandom(size)
    async with attached(share) as client:
        fid = await client.walk(b"f")
        writer = await client.walk(b"f")
        await client.call(Txattrcreate(writer, b"user.x", size, 0), Rxattrcreate)
        for at in range(0, size, 2000):
            await client.write(writer, value[at : at + 2000], at)
        await client.clunk(writer)
        assert os.getxattr(path, "user.x") == value
        reader = client.fid()
        assert (await client.call(Txattrwalk(fid, reader, b"user.x"), Rxattrwalk)).size == size
        assert await client.read(reader, 0) == value
        assert await client.read(reader, size) == b""
        os.setxattr(path, "trusted.host", b"x")
        names = client.fid()
        await client.call(Txattrwalk(fid, names, b""), Rxattrwalk)
        assert await client.read(names) == b"user.x\0"
        # A kernel removes one by an empty value.
        writer = await client.walk(b"f")
        await client.call(Txattrcreate(writer, b"user.x", 0, os.XATTR_REPLACE), Rxattrcreate)
        await client.clunk(writer)
        assert os.listxattr(path) == ["trusted.host"]


async def test_extended_attributes_that_are_refused(share: Path) -> None:
    (share / "f").write_text("")
    async with attached(share) as client:
        fid = await client.walk(b"f")
        await refused(client, Txattrwalk(fid, 90, b"user.none"), errno.ENODATA)
        for name in (b"trusted.overlay.opaque", b"security.selinux", b"system.posix_acl_access"):
            await refused(client, Txattrwalk(fid, 90, name), errno.EOPNOTSUPP)
            await refused(client, Txattrcreate(fid, name, 1, 0), errno.EOPNOTSUPP)
        await refused(client, Txattrcreate(fid, b"user.x", 1 << 20, 0), errno.E2BIG)
        await client.call(Txattrcreate(fid, b"user.x", 4, 0), Rxattrcreate)
        await refused(client, Txattrcreate(fid, b"user.y", 4, 0), errno.EBADF)
        await refused(client, Twrite(fid, 2, b"xyz"), errno.ENOSPC)
        await client.write(fid, b"ab")
        # What is not complete is not set, and the fid is gone all the same.
        await refused(client, Tclunk(fid), errno.EINVAL)
        await refused(client, Tclunk(fid), errno.EBADF)
    assert os.listxattr(share / "f") == []


async def test_read_only_is_the_servers_word(share: Path) -> None:
    (share / "f").write_text("x")
    (share / "d").mkdir()
    os.setxattr(share / "f", "user.x", b"y")
    async with attached(share, read_only=True) as client:
        before = sorted(os.listdir(share))
        fid = await client.walk(b"f")
        for request in (
            Tlopen(fid, 0o1),
            Tlopen(fid, 0o2),
            Tlopen(fid, 0o1000),
            Tlcreate(ROOT_FID, b"new", RDWR_CREAT, 0o600, 0),
            Tmkdir(ROOT_FID, b"new", 0o700, 0),
            Tsymlink(ROOT_FID, b"new", b"x", 0),
            Tmknod(ROOT_FID, b"new", stat.S_IFIFO, 0, 0, 0),
            Tlink(ROOT_FID, fid, b"new"),
            Trename(fid, ROOT_FID, b"new"),
            Trenameat(ROOT_FID, b"f", ROOT_FID, b"new"),
            Tunlinkat(ROOT_FID, b"f", 0),
            Tunlinkat(ROOT_FID, b"d", 0x200),
            setattr_(fid, SET_MODE, mode=0),
            Txattrcreate(fid, b"user.x", 1, 0),
            Tremove(await client.walk(b"d")),
        ):
            await refused(client, request, errno.EROFS)
        await client.call(Tlopen(fid, 0), Rlopen)
        await refused(client, Twrite(fid, 0, b"y"), errno.EROFS)
        assert await client.read(fid) == b"x"
        assert await client.call(Tlock(fid, LOCK_SHARED, 0, 0, 0, 1, b"c"), Rlock) == Rlock(0)
    assert sorted(os.listdir(share)) == before
    assert (share / "f").read_text() == "x"


async def test_locks(share: Path) -> None:
    (share / "f").write_text("0123456789")
    async with attached(share) as one, attached(share) as other:
        mine, again, theirs = (
            await one.open(b"f", flags=2),
            await one.open(b"f", flags=0),
            await other.open(b"f", flags=2),
        )

        async def lock(client: Client, fid: int, kind: int, process: int, length: int = 5) -> int:
            request = Tlock(fid, kind, 0, 0, length, process, b"c")
            return (await client.call(request, Rlock)).status

        assert await lock(one, mine, LOCK_EXCLUSIVE, 1) == LOCK_SUCCESS
        # Another descriptor of the same process is not in its way; other processes are.
        assert await lock(one, again, LOCK_EXCLUSIVE, 1) == LOCK_SUCCESS
        assert await lock(one, again, LOCK_SHARED, 2) == LOCK_BLOCKED
        assert await lock(other, theirs, LOCK_EXCLUSIVE, 1) == LOCK_BLOCKED
        found = await other.call(Tgetlock(theirs, LOCK_SHARED, 2, 100, 1, b"c"), Rgetlock)
        assert (found.type, found.start, found.length) == (LOCK_EXCLUSIVE, 0, 5)
        found = await other.call(Tgetlock(theirs, LOCK_SHARED, 7, 2, 1, b"c"), Rgetlock)
        assert (found.type, found.start, found.length) == (LOCK_NONE, 7, 2)
        assert await lock(one, mine, LOCK_NONE, 1, 0) == LOCK_SUCCESS
        assert await lock(other, theirs, LOCK_EXCLUSIVE, 1) == LOCK_SUCCESS
        assert await lock(one, mine, LOCK_SHARED, 1) == LOCK_BLOCKED
        # Who gives the file up has no lock on it any more.
        await other.clunk(theirs)
        assert await lock(one, mine, LOCK_SHARED, 1) == LOCK_SUCCESS
        await refused(one, Tlock(mine, 9, 0, 0, 1, 1, b"c"), errno.EINVAL)
        await refused(one, Tlock(ROOT_FID, LOCK_SHARED, 0, 0, 1, 1, b"c"), errno.EBADF)


async def test_a_lock_is_seen_by_programs_of_the_host(share: Path) -> None:
    import fcntl

    (share / "f").write_text("x")
    with (share / "f").open("r+") as file:
        async with attached(share) as client:
            fid = await client.open(b"f", flags=2)
            await client.call(Tlock(fid, LOCK_EXCLUSIVE, 0, 0, 0, 1, b"c"), Rlock)
            with pytest.raises(BlockingIOError):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
