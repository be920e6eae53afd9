"""Where guests find the shares of a VM: a port, and names."""

import asyncio
import logging
import secrets
import socket
from pathlib import Path
from typing import Final

from uvm.listen import HostPorts, PortListener
from uvm.plan9.fids import Budget
from uvm.plan9.session import ATTACH_LIMIT, Session
from uvm.plan9.share import Share

log = logging.getLogger(__name__)

#: Where a real host's server listens (spec 1.1).
PLAN9_PORT: Final = 564
#: Most connections at once; a guest needs one for each mount.
MOST_SESSIONS: Final = 256
# When descriptors run out, accepting again at once would only spin.
_ACCEPT_PAUSE: Final = 0.1


class ShareServer:
    """Serves directories to the guest of one VM, on one port, while there are any.

    A name is a number, as with a real host. It can't be guessed: a program in any container can
    dial the port, and is not to see what was shared with another one.

    Args:
        host: Where the guest's connections arrive.
        port: Where it dials.
        attach_limit: How long a connection may take to name a share, in seconds.
    """

    def __init__(
        self, host: HostPorts, port: int = PLAN9_PORT, *, attach_limit: float = ATTACH_LIMIT
    ) -> None:
        self.port = port
        self._host = host
        self._attach_limit = attach_limit
        self._shares: dict[bytes, Share] = {}
        self._budget: Budget | None = None
        self._listener: PortListener | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._sessions: dict[Session, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._shares)

    async def add(
        self, directory: Path, *, read_only: bool = False, file: str | None = None
    ) -> str:
        """Share a directory, or one file of it, and return the name of the share.

        The arguments are those of :class:`Share`.

        Raises:
            UvmError: It can't be opened, or is no directory.
            ListenError: The port is taken.
        """
        share = await asyncio.to_thread(Share, directory, read_only=read_only, file=file)
        try:
            if self._listener is None:
                self._listen()
        except BaseException:
            share.release()
            raise
        name = str(secrets.randbits(63))
        self._shares[name.encode()] = share
        return name

    async def remove(self, name: str) -> None:
        """End a share, and the connections that have it; one that is not there is fine."""
        share = self._shares.pop(name.encode(), None)
        if share is not None:
            await self._end([key for key in self._sessions if share in key.shares])
            share.release()
        if not self._shares:
            await self.close()

    async def close(self) -> None:
        """End everything."""
        shares = list(self._shares.values())
        self._shares.clear()
        accepting, self._accepting = self._accepting, None
        listener, self._listener = self._listener, None
        if accepting is not None:
            accepting.cancel()
            await asyncio.wait({accepting})
        if listener is not None:
            listener.close()
        await self._end(list(self._sessions))
        for share in shares:
            share.release()

    def _listen(self) -> None:
        if self._budget is None:
            self._budget = Budget.of_this_process()
        self._listener = self._host.listen(self.port)
        self._accepting = asyncio.create_task(self._accept(self._listener, self._budget))

    async def _accept(self, listener: PortListener, budget: Budget) -> None:
        while True:
            try:
                connected = await listener.accept()
            except OSError as error:
                log.warning("can't accept a connection: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            if len(self._sessions) < MOST_SESSIONS:
                self._start(connected, budget)
            else:
                log.warning("a guest has %d connections, and wants more", MOST_SESSIONS)
                connected.close()

    def _start(self, connected: socket.socket, budget: Budget) -> None:
        session = Session(connected, self._shares.get, budget, attach_limit=self._attach_limit)
        task = asyncio.create_task(session.serve())
        self._sessions[session] = task
        task.add_done_callback(lambda done: self._ended(session, done))

    def _ended(self, session: Session, task: "asyncio.Task[None]") -> None:
        self._sessions.pop(session, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection of a guest failed", exc_info=task.exception())

    async def _end(self, sessions: list[Session]) -> None:
        tasks = [self._sessions[session] for session in sessions]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
