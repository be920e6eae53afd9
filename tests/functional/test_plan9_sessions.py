"""The 9p server: connections, and what guests send that is no proper request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import struct
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.plan9 import ROOT_FID, Client, attached, connection
from uvm.errors import ListenError, UvmError
from uvm.listen import UnixHostPorts
from uvm.plan9 import operations
from uvm.plan9.codec import NO_TAG, SIZE_FIELD, Message, encode
from uvm.plan9.messages import (
    MESSAGES,
    NO_FID,
    Rattach,
    Rflush,
    Rlerror,
    Rlock,
    Rmkdir,
    Rread,
    Rversion,
    Rwalk,
    Tattach,
    Tclunk,
    Tflush,
    Tfsync,
    Tgetattr,
    Tgetlock,
    Tlcreate,
    Tlink,
    Tlock,
    Tlopen,
    Tmkdir,
    Tmknod,
    Tread,
    Treaddir,
    Treadlink,
    Tremove,
    Trename,
    Trenameat,
    Tsetattr,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Tversion,
    Twalk,
    Twrite,
    Txattrcreate,
    Txattrwalk,
)
from uvm.plan9.server import PLAN9_PORT, ShareServer
from uvm.plan9.share import Share

if TYPE_CHECKING:
    from collections.abc import Iterator


def descriptors() -> list[str]:
    """What the descriptors of this process stand for, but for those of loops and pytest."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(path for path in found if path.startswith("/") and "/fd" not in path)


@pytest.fixture(autouse=True)
def no_descriptor_stays() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def share(tmp_path: Path) -> Path:
    directory = tmp_path / "share"
    directory.mkdir()
    (directory / "f").write_text("content")
    return directory


# --- proper sessions ------------------------------------------------------------------------


async def test_versions(share: Path) -> None:
    async with connection(Share(share)) as client:
        assert await client.version(65536, b"9P2000.u") == Rversion(65536, b"unknown")
        assert (await client.version(100)).version == b"unknown"
        assert await client.version(4096) == Rversion(4096, b"9P2000.L")


async def test_a_new_version_gives_all_fids_up(share: Path) -> None:
    async with attached(share) as client:
        fid = await client.open(b"f")
        await client.version()
        for number in (fid, ROOT_FID):
            with pytest.raises(OSError, match="Errno 9"):
                await client.call(Tclunk(number), Message)
        await client.attach(fid)


async def test_many_requests_at_once(share: Path) -> None:
    (share / "f").write_bytes(os.urandom(1 << 20))
    content = (share / "f").read_bytes()
    async with attached(share) as client:
        fid = await client.open(b"f")
        for number in range(200):
            client.send(Tread(fid, number * 5000, 5000), number + 1)
        found = {}
        for _ in range(200):
            tag, response = await client.receive()
            assert isinstance(response, Rread)
            found[tag] = bytes(response.data)
    assert b"".join(found[number + 1] for number in range(200)) == content[:1_000_000]


async def test_a_flush_is_answered_behind_what_it_is_about(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()
    real = os.pread

    def pread(*arguments: int) -> bytes:
        assert slow.wait(20)
        return real(*arguments)

    async with attached(share) as client:
        fid = await client.open(b"f")
        monkeypatch.setattr(os, "pread", pread)
        client.send(Tread(fid, 0, 100), 1)
        client.send(Tflush(1), 2)
        # It holds nothing up but its own flush; and a flush of nothing is answered at once.
        client.send(Tgetattr(fid, 0), 3)
        assert (await client.receive())[0] == 3
        client.send(Tflush(77), 4)
        assert await client.receive() == (4, Rflush())
        slow.set()
        assert await client.receive() == (1, Rread(b"content"))
        assert await client.receive() == (2, Rflush())


async def test_a_file_that_is_given_up_while_it_is_read(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor is not closed meanwhile: the number could be another file's then."""
    reading, slow = threading.Event(), threading.Event()
    real = os.pread

    def pread(descriptor: int, *arguments: int) -> bytes:
        reading.set()
        assert slow.wait(20)
        return real(descriptor, *arguments)

    async with attached(share) as client:
        fid = await client.open(b"f")
        monkeypatch.setattr(os, "pread", pread)
        client.send(Tread(fid, 0, 100), 1)
        await asyncio.to_thread(reading.wait, 20)
        client.send(Tclunk(fid), 2)
        assert (await client.receive())[0] == 2
        for number in range(20):
            await client.call(Tmkdir(ROOT_FID, b"%d" % number, 0o700, 0), Rmkdir)
        slow.set()
        assert await client.receive() == (1, Rread(b"content"))


async def test_a_connection_that_is_lost_while_it_is_read(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, slow = threading.Event(), threading.Event()
    real = os.pread

    def pread(descriptor: int, *arguments: int) -> bytes:
        reading.set()
        assert slow.wait(20)
        return real(descriptor, *arguments)

    async with attached(share) as client:
        fid = await client.open(b"f")
        await client.call(Tlock(fid, 0, 0, 0, 0, 1, b"c"), Rlock)
        monkeypatch.setattr(os, "pread", pread)
        client.send(Tread(fid, 0, 100), 1)
        await asyncio.to_thread(reading.wait, 20)
        client.writer.transport.abort()
        asyncio.get_running_loop().call_later(0.2, slow.set)


async def test_as_many_fids_as_there_are_descriptors_for(share: Path) -> None:
    async with connection(Share(share), budget=3) as client:
        await client.version()
        await client.attach()
        one = await client.walk(b"f")
        await client.walk(b"f")
        with pytest.raises(OSError, match=f"Errno {errno.EMFILE}"):
            await client.walk(b"f")
        await client.clunk(one)
        await client.walk(b"f")


async def test_who_attaches_to_nothing_is_not_waited_for(share: Path) -> None:
    async with connection(Share(share), attach_limit=0.1) as client:
        await client.version()
        with pytest.raises(EOFError):
            await client.receive()


# --- what is no proper request --------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        SIZE_FIELD.pack(6),
        SIZE_FIELD.pack(0),
        SIZE_FIELD.pack(65537),
        SIZE_FIELD.pack(0xFFFFFFFF),
        struct.pack("<IBH", 100, 116, 1) + b"\0\0",
        encode(NO_TAG, Tread(1, 0, 1)),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["6", "0", "65537", "most", "cut", "no tag", "http"],
)
async def test_what_is_no_frame_ends_the_connection(share: Path, data: bytes) -> None:
    async with attached(share) as client:
        await client.walk(b"f")
        client.writer.write(data)
        if b"\0\0" in data[7:9] and len(data) == 9:
            client.writer.write_eof()
        with pytest.raises(EOFError):
            await client.receive()


async def test_a_request_before_the_version_ends_the_connection(share: Path) -> None:
    async with connection(Share(share)) as client:
        client.send(Tattach(0, NO_FID, b"", b"s", 0))
        with pytest.raises(EOFError):
            await client.receive()


async def test_a_tag_that_is_in_use_ends_the_connection(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()
    monkeypatch.setattr(os, "readlink", lambda *_, **__: slow.wait(20) and b"x")
    os.symlink("x", share / "l")
    async with attached(share) as client:
        fid = await client.walk(b"l")
        client.send(Treadlink(fid), 5)
        client.send(Treadlink(fid), 5)
        with pytest.raises(EOFError):
            await asyncio.wait_for(_release(client, slow), 20)


async def _release(client: Client, event: threading.Event) -> None:
    asyncio.get_running_loop().call_later(0.2, event.set)
    while True:
        await client.receive()


@pytest.mark.parametrize(
    ("number", "body", "error"),
    [
        (116, b"", errno.EINVAL),
        (116, bytes(15), errno.EINVAL),
        (116, bytes(17), errno.EINVAL),
        (110, struct.pack("<IIHH", 0, 9, 1, 50) + b"short", errno.EINVAL),
        (110, struct.pack("<IIH", 0, 9, 17) + b"\1\0x" * 17, errno.EINVAL),
        (118, struct.pack("<IQI", 0, 0, 1000) + b"short", errno.EINVAL),
        (124, b"", errno.EOPNOTSUPP),
        (102, bytes(8), errno.EOPNOTSUPP),
        (117, struct.pack("<I", 0), errno.EOPNOTSUPP),
        (255, bytes(50), errno.EOPNOTSUPP),
        (0, b"", errno.EOPNOTSUPP),
        (120, struct.pack("<I", 12345), errno.EBADF),
        (116, struct.pack("<IQI", 0, (1 << 64) - 1, 5), errno.EBADF),
    ],
)
async def test_a_bad_request_is_answered_and_the_session_goes_on(
    share: Path, number: int, body: bytes, error: int
) -> None:
    async with attached(share) as client:
        client.writer.write(struct.pack("<IBH", 7 + len(body), number, 9) + body)
        assert await client.receive() == (9, Rlerror(error))
        assert await client.read(await client.open(b"f")) == b"content"


async def test_numbers_beyond_what_files_have(share: Path) -> None:
    most = (1 << 64) - 1
    async with attached(share) as client:
        fid, directory = await client.open(b"f", flags=2), await client.open()
        for request in (
            Tread(fid, most, 5),
            Twrite(fid, most, b"x"),
            Treaddir(directory, most, 1000),
            Tlock(fid, 0, 0, most, most, 1, b""),
            Tgetlock(fid, 0, most, 5, 1, b""),
            Tsetattr(fid, 0x1A8, 0, 0, 0, most, most, most, most, most),
        ):
            with pytest.raises(OSError, match=f"Errno {errno.EINVAL}"):
                await client.call(request, Message)
    assert (share / "f").read_text() == "content"


async def test_a_guest_that_reads_no_answers_is_held_back(share: Path) -> None:
    (share / "f").write_bytes(bytes(1 << 20))
    async with attached(share) as client:
        fid = await client.open(b"f")
        sent = 0
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                for number in range(0, 20000, 2):
                    client.send(Tread(fid, 0, 65000), number + 1)
                    client.send(Twalk(fid, 1, [b"x" * 255] * 16), number + 2)
                    await client.writer.drain()
                    sent += 1
        # What was sent waits in buffers of the sockets and of the server: far less than 40 MiB.
        assert sent < 2000
        client.writer.transport.abort()


# --- the server -----------------------------------------------------------------------------


@pytest.fixture
def ports() -> Iterator[UnixHostPorts]:
    directory = Path(tempfile.mkdtemp(prefix="uvm-"))
    yield UnixHostPorts(directory / "vsock")
    shutil.rmtree(directory)


async def dial(ports: UnixHostPorts) -> Client:
    path = f"{ports.uds}_{PLAN9_PORT}"
    return Client(*await asyncio.open_unix_connection(path))


async def test_the_port_is_open_while_there_are_shares(share: Path, ports: UnixHostPorts) -> None:
    server = ShareServer(ports)
    one, other = await server.add(share), await server.add(share, read_only=True)
    assert one.isdecimal()
    assert one != other
    client = await dial(ports)
    await client.version()
    await client.call(Tattach(0, NO_FID, b"", one.encode(), 0), Rattach)
    second = await dial(ports)
    await second.version()
    await second.call(Tattach(0, NO_FID, b"", other.encode(), 0), Rattach)
    await server.remove(one)
    with pytest.raises(EOFError):
        await client.receive()
    assert (await second.call(Twalk(0, 1, [b"f"]), Rwalk)).qids
    with pytest.raises(OSError, match=f"Errno {errno.ENOENT}"):
        await second.call(Tattach(9, NO_FID, b"", one.encode(), 0), Rattach)
    await server.remove(one)
    await server.remove(other)
    with pytest.raises(FileNotFoundError):
        await dial(ports)
    # It can be opened again.
    await server.add(share)
    third = await dial(ports)
    await third.version()
    await server.close()
    await server.close()
    with pytest.raises(EOFError):
        await third.receive()
    for ended in (client, second, third):
        ended.writer.close()
    assert os.listdir(ports.uds.parent) == []


async def test_a_port_that_is_taken(share: Path, ports: UnixHostPorts) -> None:
    listener = ports.listen(PLAN9_PORT)
    server = ShareServer(ports)
    with pytest.raises(ListenError, match=f"can't listen on .*_{PLAN9_PORT}"):
        await server.add(share)
    assert len(server) == 0
    with pytest.raises(UvmError, match="can't be shared"):
        await server.add(share / "f")
    listener.close()


# --- fuzzing --------------------------------------------------------------------------------

FIDS = st.sampled_from([0, 1, 2, 3, NO_FID])
NAMES = st.sampled_from(
    [b"a", b"b", b"f", b"link", b"..", b".", b"", b"a/b", b"/etc", b"\xff\xfe", b"x\0", b"n" * 300]
)
SMALL = st.sampled_from([0, 1, 2, 7, 100, 4096, 1 << 31, (1 << 32) - 1])
LARGE = st.one_of(SMALL, st.sampled_from([1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]))
FLAGS = st.sampled_from([0, 1, 2, 3, 0o102, 0o302, 0o1002, 0o2001, 0o200000])
MODES = st.sampled_from([0o644, 0o755, 0o10644, 0o20666, 0o60666, 0o140600, 0o6755])
DATA = st.binary(max_size=64)
XATTRS = st.sampled_from([b"", b"user.x", b"trusted.x", b"user."])
#: By kind and place where it matters; else any of the field's size.
REQUESTS: dict[type[Message], tuple[st.SearchStrategy[Any], ...]] = {
    Twalk: (FIDS, FIDS, st.lists(NAMES, max_size=4)),
    Tlopen: (FIDS, FLAGS),
    Tlcreate: (FIDS, NAMES, FLAGS, MODES, SMALL),
    Tsymlink: (FIDS, NAMES, NAMES, SMALL),
    Tmknod: (FIDS, NAMES, MODES, SMALL, SMALL, SMALL),
    Trename: (FIDS, FIDS, NAMES),
    Treadlink: (FIDS,),
    Tgetattr: (FIDS, LARGE),
    Tsetattr: (FIDS, SMALL, MODES, SMALL, SMALL, SMALL, LARGE, SMALL, LARGE, SMALL),
    Txattrwalk: (FIDS, FIDS, XATTRS),
    Txattrcreate: (FIDS, XATTRS, SMALL, SMALL),
    Treaddir: (FIDS, LARGE, SMALL),
    Tlock: (FIDS, st.integers(0, 3), SMALL, LARGE, LARGE, SMALL, NAMES),
    Tgetlock: (FIDS, st.integers(0, 3), LARGE, LARGE, SMALL, NAMES),
    Tlink: (FIDS, FIDS, NAMES),
    Tmkdir: (FIDS, NAMES, MODES, SMALL),
    Trenameat: (FIDS, NAMES, FIDS, NAMES),
    Tunlinkat: (FIDS, NAMES, st.sampled_from([0, 0x200])),
    Tattach: (FIDS, st.sampled_from([NO_FID, 0]), NAMES, st.sampled_from([b"s", b"x"]), SMALL),
    Tread: (FIDS, LARGE, SMALL),
    # Not beyond what the disk of a test should hold.
    Twrite: (FIDS, st.integers(0, 1000), DATA),
    Tclunk: (FIDS,),
    Tremove: (FIDS,),
    Tstatfs: (FIDS,),
    Tflush: (st.integers(0, 40),),
    Tversion: (st.sampled_from([100, 4096, 65536]), st.sampled_from([b"9P2000.L", b"9P"])),
}


def request_of(kind: type[Message]) -> st.SearchStrategy[Message]:
    return st.tuples(*REQUESTS[kind]).map(lambda values: kind(*values))


FRAMES = st.lists(
    st.tuples(
        st.sampled_from(sorted(REQUESTS, key=lambda kind: kind.number)).flatmap(request_of),
        st.one_of(
            st.none(), st.none(), st.none(), st.tuples(st.integers(4, 60), st.integers(0, 255))
        ),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(FRAMES)
def test_any_requests_leave_the_server_and_the_host_as_they_were(frames: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="uvm-") as name:
        place = Path(name)
        (place / "outside").write_text("secret")
        (place / "share" / "a" / "b").mkdir(parents=True)
        (place / "share" / "f").write_text("content")
        os.symlink("../outside", place / "share" / "link")
        before = (os.stat(place), os.stat(place / "outside"), descriptors())
        asyncio.run(asyncio.wait_for(send_all(place / "share", frames), 60))
        assert (place / "outside").read_text() == "secret"
        after = (os.stat(place), os.stat(place / "outside"), descriptors())
        assert _essence(after[0]) == _essence(before[0])
        assert _essence(after[1]) == _essence(before[1])
        assert after[2] == before[2]
        assert sorted(os.listdir(place)) == ["outside", "share"]


def _essence(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns)


async def send_all(directory: Path, frames: list[tuple[Message, tuple[int, int] | None]]) -> None:
    """Send requests, some with a wrong byte; each has an answer or the connection has an end."""
    async with attached(directory) as client:
        for number, (request, wrong) in enumerate(frames):
            tag = NO_TAG if isinstance(request, Tversion) else number + 1
            frame = bytearray(encode(tag, request))
            if wrong is not None and wrong[0] < len(frame):
                frame[wrong[0]] = wrong[1]
            try:
                client.writer.write(frame)
                await client.receive()
            except (EOFError, ConnectionError):
                return


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_end_a_connection_at_worst(tmp_path_factory: Any, pieces: list[bytes]) -> None:
    async def send() -> None:
        async with attached(place) as client:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    client.writer.write(SIZE_FIELD.pack(len(piece) + 4) + piece)
                    await client.writer.drain()

    place = tmp_path_factory.mktemp("share")
    (place / "f").write_text("content")
    asyncio.run(asyncio.wait_for(send(), 60))
    assert (place / "f").read_text() == "content"


def test_every_request_is_fuzzed() -> None:
    requests = {kind for kind in MESSAGES.values() if kind.number % 2 == 0}
    assert set(operations._OPERATIONS) | {Tflush, Tversion} == requests
    # One takes long on the disk of a test, and all it has is a fid.
    assert requests - set(REQUESTS) == {Tfsync}
