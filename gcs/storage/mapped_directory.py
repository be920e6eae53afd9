"""Resource `MappedDirectory`: a directory of the host, shared by 9p (spec 3.4)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import msgspec

from gcs.linux.mount import MS_RDONLY
from gcs.protocol.errors import GcsError, InvalidArgumentError, error_text
from gcs.protocol.settings import MappedDirectory
from gcs.protocol.trace import span
from gcs.storage.driver import PathLocks, ResourceDriver, in_thread
from gcs.storage.mounts import (
    KernelMounts,
    is_mounted,
    require_unmounted,
    unmount_path,
)
from gcs.storage.paths import checked_mount_point, checked_target, make_directories

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gcs.storage.mounts import MountSystem
    from gcs.transport import Transport

#: Longest message of 9p, and the buffers of its connection, in bytes.
MESSAGE_SIZE: Final = 65536
#: How long the server of the host may take to answer a mount, in seconds.
ANSWER_LIMIT: Final = 60.0
# A comma would begin another option.
_UNUSABLE: Final = frozenset(",\0")


class Share(msgspec.Struct, frozen=True):
    """A directory that is mounted."""

    settings: MappedDirectory
    connection: socket.socket
    """The kernel's connection: kept to cut it off, should the host not answer any more."""


class MappedDirectoryDriver(ResourceDriver[MappedDirectory]):
    """Mounts directories of the host.

    transport: dials the host's server.
    system: mounts them.
    limit: seconds the server may take.
    """

    def __init__(
        self,
        transport: Transport,
        system: MountSystem | None = None,
        *,
        limit: float = ANSWER_LIMIT,
    ) -> None:
        self._transport = transport
        self._system: MountSystem = KernelMounts() if system is None else system
        self._limit = limit
        self._locks = PathLocks()
        #: Mount path, free of symbolic links → what is there.
        self.shares: dict[str, Share] = {}

    async def add(self, settings: MappedDirectory) -> None:
        """Dial the host's 9p server and mount what it shares.

        The same settings a second time change nothing.

        Raises GcsError when the server can't be reached, doesn't answer or refuses, and when the
        mount path is taken; InvalidArgumentError for a port or a name that can't be.
        """
        path = checked_mount_point(settings.mount_path, "MountPath")
        if not settings.port > 0:
            raise InvalidArgumentError(f"{path}: {settings.port} is no port of a 9p server")
        if _UNUSABLE.intersection(settings.share_name):
            raise InvalidArgumentError(
                f"{path}: ShareName {settings.share_name[:100]!r} has a comma or a zero byte"
            )
        attributes = {"port": settings.port, "shareName": settings.share_name}
        with span("plan9::Mount", target=path, **attributes, readonly=settings.read_only):
            async with self._locks.of(path):
                if await in_thread(self._is_there, path, settings):
                    return
                await self._add(path, settings)

    async def remove(self, settings: MappedDirectory) -> None:
        """Unmount the directory; one that is not there is fine.

        Raises GcsError when it is in use.
        """
        path = checked_target(settings.mount_path, "MountPath")
        async with self._locks.of(path):
            share = self.shares.get(path)
            unmounting = in_thread(unmount_path, self._system, path)
            if share is None:
                await unmounting
                return
            await self._limited(unmounting, share.connection)
            del self.shares[path]
            share.connection.close()

    def _is_there(self, path: str, settings: MappedDirectory) -> bool:
        known = self.shares.get(path)
        if known is not None and is_mounted(self._system, path):
            if known.settings == settings:
                return True
        elif known is not None:
            # A process of the VM has unmounted it.
            self.shares.pop(path).connection.close()
        require_unmounted(self._system, path)
        return False

    async def _add(self, path: str, settings: MappedDirectory) -> None:
        what = f"share {settings.share_name!r} of port {settings.port} on {path}"
        connection = await self._transport.dial(settings.port)
        with ExitStack() as undo:
            undo.callback(connection.close)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                connection.setsockopt(socket.SOL_SOCKET, option, MESSAGE_SIZE)
            try:
                mounting = in_thread(self._mount, path, settings, connection)
                in_time = await self._limited(mounting, connection)
            except OSError as error:
                raise GcsError(f"{what}: {error_text(error)}") from error
            except asyncio.CancelledError:
                await in_thread(unmount_path, self._system, path)
                raise
            if not in_time:
                await in_thread(unmount_path, self._system, path)
                raise GcsError(f"{what}: the connection was cut while it was being mounted")
            self.shares[path] = Share(settings, connection)
            undo.pop_all()

    async def _limited(self, work: Coroutine[None, None, None], connection: socket.socket) -> bool:
        """Await work of the kernel's on a connection, which is cut when it takes too long.

        The kernel waits for the server's answer without limit, as long as one can come.

        Returns:
            Whether it ended within the limit.

        Raises:
            OSError: What the work raises, or TimeoutError when that is for want of an answer.
        """
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait([task], timeout=self._limit)
        except asyncio.CancelledError:
            _cut(connection)
            await asyncio.wait([task])
            raise
        if not done:
            _cut(connection)
        try:
            await task
        except OSError as error:
            if done:
                raise
            text = f"the host's 9p server did not answer within {self._limit:g} s"
            raise TimeoutError(error.errno, text) from error
        return bool(done)

    def _mount(self, path: str, settings: MappedDirectory, connection: socket.socket) -> None:
        descriptor = connection.fileno()
        data = f"trans=fd,rfdno={descriptor},wfdno={descriptor},msize={MESSAGE_SIZE}"
        if settings.share_name:
            data += f",aname={settings.share_name}"
        with ExitStack() as undo:
            make_directories(self._system, path, 0o700, undo)
            flags = MS_RDONLY if settings.read_only else 0
            self._system.mount(path, path, "9p", flags, data)
            undo.pop_all()


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the host has closed it
        connection.shutdown(socket.SHUT_RDWR)
