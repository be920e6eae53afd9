"""One connection of a guest, from its first message to its end."""

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from uvm.plan9.codec import HEADER, NO_TAG, SIZE_FIELD, MalformedError, Message, decode, encode
from uvm.plan9.fids import Budget
from uvm.plan9.messages import (
    MESSAGES,
    UNKNOWN_VERSION,
    VERSION,
    Rflush,
    Rlerror,
    Rversion,
    Tattach,
    Tflush,
    Tversion,
)
from uvm.plan9.operations import Operations
from uvm.plan9.share import Share

log = logging.getLogger(__name__)

#: Longest message that a guest may ask for, in bytes.
MOST_MESSAGE: Final = 1 << 20
#: Shortest that is of use: names, and the entries of directories, have to fit.
LEAST_MESSAGE: Final = 4096
#: How long a guest may take to attach, in seconds.
ATTACH_LIMIT: Final = 30.0

#: Requests that are carried out at once; others wait in the connection.
_MOST_RUNNING: Final = 16
_WORKERS: Final = 4
#: Before the first message is understood.
_FIRST_LIMIT: Final = 8192
T = TypeVar("T")
_HEADER_REST: Final = struct.Struct("<BH")
#: How long to wait for operations at the end, in seconds; they close what they use, if late.
_LAST_OPERATIONS: Final = 5.0


class Session:
    """A connection.

    Args:
        connected: Its socket; this object closes it.
        find_share: Returns the share of a name, or None.
        budget: How many fids there may be.
        attach_limit: How long the guest may take to attach, in seconds.
    """

    def __init__(
        self,
        connected: socket.socket,
        find_share: Callable[[bytes], Share | None],
        budget: Budget,
        *,
        attach_limit: float = ATTACH_LIMIT,
    ) -> None:
        self._socket = connected
        self._attach_limit = attach_limit
        self._find_share = find_share
        self._operations = Operations(self._attach, budget)
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="9p")
        self._slots = asyncio.Semaphore(_MOST_RUNNING)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._write_lock = asyncio.Lock()
        #: Shares it has attached to.
        self.shares: set[Share] = set()

    async def serve(self) -> None:
        """Answer requests until the connection ends, by whichever side."""
        reader, writer = await asyncio.open_connection(sock=self._socket, limit=MOST_MESSAGE)
        limit = asyncio.get_running_loop().call_later(self._attach_limit, self._check, writer)
        try:
            while (frame := await self._receive(reader)) is not None:
                await self._start(frame, writer)
        except MalformedError as error:
            log.warning("the connection of a guest ends: %s", error)
        except ConnectionError as error:
            log.info("a guest has gone: %s", error)
        finally:
            limit.cancel()
            writer.transport.abort()
            await self._close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _attach(self, name: bytes) -> Share | None:
        share = self._find_share(name)
        if share is not None:
            self.shares.add(share)
        return share

    def _check(self, writer: asyncio.StreamWriter) -> None:
        if not self.shares:
            log.warning("a guest has connected, and attached to nothing")
            writer.transport.abort()

    async def _receive(self, reader: asyncio.StreamReader) -> memoryview | None:
        """Return a message without its size, or None at the end of the connection."""
        try:
            (size,) = SIZE_FIELD.unpack(await reader.readexactly(SIZE_FIELD.size))
            most = self._operations.message_size or _FIRST_LIMIT
            if not HEADER.size <= size <= most:
                raise MalformedError(f"a message of {size} bytes, of {HEADER.size} to {most}")
            return memoryview(await reader.readexactly(size - SIZE_FIELD.size))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise MalformedError("it was lost within a message") from None
            return None

    async def _start(self, frame: memoryview, writer: asyncio.StreamWriter) -> None:
        number, tag = _HEADER_REST.unpack_from(frame)
        body = frame[_HEADER_REST.size :]
        if number == Tversion.number:
            await self._negotiate(tag, body, writer)
            return
        if not self._operations.message_size:
            raise MalformedError(f"request {number} before a version was agreed on")
        if tag in self._running or tag == NO_TAG:
            raise MalformedError(f"tag {tag} of request {number} is in use")
        await self._slots.acquire()
        # What a flush waits for is known now: its tag may be another request's later.
        flushed = self._flushed(number, body)
        task = asyncio.create_task(self._answer(tag, number, body, flushed, writer))
        self._running[tag] = task
        task.add_done_callback(lambda done: self._ended(tag, done))

    def _ended(self, tag: int, task: "asyncio.Task[None]") -> None:
        del self._running[tag]
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("an answer was not sent", exc_info=task.exception())

    def _flushed(self, number: int, body: memoryview) -> "asyncio.Task[None] | None":
        if number != Tflush.number:
            return None
        with contextlib.suppress(MalformedError):
            request = decode(Tflush, body)
            if isinstance(request, Tflush):
                return self._running.get(request.old_tag)
        return None

    async def _negotiate(self, tag: int, body: memoryview, writer: asyncio.StreamWriter) -> None:
        """Begin a session, which ends the one before."""
        if self._running:
            await asyncio.wait(self._running.values())
        await self._in_thread(self._operations.reset)
        request = decode(Tversion, body)
        assert isinstance(request, Tversion)
        size = min(request.message_size, MOST_MESSAGE)
        understood = request.version == VERSION and size >= LEAST_MESSAGE
        self._operations.message_size = size if understood else 0
        response = Rversion(size, VERSION if understood else UNKNOWN_VERSION)
        await self._send(encode(tag, response), writer)

    async def _answer(
        self,
        tag: int,
        number: int,
        body: memoryview,
        flushed: "asyncio.Task[None] | None",
        writer: asyncio.StreamWriter,
    ) -> None:
        if flushed is not None:
            await asyncio.wait({flushed})
        response = await self._respond(number, body)
        try:
            frame = encode(tag, response)
        except MalformedError:
            frame = b""
        if not 0 < len(frame) <= self._operations.message_size:
            frame = encode(tag, Rlerror(errno.EMSGSIZE))
        with contextlib.suppress(ConnectionError):
            await self._send(frame, writer)

    async def _respond(self, number: int, body: memoryview) -> Message:
        kind = MESSAGES.get(number)
        # Responses have odd numbers, and are no requests.
        if kind is None or number % 2:
            return Rlerror(errno.EOPNOTSUPP)
        try:
            request = decode(kind, body)
            if isinstance(request, Tflush):
                return Rflush()
            if isinstance(request, Tattach):
                # Not in a thread: the table of shares is the loop's.
                return self._operations(request)
            return await self._in_thread(self._operations, request)
        except MalformedError as error:
            log.info("a request is refused: %s", error)
            return Rlerror(errno.EINVAL)
        except OSError as error:
            return Rlerror(error.errno or errno.EIO)
        except (ValueError, OverflowError):
            # Numbers that are beyond what this machine's calls take.
            return Rlerror(errno.EINVAL)
        except Exception:
            log.exception("%s failed", kind.__name__)
            return Rlerror(errno.EIO)

    async def _send(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        async with self._write_lock:
            if writer.transport.is_closing():
                return
            writer.write(frame)
            await writer.drain()

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, function, *arguments)

    async def _close(self) -> None:
        running = list(self._running.values())
        if running:
            await asyncio.wait(running, timeout=_LAST_OPERATIONS)
        self._operations.close()
        for task in running:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
