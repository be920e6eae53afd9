"""The resource MappedDirectory: a 9p mount over a connection to the host (spec 3.4)."""

from __future__ import annotations

import errno
import os
import re
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.linux.mount import MS_RDONLY
from gcs.protocol.errors import GcsError, InvalidArgumentError
from gcs.protocol.settings import MappedDirectory
from gcs.storage.mapped_directory import MappedDirectoryDriver
from gcs.transport.base import DialError
from tests.support.storage import RecordingMounts, exists

if TYPE_CHECKING:
    from pathlib import Path

PORT = 0x234


class Host:
    """Accepts dials of one port, and keeps its ends of the connections."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []

    async def dial(self, port: int) -> socket.socket:
        if port != PORT:
            raise DialError(f"cannot connect to port {port}: Connection refused")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.ends.append(theirs)
        return ours

    def connected(self) -> int:
        """Number of connections that the guest has not closed."""
        return sum(not _at_end(end) for end in self.ends)

    def close(self) -> None:
        for end in self.ends:
            end.close()


class SilentServer(RecordingMounts):
    """Mounting and unmounting wait for an answer, as the kernel does, until the connection ends."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = False
        self._connection = -1

    def mount(
        self, source: str, target: str, filesystem: str, flags: int = 0, data: str = ""
    ) -> None:
        (number,) = re.findall(r"rfdno=(\d+)", data)
        self._connection = os.dup(int(number))
        self._wait()
        super().mount(source, target, filesystem, flags, data)

    def unmount(self, target: str, flags: int = 0) -> None:
        if target in self.table:
            try:
                self._wait()
            except OSError:
                super().unmount(target, flags)  # without the server it is unmounted all the same
                return
        super().unmount(target, flags)

    def _wait(self) -> None:
        if not self.answers:
            os.set_blocking(self._connection, True)
            assert os.read(self._connection, 1) == b""
            raise OSError(errno.EIO, "mount: Input/output error")


@pytest.fixture
def host() -> Host:
    return Host()


def share(place: Path, name: str = "7", *, read_only: bool = False) -> MappedDirectory:
    path = f"{place}/a/b"
    return MappedDirectory(mount_path=path, port=PORT, share_name=name, read_only=read_only)


@pytest.mark.parametrize("name", ["7", ""])
@pytest.mark.parametrize("read_only", [False, True])
async def test_life(tmp_path: Path, host: Host, name: str, read_only: bool) -> None:
    mounts = RecordingMounts()
    driver = MappedDirectoryDriver(host, mounts)
    settings = share(tmp_path, name, read_only=read_only)
    await driver.add(settings)
    await driver.add(settings)
    ((source, target, kind, flags, data),) = mounts.mount_calls()
    assert (source, target, kind) == (settings.mount_path, settings.mount_path, "9p")
    assert flags == (MS_RDONLY if read_only else 0)
    form = r"trans=fd,rfdno=(\d+),wfdno=\1,msize=65536" + (",aname=7" if name else "")
    assert re.fullmatch(form, str(data))
    assert os.stat(settings.mount_path).st_mode & 0o777 == 0o700
    assert host.connected() == 1
    await driver.remove(MappedDirectory(mount_path=settings.mount_path))
    await driver.remove(MappedDirectory(mount_path=settings.mount_path))
    assert mounts.table == []
    assert not exists(settings.mount_path)
    assert host.connected() == 0
    host.close()


async def test_failures_leave_nothing(tmp_path: Path, host: Host) -> None:
    mounts = RecordingMounts()
    driver = MappedDirectoryDriver(host, mounts)
    settings = share(tmp_path)
    mounts.failures[settings.mount_path] = errno.ECONNRESET
    text = rf"share '7' of port {PORT} on {settings.mount_path}: .*reset"
    with pytest.raises(GcsError, match=text):
        await driver.add(settings)
    with pytest.raises(DialError, match="port 9"):
        await driver.add(MappedDirectory(mount_path=settings.mount_path, port=9))
    for wrong in (
        MappedDirectory(mount_path=settings.mount_path, port=-1),
        share(tmp_path, "x,access=any"),
    ):
        with pytest.raises(InvalidArgumentError):
            await driver.add(wrong)
    assert os.listdir(tmp_path) == []
    assert host.connected() == 0
    assert driver.shares == {}
    host.close()


async def test_a_place_that_is_taken(tmp_path: Path, host: Host) -> None:
    mounts = RecordingMounts()
    driver = MappedDirectoryDriver(host, mounts)
    settings = share(tmp_path)
    await driver.add(settings)
    with pytest.raises(GcsError, match=r"something is mounted at .* already"):
        await driver.add(share(tmp_path, "8"))
    # Somebody in the VM has unmounted it: then it can be mounted again.
    mounts.unmount(settings.mount_path)
    await driver.add(share(tmp_path, "8"))
    assert host.connected() == 1
    await driver.remove(settings)
    host.close()


async def test_a_server_that_does_not_answer_holds_nothing_up(tmp_path: Path, host: Host) -> None:
    mounts = SilentServer()
    driver = MappedDirectoryDriver(host, mounts, limit=0.05)
    settings = share(tmp_path)
    with pytest.raises(GcsError, match=r"did not answer within 0\.05 s"):
        await driver.add(settings)
    assert not exists(settings.mount_path)
    mounts.answers = True
    await driver.add(settings)
    mounts.answers = False
    await driver.remove(settings)
    assert mounts.table == []
    assert not exists(settings.mount_path)
    assert driver.shares == {}
    host.close()


def _at_end(end: socket.socket) -> bool:
    end.setblocking(False)
    try:
        return end.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
