"""The bridge: carries out the host's requests, over one connection after another (spec 1.4, 1.10).

Requests run as tasks of their own and outlive their connection; responses come in any order.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import TYPE_CHECKING

from gcs.bridge.connection import Connection
from gcs.bridge.exit_codes import ExitCodes
from gcs.bridge.message import Message, encode_fitting, notification_message
from gcs.bridge.negotiation import negotiate
from gcs.bridge.outbox import HOLD_SECONDS, Outbox
from gcs.bridge.request import Request
from gcs.bridge.router import Router, failure, unknown
from gcs.bridge.tracing import notification_span
from gcs.protocol import scrub
from gcs.protocol.errors import GcsError
from gcs.protocol.frame import HEADER_SIZE, MessageType, response_type, type_name
from gcs.protocol.logs import TRACE
from gcs.protocol.responses import PROTOCOL_VERSION, WaitForProcessResponse, error_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from socket import socket

    from gcs.bridge.request import Handler
    from gcs.bridge.services import Services
    from gcs.protocol.frame import Header
    from gcs.protocol.responses import Notification, Response

logger = logging.getLogger(__name__)

#: Requests at once; a host with some hundred containers waits for some thousand processes.
MAX_REQUESTS = 32_768


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
        hold_seconds: See :class:`gcs.bridge.outbox.Outbox`.
        connection_changed: Called with True when a host has negotiated, with False when it is lost.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Mapping[int, Handler], Services]],
        *,
        enabled: bool = True,
        sequential: bool = False,
        hold_seconds: float = HOLD_SECONDS,
        connection_changed: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._exit_codes = ExitCodes()
        self._router = Router(load, sequential=sequential, recall=self._exit_codes.recall)
        self._enabled = enabled
        self._connection_changed = connection_changed
        self._session: _Session | None = None
        self._outbox = Outbox(hold_seconds)
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
        """Send a notification, as soon as a host is there that knows the container."""
        with notification_span(notification):
            try:
                self._outbox.put(notification_message(notification))
            except GcsError:
                logger.exception("notification dropped", extra={"cid": notification.container_id})

    async def close(self, seconds: float | None = None) -> None:
        """Drop the connection and cancel what is being carried out.

        Args:
            seconds: How long to wait for that; by default as long as it takes.
        """
        if self._session is not None:
            self._session.connection.close("the agent ends")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

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
            self._outbox.close(session.connection.unsent())
            self._exit_codes.lost()
            if session.version:
                self._connection_changed(False)

    def _receive(self, session: _Session, header: Header, body: bytes | bytearray) -> None:
        request = Request(header, body)
        if logger.isEnabledFor(TRACE):
            _log_body("request read message", scrub.request_text(header.type, body), request)
        # Decided here, in the order of arrival: a request right behind NegotiateProtocol is good.
        if session.version == 0 or not self._enabled or len(self._tasks) >= MAX_REQUESTS:
            with request.span:
                self._answer_at_once(session, request)
            return
        if self._outbox.is_holding:
            self._outbox.name(request.subject)
        task = asyncio.create_task(self._carry_out(session, request), name=request.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answer_at_once(self, session: _Session, request: Request) -> None:
        if not self._enabled or (
            session.version == 0 and request.type != MessageType.NEGOTIATE_PROTOCOL
        ):
            error = unknown(request, session.version)
            self._respond(session, request, failure(request, error))
        elif session.version == 0:
            self._negotiate(session, request)
        else:
            busy = GcsError(f"{MAX_REQUESTS} requests are being carried out already")
            self._respond(session, request, error_response(busy))

    def _negotiate(self, session: _Session, request: Request) -> None:
        try:
            response: Response = negotiate(request)
            session.version = PROTOCOL_VERSION
        except GcsError as error:
            response = failure(request, error)
        self._respond(session, request, response)
        if session.version:
            self._outbox.open(session.connection.send)
            self._connection_changed(True)
            # What is made there lives on: it must not count as a part of this request.
            asyncio.get_running_loop().call_soon(self._router.load, context=Context())

    async def _carry_out(self, session: _Session, request: Request) -> None:
        with request.span:
            try:
                response = await self._router.result(request, session.version)
                if response is not None:
                    self._respond(session, request, response)
            finally:
                if request.when_answered is not None:
                    request.when_answered()

    def _respond(self, session: _Session, request: Request, response: Response) -> None:
        """Send a response where it belongs, or keep it when that connection is gone."""
        message = _response_message(request, response)
        is_open = session.connection.is_open
        if isinstance(response, WaitForProcessResponse):
            note = self._exit_codes.sent if is_open else self._exit_codes.unsent
            note(request.container_id, request.process_id, response.exit_code)
        if is_open:
            session.connection.send(message)
        elif message.kept:
            self._outbox.put(message)
        else:
            logger.info(
                "response dropped: its connection is gone",
                extra={"message-type": request.name, "message-id": request.id},
            )
        request.span.attributes["response-message-type"] = type_name(response_type(request.type))
        if logger.isEnabledFor(TRACE):
            body = message.frame[HEADER_SIZE:].decode()
            _log_body("request write response", body, request)


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
        subject=request.subject,
        kept=request.type == MessageType.WAIT_FOR_PROCESS,
    )


def _log_body(event: str, text: str, request: Request) -> None:
    context = request.span.context
    fields = {"message": text, "traceID": context.trace_id, "spanID": context.span_id}
    logger.log(TRACE, event, extra={"fields": fields})
