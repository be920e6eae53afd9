"""The bridge: carries out the host's requests, over one connection after another (spec 1.4, 1.10).

Requests run as tasks of their own and outlive their connection; responses come in any order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from gcs.bridge.connection import Connection
from gcs.bridge.message import Message, encode_fitting, notification_message
from gcs.bridge.negotiation import negotiate
from gcs.bridge.request import Request
from gcs.protocol.errors import GcsError, NotImplementedByAgentError, WaitTimeoutError
from gcs.protocol.frame import MessageType, response_type
from gcs.protocol.responses import PROTOCOL_VERSION, error_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from socket import socket

    from gcs.bridge.request import Handler
    from gcs.bridge.services import Services
    from gcs.protocol.frame import Header
    from gcs.protocol.responses import Notification, Response

logger = logging.getLogger(__name__)

#: A host gives its VM up when a request takes 5 minutes, so none takes longer than this (seconds).
REQUEST_SECONDS = 240.0
#: Requests at once; a host with some hundred containers waits for some thousand processes.
MAX_REQUESTS = 32_768
#: A sequential request that takes longer is worth a warning (seconds; spec 1.4).
SLOW_SECONDS = 5.0


class _Session:
    """A connection and what was agreed on it; version 0 is nothing yet."""

    __slots__ = ("connection", "version")

    def __init__(self) -> None:
        self.connection: Connection
        self.version = 0


class Bridge:
    """Routes requests to handlers and their results back.

    Args:
        load: Makes the handler table and what handlers work with.  Called once, after the first
            negotiation was answered, so that the answer does not wait for imports.
        enabled: Without it no request is known, not even NegotiateProtocol (flag ``-v4``).
        sequential: One request at a time, as confidential VMs do; waits don't count.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Mapping[int, Handler], Services]],
        *,
        enabled: bool = True,
        sequential: bool = False,
    ) -> None:
        self._load = load
        self._loaded: tuple[Mapping[int, Handler], Services] | None = None
        self._enabled = enabled
        self._turn = asyncio.Lock() if sequential else None
        self._session: _Session | None = None
        self._held: deque[Message] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, connected: socket) -> str:
        """Serve a connected socket until it is lost; return why it was.

        Requests that are still being carried out go on; a WaitForProcess among them is answered
        on the next connection.
        """
        return await self._serve(lambda frame: Connection.from_socket(connected, frame))

    async def serve_descriptors(self, reader: int, writer: int) -> str:
        """Serve two non-blocking descriptors; as :meth:`serve`."""
        return await self._serve(lambda frame: Connection(reader, writer, frame))

    def publish(self, notification: Notification) -> None:
        """Send a notification, now or as soon as a host is there."""
        try:
            self._deliver(notification_message(notification))
        except GcsError:
            logger.exception("notification dropped", extra={"cid": notification.container_id})

    async def close(self) -> None:
        """Drop the connection and cancel what is being carried out."""
        if self._session is not None:
            self._session.connection.close("the agent ends")
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(
        self, connect: Callable[[Callable[[Header, bytes | bytearray], None]], Connection]
    ) -> str:
        session = _Session()
        session.connection = connect(lambda header, body: self._receive(session, header, body))
        self._session = session
        try:
            return await session.connection.wait_closed()
        finally:
            session.connection.close("the agent ends")
            self._session = None
            unsent = session.connection.unsent()
            self._held.extendleft(message for message in reversed(unsent) if message.kept)

    def _receive(self, session: _Session, header: Header, body: bytes | bytearray) -> None:
        request = Request(header, body)
        # Decided here, in the order of arrival: a request right behind NegotiateProtocol is good.
        if not self._enabled:
            self._refuse(session, request)
        elif session.version == 0:
            if header.type == MessageType.NEGOTIATE_PROTOCOL:
                self._negotiate(session, request)
            else:
                self._refuse(session, request)
        elif len(self._tasks) >= MAX_REQUESTS:
            error = GcsError(f"{MAX_REQUESTS} requests are being carried out already")
            self._respond(session, request, error_response(error))
        else:
            task = asyncio.create_task(self._carry_out(session, request), name=request.name)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _refuse(self, session: _Session, request: Request) -> None:
        self._respond(session, request, _failure(request, _unknown(request, session.version)))

    def _negotiate(self, session: _Session, request: Request) -> None:
        try:
            response: Response = negotiate(request)
            session.version = PROTOCOL_VERSION
        except GcsError as error:
            response = _failure(request, error)
        self._respond(session, request, response)
        if session.version:
            while self._held:
                session.connection.send(self._held.popleft())
            asyncio.get_running_loop().call_soon(self._services)

    def _services(self) -> tuple[Mapping[int, Handler], Services]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    async def _carry_out(self, session: _Session, request: Request) -> None:
        started = time.monotonic()
        try:
            response = await self._result(session, request)
            if response is not None:
                self._respond(session, request, response)
        finally:
            if request.when_answered is not None:
                request.when_answered()
        logger.debug(
            "request done",
            extra={
                "message-type": request.name,
                "message-id": request.id,
                "activityID": request.activity_id or "",
                "cid": request.container_id[:128],
                "duration-ms": round((time.monotonic() - started) * 1000, 3),
            },
        )

    async def _result(self, session: _Session, request: Request) -> Response | None:
        """Return the response to a request, whatever happens to it; ``None`` for no response."""
        try:
            handlers, services = self._services()
            handler = handlers.get(request.type)
            if handler is None:
                raise _unknown(request, session.version)
            if self._turn is None:
                return await _within_time(handler, services, request)
            return await self._in_turn(self._turn, handler, services, request)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return _failure(request, error)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - even a stray SystemExit must not end the VM
            return _failure(request, error)

    async def _in_turn(
        self, turn: asyncio.Lock, handler: Handler, services: Services, request: Request
    ) -> Response | None:
        if request.type == MessageType.WAIT_FOR_PROCESS:
            async with turn:
                pass  # it starts after what came before, and holds up nothing
            return await _within_time(handler, services, request)
        async with turn:
            fields = {
                "message-type": request.name,
                "message-id": request.id,
                "activity-id": request.activity_id or "",
                "container-id": request.container_id[:128],
            }
            slow = asyncio.get_running_loop().call_later(
                SLOW_SECONDS, lambda: logger.warning("request is slow", extra=fields)
            )
            try:
                return await _within_time(handler, services, request)
            finally:
                slow.cancel()

    def _respond(self, session: _Session, request: Request, response: Response) -> None:
        """Send a response where it belongs, or keep it when that connection is gone."""
        message = _response_message(request, response)
        if session.connection.is_open:
            session.connection.send(message)
        elif message.kept:
            self._deliver(message)
        else:
            logger.info(
                "response dropped: its connection is gone",
                extra={"message-type": request.name, "message-id": request.id},
            )

    def _deliver(self, message: Message) -> None:
        """Send a message that outlives connections, once a host has negotiated."""
        session = self._session
        if session is not None and session.version and session.connection.is_open:
            session.connection.send(message)
        else:
            self._held.append(message)


def _response_message(request: Request, response: Response) -> Message:
    if request.activity_id is not None:
        response.activity_id = request.activity_id
    try:
        body = encode_fitting(response)
    except (GcsError, ValueError) as error:
        # An answer that can't be encoded still has to be an answer, or the host waits for ever.
        logger.exception("malformed response", extra={"message-type": request.name})
        body = encode_fitting(error_response(GcsError(f"the response is malformed: {error}")))
    return Message(
        response_type(request.type),
        request.id,
        body,
        container_id=request.container_id,
        kept=request.type == MessageType.WAIT_FOR_PROCESS,
    )


async def _within_time(handler: Handler, services: Services, request: Request) -> Response | None:
    """Await a handler; all but a wait have to end before the host's patience does.

    Raises:
        WaitTimeoutError: It took too long and was cancelled.
    """
    if request.type == MessageType.WAIT_FOR_PROCESS:
        return await handler(services, request)
    limit = asyncio.timeout(REQUEST_SECONDS)
    try:
        async with limit:
            return await handler(services, request)
    except TimeoutError as error:
        if not limit.expired():
            raise
        message = f"{request.name} was given up after {REQUEST_SECONDS:g} s"
        raise WaitTimeoutError(message) from error


def _unknown(request: Request, version: int) -> GcsError:
    return NotImplementedByAgentError(
        f"the agent has no handler for {request.name} at protocol version {version}"
    )


def _failure(request: Request, error: BaseException) -> Response:
    """Return the response for an error, and log it."""
    response = error_response(error)
    foreseen = isinstance(error, GcsError)
    text = response.error_message if isinstance(response.error_message, str) else ""
    logger.log(
        logging.WARNING if foreseen else logging.ERROR,
        "request failed",
        exc_info=None if foreseen else error,
        extra={
            "message-type": request.name,
            "message-id": request.id,
            "cid": request.container_id[:128],
            "error": text[:4096],
        },
    )
    return response
