"""From a request to its response: the handler, its turn, its time, its errors."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gcs.bridge.tracing import handler_span
from gcs.protocol.errors import (
    GcsError,
    NotFoundError,
    NotImplementedByAgentError,
    WaitTimeoutError,
)
from gcs.protocol.frame import MessageType
from gcs.protocol.responses import WaitForProcessResponse, error_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gcs.bridge.request import Handler, Request
    from gcs.bridge.services import Services
    from gcs.protocol.responses import Response

logger = logging.getLogger(__name__)

#: A host gives its VM up when a request takes 5 minutes, so none takes longer than this (seconds).
REQUEST_SECONDS = 240.0
#: A sequential request that takes longer is worth a warning (seconds; spec 1.4).
SLOW_SECONDS = 5.0


class Router:
    """Has requests carried out by their handlers.

    Args:
        load: Makes the handler table and what handlers work with.  Called once.
        sequential: One request at a time; waits don't count.
        recall: Returns the exit code of a process that is forgotten otherwise, if known.
    """

    __slots__ = ("_load", "_loaded", "_recall", "_turn")

    def __init__(
        self,
        load: Callable[[], tuple[Mapping[int, Handler], Services]],
        *,
        sequential: bool,
        recall: Callable[[str, int], int | None],
    ) -> None:
        self._load = load
        self._loaded: tuple[Mapping[int, Handler], Services] | None = None
        self._turn = asyncio.Lock() if sequential else None
        self._recall = recall

    def load(self) -> tuple[Mapping[int, Handler], Services]:
        """Load what the first request needs, unless that was done."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    async def result(self, request: Request, version: int) -> Response | None:
        """Return the response to a request, whatever happens to it; ``None`` for no response."""
        try:
            handlers, services = self.load()
            handler = handlers.get(request.type)
            if handler is None:
                raise unknown(request, version)
            if self._turn is None:
                return await self._carry_out(handler, services, request)
            return await self._in_turn(self._turn, handler, services, request)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return failure(request, error)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - even a stray SystemExit must not end the VM
            return failure(request, error)

    async def _in_turn(
        self, turn: asyncio.Lock, handler: Handler, services: Services, request: Request
    ) -> Response | None:
        if request.type == MessageType.WAIT_FOR_PROCESS:
            async with turn:
                pass  # it starts after what came before, and holds up nothing
            return await self._carry_out(handler, services, request)
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
                return await self._carry_out(handler, services, request)
            finally:
                slow.cancel()

    async def _carry_out(
        self, handler: Handler, services: Services, request: Request
    ) -> Response | None:
        with handler_span(request):
            if request.type != MessageType.WAIT_FOR_PROCESS:
                return await _within_time(handler, services, request)
            try:
                return await handler(services, request)
            except NotFoundError:
                exit_code = self._recall(request.container_id, request.process_id)
                if exit_code is None:
                    raise
                return WaitForProcessResponse(exit_code=exit_code)


async def _within_time(handler: Handler, services: Services, request: Request) -> Response | None:
    """Await a handler, which has to end before the host's patience does.

    Raises:
        WaitTimeoutError: It took too long and was cancelled.
    """
    limit = asyncio.timeout(REQUEST_SECONDS)
    try:
        async with limit:
            return await handler(services, request)
    except TimeoutError as error:
        if not limit.expired():
            raise
        message = f"{request.name} was given up after {REQUEST_SECONDS:g} s"
        raise WaitTimeoutError(message) from error


def unknown(request: Request, version: int) -> GcsError:
    """Return the error for a request nobody handles at a protocol version."""
    return NotImplementedByAgentError(
        f"the agent has no handler for {request.name} at protocol version {version}"
    )


def failure(request: Request, error: BaseException) -> Response:
    """Return the response for an error, and log it."""
    request.span.fail(error)
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
