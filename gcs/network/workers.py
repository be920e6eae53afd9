"""The agent's side of the network worker: starting it, waiting for it, and ending it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from gcs.network.job import LENGTH_BYTES, LONGEST, Outcome, pack
from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.network.job import Job

logger = logging.getLogger(__name__)

#: How long a worker without a job may wait for one, in seconds: it is as large as the agent.
IDLE_SECONDS: Final = 30.0
_STANDARD_ERROR: Final = 2


class WorkerProcess(Protocol):
    """A child process."""

    def kill(self) -> None:
        """Kill it, if it still runs."""

    async def wait(self) -> object:
        """Wait until it has ended."""


class Worker:
    """One worker process, and the socket to it."""

    def __init__(self, spawn: Callable[..., WorkerProcess]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = spawn(command(), stdin=theirs.fileno(), stderr=_STANDARD_ERROR)
            except OSError as error:
                ours.close()
                raise GcsError(f"the network worker can't be started: {error.strerror}") from error
        ours.setblocking(False)
        self._channel = ours

    async def run(self, job: Job, namespace: int) -> Outcome:
        """Have it do a job; see :meth:`Workers.run`."""
        loop = asyncio.get_running_loop()
        message = pack(job)
        try:
            # Fits into the buffer of a new socket, and the descriptor goes with the first byte.
            socket.send_fds(self._channel, [message[:LENGTH_BYTES]], [namespace])
            await loop.sock_sendall(self._channel, message[LENGTH_BYTES:])
            length = int.from_bytes(await self._receive(LENGTH_BYTES), "little")
            if length > LONGEST:
                raise GcsError("the network worker talks nonsense")
            return msgspec.msgpack.decode(await self._receive(length), type=Outcome)
        except (OSError, msgspec.MsgspecError) as error:
            raise GcsError(f"the network worker has failed: {error}") from error

    async def _receive(self, length: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < length:
            piece = await loop.sock_recv(self._channel, length - len(data))
            if not piece:
                raise GcsError("the network worker has ended before its job was done")
            data += piece
        return bytes(data)

    def dismiss(self) -> None:
        """Close the socket: one that waits for a job ends."""
        self._channel.close()

    def end(self) -> None:
        """Kill it, if it has not ended by itself."""
        self._channel.close()
        self._process.kill()

    async def ended(self) -> None:
        """Wait until it has ended."""
        await self._process.wait()


class Workers:
    """Workers, one for each job; one may be ready for the next.

    To be used on the thread of the running loop.

    Args:
        spawn: Starts a process: arguments, and ``stdin`` and ``stderr`` as descriptors.
        idle: Seconds until a worker that is ready and has nothing to do is ended.
    """

    def __init__(self, spawn: Callable[..., WorkerProcess], *, idle: float = IDLE_SECONDS) -> None:
        self._spawn = spawn
        self._idle = idle
        self._ready: Worker | None = None
        self._timer: asyncio.TimerHandle | None = None

    def prepare(self) -> None:
        """Start a worker, unless one is ready: there will soon be a job.

        Raises:
            GcsError: It can't be started.
        """
        if self._ready is None:
            self._ready = Worker(self._spawn)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle, self._dismiss)

    async def run(self, job: Job, namespace: int, limit: float) -> Outcome:
        """Have a job done.

        Args:
            job: What to do.
            namespace: Descriptor of the network namespace; the caller closes it.
            limit: Seconds it may take.

        Returns:
            The outcome, with an error or without.

        Raises:
            GcsError: No outcome: the worker can't be started, died, or took too long.
        """
        worker, self._ready = self._ready or Worker(self._spawn), None
        if self._timer is not None:
            self._timer.cancel()
        try:
            outcome = await asyncio.wait_for(worker.run(job, namespace), limit)
        except TimeoutError:
            raise GcsError(f"the network worker did not finish within {limit:g} s") from None
        finally:
            worker.end()
            await worker.ended()
        if outcome.defect:
            logger.error("the network worker: %s", outcome.defect)
        for remark in outcome.remarks:
            logger.info("%s", remark)
        for text in outcome.left:
            logger.error("left after a failure: %s", text)
        return outcome

    async def close(self) -> None:
        """End the worker that is ready."""
        worker = self._ready
        self._dismiss()
        if worker is not None:
            worker.end()
            await worker.ended()

    def _dismiss(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ready is not None:
            self._ready.dismiss()
            self._ready = None


def command() -> list[str]:
    """Return the command line of a worker: this interpreter, with the options it has."""
    options = [
        option for option, given in (("-I", sys.flags.isolated), ("-S", sys.flags.no_site)) if given
    ]
    return [_interpreter(), *options, "-c", "from gcs.network.worker import main; main()"]


def _interpreter() -> str:
    with contextlib.suppress(OSError):
        return sys.executable or os.readlink("/proc/self/exe")
    raise GcsError("the network worker can't be started: this program's interpreter is not known")
