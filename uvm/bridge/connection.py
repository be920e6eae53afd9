"""A connection to the agent: frames, outstanding calls, notifications.

The rules are those of a real host (spec 1.4): whatever breaks them ends the connection, and every
outstanding call with it.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from gcs.protocol.errors import FramingError
from gcs.protocol.frame import (
    HEADER_SIZE,
    MAX_TO_GUEST,
    MAX_TO_HOST,
    MessageType,
    decode_header,
    encode_frame,
    is_response,
    response_type,
    type_name,
)
from uvm.errors import BridgeClosedError, BridgeTimeoutError

#: A real host gives up the connection when a call takes longer, in seconds (spec 2.10).
RPC_TIMEOUT: Final = 300.0
#: How long an agent may take to close its end of a connection that is given up, in seconds.
_DETACH_SECONDS: Final = 30.0


class OutstandingCall:
    """A request that was sent and not yet answered.

    Args:
        request_type: Its type.
        body: Its body.
        answer: The body of its answer.
    """

    __slots__ = ("answer", "body", "request_type")

    def __init__(self, request_type: int, body: bytes, answer: "asyncio.Future[bytes]") -> None:
        self.request_type = request_type
        self.body = body
        self.answer = answer

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""
        if not self.answer.done():
            self.answer.set_exception(error)
            # A call that its caller gave up has nobody left to look at the result.
            self.answer.exception()


class BridgeConnection(asyncio.Protocol):
    """One connection, from its accept to its end.

    Args:
        on_notification: Called with the body of each notification. An exception it raises ends
            the connection.
        first_id: Id of the first request; a real host starts at 0.
        answer_limit: Seconds within which a call is to be answered.
    """

    def __init__(
        self,
        on_notification: Callable[[bytes], None] | None = None,
        *,
        first_id: int = 0,
        answer_limit: float = RPC_TIMEOUT,
    ) -> None:
        self._on_notification = on_notification
        self._answer_limit = answer_limit
        self._next_id = first_id
        self._calls: dict[int, OutstandingCall] = {}
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._cause: BaseException | None = None
        self._detaching = False
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls,
        connected: socket.socket,
        on_notification: Callable[[bytes], None] | None = None,
        *,
        first_id: int = 0,
        answer_limit: float = RPC_TIMEOUT,
    ) -> "BridgeConnection":
        """Take over a connected stream socket."""
        connected.setblocking(False)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(on_notification, first_id=first_id, answer_limit=answer_limit),
            sock=connected,
        )
        return connection

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._closed.done()

    @property
    def outstanding(self) -> list[int]:
        """Ids of the requests that were not answered yet."""
        return list(self._calls)

    @property
    def next_id(self) -> int:
        """Id of the next request."""
        return self._next_id

    @property
    def detached(self) -> bool:
        """Whether the connection was given up on purpose, for another one to go on."""
        return self._detaching

    def adopt(self, calls: dict[int, OutstandingCall], next_id: int) -> None:
        """Go on where another connection ended (spec 1.10).

        Args:
            calls: Its outstanding calls by their ids; they will be answered on this one.
            next_id: Id of the next request, unless this connection is that far already.
        """
        self._calls.update(calls)
        self._next_id = max(self._next_id, next_id)

    async def detach(self) -> dict[int, OutstandingCall]:
        """End the connection, having read all that the agent sent on it.

        Returns the calls that are not answered; who waits for them goes on waiting.

        Raises:
            BridgeClosedError: The connection has failed; so have its calls.
        """
        if self._closed.done() or self._transport is None:
            raise self._closed_error()
        self._detaching = True
        self._transport.write_eof()
        await asyncio.wait({self._closed}, timeout=_DETACH_SECONDS)
        if not self._closed.done():
            self.kill(BridgeTimeoutError("the agent does not close its end of the connection"))
        if self._cause is not None:
            raise self._closed_error()
        calls, self._calls = self._calls, {}
        return calls

    async def wait_closed(self) -> BaseException | None:
        """Wait for the end of the connection and return its cause; ``None`` is a clean end."""
        await asyncio.shield(self._closed)
        return self._cause

    async def call(self, message_type: int, body: bytes, *, limited: bool = True) -> bytes:
        """Send a request and return the body of its answer.

        A caller that is cancelled leaves the request outstanding: its answer is dropped.

        Args:
            message_type: Type of the request.
            body: JSON document.
            limited: Give up the connection when the answer takes longer than the limit.

        Raises:
            BridgeClosedError: The connection is gone, or went while waiting.
            BridgeTimeoutError: No answer in time.
            FramingError: The request is longer than an agent accepts.
        """
        transport = self._transport
        if self._closed.done() or transport is None:
            raise self._closed_error()
        sequence = self._next_id
        frame = encode_frame(message_type, sequence, body, limit=MAX_TO_GUEST)
        self._next_id += 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[sequence] = OutstandingCall(message_type, body, answer)
        transport.write(frame)
        if not limited:
            return await answer
        done, _ = await asyncio.wait({answer}, timeout=self._answer_limit)
        if not done:
            name = type_name(message_type)
            self.kill(BridgeTimeoutError(f"no answer to {name} in {self._answer_limit:g} s"))
        return answer.result()

    def kill(self, cause: BaseException | None = None) -> None:
        """End the connection; outstanding and later calls fail with the cause."""
        if self._closed.done():
            return
        self._cause = cause
        self._closed.set_result(None)
        if self._transport is not None:
            self._transport.abort()
        if self._detaching and cause is None:
            return
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(self._closed_error())

    async def close(self) -> None:
        """End the connection and wait until the socket is closed."""
        self.kill(None)
        await asyncio.sleep(0)

    def _closed_error(self) -> BridgeClosedError:
        if isinstance(self._cause, BridgeClosedError):
            return type(self._cause)(*self._cause.args)
        reason = f": {self._cause}" if self._cause else ""
        error = BridgeClosedError(f"the connection to the agent is closed{reason}")
        if self._cause is not None:  # setting it to none would hide the error that came before
            error.__cause__ = self._cause
        return error

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.kill(exc)

    def eof_received(self) -> bool:
        """Called by the event loop: an end between two frames is a clean one."""
        if self._buffer:
            self.kill(FramingError("the agent closed the connection in the middle of a message"))
        else:
            self.kill(None)
        return False

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._buffer += data
        try:
            self._consume_frames()
        except Exception as error:  # noqa: BLE001 - whatever it is, the stream is of no more use
            self.kill(error)

    def _consume_frames(self) -> None:
        buffer = self._buffer
        position = 0
        while not self._closed.done() and len(buffer) - position >= HEADER_SIZE:
            header = decode_header(buffer[position : position + HEADER_SIZE], limit=MAX_TO_HOST)
            if len(buffer) - position < header.size:
                break
            body = bytes(buffer[position + HEADER_SIZE : position + header.size])
            position += header.size
            self._dispatch(header.type, header.id, body)
        del buffer[:position]

    def _dispatch(self, message_type: int, sequence: int, body: bytes) -> None:
        if is_response(message_type):
            self._answer(message_type, sequence, body)
        elif message_type == MessageType.NOTIFICATION:
            if self._on_notification is not None:
                self._on_notification(body)
        else:
            raise FramingError(f"the agent sent a {type_name(message_type)}")

    def _answer(self, message_type: int, sequence: int, body: bytes) -> None:
        call = self._calls.pop(sequence, None)
        if call is None:
            raise FramingError(f"{type_name(message_type)} for id {sequence}, which is not waiting")
        if message_type != response_type(call.request_type):
            self._calls[sequence] = call
            raise FramingError(
                f"{type_name(message_type)} as an answer to {type_name(call.request_type)}"
            )
        if not call.answer.done():
            call.answer.set_result(body)
