"""The 9p server with a share of one file: what a guest sees of its directory, and may do there."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.plan9 import ROOT_FID, connection, refused, setattr_
from uvm.plan9.messages import (
    Rsetattr,
    Tlcreate,
    Tlink,
    Tmkdir,
    Tmknod,
    Tremove,
    Trename,
    Trenameat,
    Tsymlink,
    Tunlinkat,
    Twalk,
    Txattrcreate,
)
from uvm.plan9.share import Share

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.plan9 import Client

NAME = b"the file"
SET_MODE = 1


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "of many"
    directory.mkdir()
    for number in range(3000):
        (directory / f"other{number}").write_text("secret")
    (directory / "inner").mkdir()
    (directory / os.fsdecode(NAME)).write_text("content")
    return directory


@contextlib.asynccontextmanager
async def shared(directory: Path, *, read_only: bool = False) -> AsyncIterator[Client]:
    share = Share(directory, read_only=read_only, file=os.fsdecode(NAME))
    async with connection(share) as client:
        await client.version()
        await client.attach()
        yield client


def listing(directory: Path) -> dict[str, object]:
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    return files | {".": directory.stat().st_mode}


async def test_nothing_else_is_seen(directory: Path) -> None:
    async with shared(directory) as client:
        root = await client.open()
        # Whatever fits into one answer: thousands of entries are passed over for the one.
        for count in (65536, 64):
            assert sorted(await client.names(root, count)) == [b".", b"..", NAME]
        for name in (b"other7", b"inner", b"nothing"):
            await refused(client, Twalk(ROOT_FID, client.fid(), [name]), errno.ENOENT)
        fid = await client.walk(b"..", NAME)
        assert (await client.attributes(fid)).size == len("content")
        await refused(client, Twalk(fid, client.fid(), [b"other7"]), errno.ENOTDIR)


async def test_it_is_read_written_and_changed(directory: Path) -> None:
    path = directory / os.fsdecode(NAME)
    async with shared(directory) as client:
        fid = await client.open(NAME, flags=2)
        assert await client.read(fid) == b"content"
        await client.write(fid, b"C")
        assert path.read_text() == "Content"
        await client.call(setattr_(fid, SET_MODE, mode=0o600), Rsetattr)
        assert path.stat().st_mode & 0o777 == 0o600
        # As editors do it.
        (directory / "new").write_text("anew")
        os.rename(directory / "new", path)
        assert await client.read(await client.open(NAME)) == b"anew"
    async with shared(directory, read_only=True) as client:
        with pytest.raises(OSError, match="Read-only"):
            await client.open(NAME, flags=2)
        assert await client.read(await client.open(NAME)) == b"anew"


async def test_names_stay_as_they_are(directory: Path) -> None:
    before = listing(directory)
    async with shared(directory) as client:
        file, nobody = await client.walk(NAME), 0xFFFF_FFFF
        for request in (
            Tlcreate(await client.walk(), b"new", 0o102, 0o644, nobody),
            Tlcreate(await client.walk(), b"other7", 0o1002, 0o644, nobody),
            Tmkdir(ROOT_FID, b"new", 0o755, nobody),
            Tsymlink(ROOT_FID, b"new", b"/etc", nobody),
            Tmknod(ROOT_FID, b"new", 0o100644, 0, 0, nobody),
            Tlink(ROOT_FID, file, b"new"),
            Trename(file, ROOT_FID, b"new"),
            Trenameat(ROOT_FID, b"other7", ROOT_FID, NAME),
            Tunlinkat(ROOT_FID, b"other7", 0),
            Tunlinkat(ROOT_FID, NAME, 0),
            Tremove(await client.walk(NAME)),
            setattr_(ROOT_FID, SET_MODE, mode=0o777),
            Txattrcreate(await client.walk(), b"user.x", 1, 0),
        ):
            await refused(client, request, errno.EPERM)
    assert listing(directory) == before


async def test_a_directory_in_its_place_is_not_shared(directory: Path) -> None:
    path = directory / os.fsdecode(NAME)
    path.unlink()
    path.mkdir()
    (path / "within").write_text("secret")
    (path / os.fsdecode(NAME)).write_text("secret")
    async with shared(directory) as client:
        fid = await client.open(NAME)
        for name in (b"within", NAME):
            await refused(client, Twalk(fid, client.fid(), [name]), errno.ENOENT)
        assert sorted(await client.names(fid)) == [b".", b".."]
