"""A client of 9P2000.L that drives the server, message by message."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, TypeVar

import pytest

from uvm.plan9.codec import HEADER, NO_TAG, Message, decode, encode
from uvm.plan9.fids import Budget
from uvm.plan9.messages import (
    MESSAGES,
    NO_FID,
    NO_USER,
    Rattach,
    Rclunk,
    Rgetattr,
    Rlcreate,
    Rlerror,
    Rlopen,
    Rread,
    Rreaddir,
    Rversion,
    Rwalk,
    Rwrite,
    Tattach,
    Tclunk,
    Tgetattr,
    Tlcreate,
    Tlopen,
    Tread,
    Treaddir,
    Tsetattr,
    Tversion,
    Twalk,
    Twrite,
)
from uvm.plan9.session import Session
from uvm.plan9.share import Share

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

R = TypeVar("R", bound=Message)
ROOT_FID = 0
#: Flags of a guest, which are those of x86.
RDWR_CREAT = 0o102
ENTRY = struct.Struct("<BIQQBH")


class Client:
    """One end of a connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._next_fid = 1
        self._next_tag = 1

    def fid(self) -> int:
        """Return a number that is free."""
        self._next_fid += 1
        return self._next_fid

    def send(self, request: Message, tag: int | None = None) -> int:
        """Send a request, and return its tag."""
        if tag is None:
            self._next_tag = self._next_tag % 60000 + 1
            tag = self._next_tag
        self.writer.write(encode(tag, request))
        return tag

    async def receive(self) -> tuple[int, Message]:
        """Return the next response and its tag.

        Raises EOFError at the end of the connection.
        """
        try:
            head = await self._reader.readexactly(HEADER.size)
            size, number, tag = HEADER.unpack(head)
            body = await self._reader.readexactly(size - HEADER.size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise EOFError from error
        return tag, decode(MESSAGES[number], memoryview(body))

    async def call(self, request: Message, answer: type[R]) -> R:
        """Send a request and return its response; an error of the server is an OSError."""
        sent = self.send(request)
        tag, response = await self.receive()
        assert tag == sent
        if isinstance(response, Rlerror):
            raise OSError(response.error, os.strerror(response.error))
        assert isinstance(response, answer), response
        return response

    async def version(self, size: int = 65536, version: bytes = b"9P2000.L") -> Rversion:
        """Begin a session."""
        self.send(Tversion(size, version), NO_TAG)
        tag, response = await self.receive()
        assert tag == NO_TAG
        assert isinstance(response, Rversion), response
        return response

    async def attach(
        self, fid: int = ROOT_FID, *, share: bytes = b"s", user: int = NO_USER
    ) -> Rattach:
        """Attach to the share."""
        return await self.call(Tattach(fid, NO_FID, b"root", share, user), Rattach)

    async def walk(self, *names: bytes, fid: int = ROOT_FID) -> int:
        """Return a new fid at the end of a path."""
        found = self.fid()
        response = await self.call(Twalk(fid, found, names), Rwalk)
        if len(response.qids) < len(names):
            raise OSError(errno.ENOENT, f"{names!r} ends at {len(response.qids)}")
        return found

    async def clunk(self, fid: int) -> None:
        """Give a fid up."""
        await self.call(Tclunk(fid), Rclunk)

    async def open(self, *names: bytes, flags: int = 0) -> int:
        """Return a fid of a file that is open."""
        fid = await self.walk(*names)
        await self.call(Tlopen(fid, flags), Rlopen)
        return fid

    async def create(self, name: bytes, *, flags: int = 0o302, mode: int = 0o644) -> int:
        """Create a file below the root, and return its fid, open."""
        fid = await self.walk()
        await self.call(Tlcreate(fid, name, flags, mode, 0), Rlcreate)
        return fid

    async def read(self, fid: int, offset: int = 0, count: int = 65536) -> bytes:
        """Read once."""
        return bytes((await self.call(Tread(fid, offset, count), Rread)).data)

    async def write(self, fid: int, data: bytes, offset: int = 0) -> int:
        """Write once."""
        return (await self.call(Twrite(fid, offset, data), Rwrite)).count

    async def attributes(self, fid: int) -> Rgetattr:
        """Return attributes."""
        return await self.call(Tgetattr(fid, 0x7FF), Rgetattr)

    async def names(self, fid: int, count: int = 65536) -> list[bytes]:
        """Return the names of an open directory, as many at once as fit."""
        names: list[bytes] = []
        offset = 0
        while entries := await self.entries(fid, offset, count):
            names += [name for _, name in entries]
            offset = entries[-1][0][3]
        return names

    async def entries(
        self, fid: int, offset: int = 0, count: int = 65536
    ) -> list[tuple[tuple[int, ...], bytes]]:
        """Return entries of an open directory: type, version, path, offset, kind; the name."""
        data = bytes((await self.call(Treaddir(fid, offset, count), Rreaddir)).data)
        assert len(data) <= count
        found = []
        at = 0
        while at < len(data):
            *numbers, length = ENTRY.unpack_from(data, at)
            at += ENTRY.size
            found.append((tuple(numbers), data[at : at + length]))
            at += length
        return found


@contextlib.asynccontextmanager
async def connection(
    *shares: Share, budget: int = 1000, attach_limit: float = 60
) -> AsyncIterator[Client]:
    """Serve shares, named ``s``, ``ss`` and so on, over a pair of sockets."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    names = {b"s" * (number + 1): share for number, share in enumerate(shares)}
    session = Session(theirs, names.get, Budget(budget), attach_limit=attach_limit)
    task = asyncio.create_task(session.serve())
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        async with asyncio.timeout(20):
            await task
        for share in shares:
            share.release()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def attached(
    directory: Path, *, read_only: bool = False, user: int = NO_USER, size: int = 65536
) -> AsyncIterator[Client]:
    """As :func:`connection`, of a directory, with the root attached as :data:`ROOT_FID`."""
    async with connection(Share(directory, read_only=read_only)) as client:
        await client.version(size)
        await client.attach(user=user)
        yield client


def setattr_(fid: int, valid: int, **values: int) -> Tsetattr:
    names = ("mode", "user", "group", "size", "atime", "atime_nanoseconds", "mtime")
    fields = dict.fromkeys((*names, "mtime_nanoseconds"), 0) | values
    return Tsetattr(fid, valid, **fields)


async def refused(client: Client, request: Message, *numbers: int) -> None:
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        await client.call(request, Message)
    assert caught.value.errno in numbers, caught.value
