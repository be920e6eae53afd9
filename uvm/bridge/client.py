"""The requests of the bridge as typed calls (spec 1.5, 1.6, 4.10)."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

from gcs.protocol.decode import decode
from gcs.protocol.errors import RemoteError
from gcs.protocol.frame import MessageType
from gcs.protocol.hresult import from_wire
from gcs.protocol.message import UVM_ID, Message, MessageBase, NegotiateProtocol
from gcs.protocol.requests import (
    INFINITE,
    ContainerCreate,
    ContainerExecuteProcess,
    ContainerGetProperties,
    ContainerModifySettings,
    ContainerResizeConsole,
    ContainerSettings,
    ContainerSignalProcess,
    ContainerWaitForProcess,
    ExecuteProcessSettings,
    ModificationRequest,
    ProcessParameters,
    PropertyQuery,
    SignalProcessOptions,
    VsockStdioRelaySettings,
)
from gcs.protocol.responses import (
    PROTOCOL_VERSION,
    Capabilities,
    ContainerCreateResponse,
    DumpStacksResponse,
    ExecuteProcessResponse,
    GetPropertiesResponse,
    NegotiateProtocolResponse,
    Notification,
    Properties,
    Response,
    WaitForProcessResponse,
)
from uvm.bridge.connection import RPC_TIMEOUT, BridgeConnection, OutstandingCall
from uvm.bridge.encode import encode_request, encode_text
from uvm.errors import BridgeClosedError, UvmError

R = TypeVar("R", bound=Response)

#: How long a process may take to be reported as ended after a resumption (spec 1.10).
PROBE_MS: Final = 50


class GuestClient:
    """The agent of one VM, seen from the host.

    Every method raises :class:`RemoteError` when the agent answers an error, and
    :class:`BridgeClosedError` when the connection is lost or an answer takes too long.

    Args:
        answer_limit: Longest time to wait for an answer, in seconds; a WaitForProcess is exempt.
    """

    def __init__(self, *, answer_limit: float = RPC_TIMEOUT) -> None:
        self._answer_limit = answer_limit
        self._connection: BridgeConnection | None = None
        self._exits: dict[str, asyncio.Future[Notification]] = {}
        self._outstanding: dict[int, OutstandingCall] = {}
        self._underway = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._usable = asyncio.Event()
        self._usable.set()
        self.capabilities: Capabilities | None = None

    async def open(self, connected: socket.socket, *, first_id: int = 0) -> None:
        """Take over an accepted connection; nothing is sent yet."""
        self._connection = await BridgeConnection.open(
            connected, self._notified, first_id=first_id, answer_limit=self._answer_limit
        )

    @property
    def connection(self) -> BridgeConnection:
        """The connection in use.

        Raises:
            BridgeClosedError: There is none yet.
        """
        if self._connection is None:
            raise BridgeClosedError("the agent has not connected yet")
        return self._connection

    async def close(self) -> None:
        """End the connection. Containers in the VM stay as they are."""
        self._fail_outstanding()
        self._usable.set()
        if self._connection is not None:
            await self._connection.close()

    async def suspend(self) -> None:
        """Give the connection up on purpose, to go on with another one: :meth:`resume`.

        What is under way is answered first, as a host that moves a VM sees to. Waits for the ends
        of processes and containers go on; other calls are delayed until there is a connection.

        Raises:
            BridgeClosedError: The connection is lost already.
        """
        self._usable.clear()
        try:
            await self._idle.wait()
            self._outstanding = await self.connection.detach()
        except BaseException:
            self._usable.set()
            raise

    async def resume(
        self,
        connected: socket.socket,
        *,
        rollback: bool = False,
        listen: Callable[[], None] | None = None,
    ) -> None:
        """Go on with a connection that the agent has made after :meth:`suspend` (spec 1.10).

        Args:
            connected: The accepted connection.
            rollback: Be the host that was there before: negotiate with the next id, probe nothing.
                By default be another one: negotiate with id 0, and probe every process.
            listen: Called when the containers are registered and before the first probe: opens
                the ports of streams again.

        Raises:
            BridgeClosedError: This connection is lost, too; nothing waits any more then.
            RemoteError: The agent refuses.
        """
        next_id = self.connection.next_id
        connection = await BridgeConnection.open(
            connected,
            self._notified,
            first_id=next_id if rollback else 0,
            answer_limit=self._answer_limit,
        )
        self._connection = connection
        try:
            await self._negotiate()
            adopted, self._outstanding = self._outstanding, {}
            connection.adopt(adopted, next_id)
            if listen is not None:
                listen()
            if not rollback:
                await asyncio.gather(*(self._probe(call) for call in adopted.values()))
        except BaseException as error:
            connection.kill(error)
            self._fail_outstanding()
            raise
        finally:
            self._usable.set()

    async def _probe(self, call: OutstandingCall) -> None:
        if call.request_type != MessageType.WAIT_FOR_PROCESS:
            return
        wait = decode(call.body, ContainerWaitForProcess, "request")
        wait.timeout_in_ms = PROBE_MS
        body = await self.connection.call(MessageType.WAIT_FOR_PROCESS, encode_request(wait))
        response = decode(body, WaitForProcessResponse, "answer of the agent")
        # Anything else says that the process runs: the adopted call will be answered.
        if response.result == 0 and not call.answer.done():
            call.answer.set_result(body)

    async def _until_usable(self) -> None:
        # It may be suspended again before a waiter gets to run.
        while not self._usable.is_set():
            await self._usable.wait()

    def _fail_outstanding(self) -> None:
        calls, self._outstanding = self._outstanding, {}
        for call in calls.values():
            call.fail(BridgeClosedError("the connection to the agent was not resumed"))

    async def call(
        self,
        message_type: int,
        message: MessageBase,
        answer: type[R],
        *,
        limited: bool = True,
    ) -> R:
        """Send any request and return its decoded answer.

        Args:
            message_type: Type of the request.
            message: Its body.
            answer: Type of the answer's body.
            limited: Give up the connection when the answer takes longer than the limit.
        """
        await self._until_usable()
        if not limited:
            return await self._call(message_type, message, answer, limited=False)
        self._underway += 1
        self._idle.clear()
        try:
            return await self._call(message_type, message, answer)
        finally:
            self._underway -= 1
            if not self._underway:
                self._idle.set()

    async def _call(
        self, message_type: int, message: MessageBase, answer: type[R], *, limited: bool = True
    ) -> R:
        body = await self.connection.call(message_type, encode_request(message), limited=limited)
        try:
            response = decode(body, answer, "answer of the agent")
        except Exception as error:
            self.connection.kill(error)
            raise
        if response.result != 0:
            text = response.error_message
            raise RemoteError(
                text if isinstance(text, str) else "", hresult=from_wire(response.result)
            )
        return response

    async def negotiate(self) -> Capabilities:
        """Agree on version 4 and return what the agent can do (spec 1.4)."""
        await self._until_usable()
        return await self._negotiate()

    async def _negotiate(self) -> Capabilities:
        response = await self._call(
            MessageType.NEGOTIATE_PROTOCOL,
            NegotiateProtocol(minimum_version=PROTOCOL_VERSION, maximum_version=PROTOCOL_VERSION),
            NegotiateProtocolResponse,
        )
        if response.version != PROTOCOL_VERSION:
            raise UvmError(
                f"the agent chose protocol version {response.version}, not {PROTOCOL_VERSION}"
            )
        self.capabilities = response.capabilities
        return response.capabilities

    async def create_container(self, container_id: str, settings: ContainerSettings) -> None:
        """Create a container; its exit can be waited for from now on."""
        if container_id in self._exits:
            raise UvmError(f"container {container_id} was created on this connection already")
        self.expect_exit(container_id)
        try:
            await self.call(
                MessageType.CREATE,
                ContainerCreate(container_id=container_id, container_config=encode_text(settings)),
                ContainerCreateResponse,
            )
        except BaseException:
            self._exits.pop(container_id).cancel()
            raise

    def expect_exit(self, container_id: str) -> None:
        """Accept an exit notification of a container; an unexpected one ends the connection."""
        self._exits[container_id] = asyncio.get_running_loop().create_future()

    async def wait_for_exit(self, container_id: str) -> Notification:
        """Wait for the exit notification of a container that this client created.

        Raises:
            UvmError: The container is not known, or its exit was collected already.
            BridgeClosedError: The connection was lost first.
        """
        exit_future = self._exits.get(container_id)
        if exit_future is None:
            raise UvmError(f"container {container_id} was not created on this connection")
        while not exit_future.done():
            connection = self.connection
            lost = asyncio.create_task(connection.wait_closed())
            waiting: set[asyncio.Future[Any]] = {exit_future, lost}
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
            if connection.closed and connection.detached:
                await self._until_usable()
            if not exit_future.done() and connection is self.connection:
                raise BridgeClosedError(
                    f"the connection to the agent was lost before container {container_id} ended"
                )
        return exit_future.result()

    def forget_container(self, container_id: str) -> None:
        """Drop what is kept about the exit of a container."""
        future = self._exits.pop(container_id, None)
        if future is not None:
            future.cancel()

    async def start_container(self, container_id: str) -> None:
        """Send Start, which does nothing on Linux; a real host sends it all the same."""
        await self._plain(MessageType.START, container_id)

    async def execute_process(
        self,
        container_id: str,
        parameters: ProcessParameters,
        ports: VsockStdioRelaySettings | None = None,
    ) -> int:
        """Start a process and return its id; no OCI process starts the container's init."""
        settings = ExecuteProcessSettings(
            process_parameters=encode_text(parameters),
            vsock_stdio_relay_settings=ports or VsockStdioRelaySettings(),
        )
        response = await self.call(
            MessageType.EXECUTE_PROCESS,
            ContainerExecuteProcess(container_id=container_id, settings=settings),
            ExecuteProcessResponse,
        )
        return response.process_id

    async def wait_for_process(
        self, container_id: str, process_id: int, timeout_ms: int = INFINITE
    ) -> int:
        """Wait for the end of a process and return its exit code (unsigned, 32 bits)."""
        response = await self.call(
            MessageType.WAIT_FOR_PROCESS,
            ContainerWaitForProcess(
                container_id=container_id, process_id=process_id, timeout_in_ms=timeout_ms
            ),
            WaitForProcessResponse,
            limited=False,
        )
        return response.exit_code

    async def signal_process(self, container_id: str, process_id: int, signal: int) -> None:
        """Send a signal to a process."""
        await self.call(
            MessageType.SIGNAL_PROCESS,
            ContainerSignalProcess(
                container_id=container_id,
                process_id=process_id,
                options=SignalProcessOptions(signal=int(signal)),
            ),
            Response,
        )

    async def resize_console(
        self, container_id: str, process_id: int, height: int, width: int
    ) -> None:
        """Tell a process's terminal its size, in character cells."""
        await self.call(
            MessageType.RESIZE_CONSOLE,
            ContainerResizeConsole(
                container_id=container_id, process_id=process_id, height=height, width=width
            ),
            Response,
        )

    async def get_properties(self, container_id: str, *types: str) -> Properties:
        """Ask for properties: ``ProcessList``, ``Statistics``."""
        query = encode_text(PropertyQuery(property_types=list(types))) if types else ""
        response = await self.call(
            MessageType.GET_PROPERTIES,
            ContainerGetProperties(container_id=container_id, query=query),
            GetPropertiesResponse,
        )
        return decode(response.properties, Properties, "Properties")

    async def modify_settings(
        self,
        request_type: str,
        resource_type: str,
        settings: Message | dict[str, Any] | None = None,
        *,
        container_id: str = UVM_ID,
    ) -> None:
        """Add, remove or update a resource of the VM, or of a container."""
        request = ModificationRequest(
            request_type=request_type, resource_type=resource_type, settings=settings
        )
        await self.call(
            MessageType.MODIFY_SETTINGS,
            ContainerModifySettings(container_id=container_id, request=request),
            Response,
        )

    async def delete_container_state(self, container_id: str) -> None:
        """Have the agent forget a container that ended."""
        await self._plain(MessageType.DELETE_CONTAINER_STATE, container_id)

    async def dump_stacks(self) -> str:
        """Return the stacks of the agent's tasks and threads."""
        response = await self.call(
            MessageType.DUMP_STACKS, MessageBase(container_id=UVM_ID), DumpStacksResponse
        )
        return response.guest_stacks

    async def shutdown_container(self, container_id: str, *, graceful: bool) -> None:
        """Send SIGTERM (graceful) or SIGKILL to a container's init."""
        kind = MessageType.SHUTDOWN_GRACEFUL if graceful else MessageType.SHUTDOWN_FORCED
        await self._plain(kind, container_id)

    async def power_off(self) -> None:
        """Shut the VM down, and wait until the connection ends: there is no answer (spec 1.10)."""
        with contextlib.suppress(BridgeClosedError):
            await self.call(
                MessageType.SHUTDOWN_GRACEFUL, MessageBase(container_id=UVM_ID), Response
            )

    async def _plain(self, message_type: int, container_id: str) -> None:
        await self.call(message_type, MessageBase(container_id=container_id), Response)

    def _notified(self, body: bytes) -> None:
        notification = decode(body, Notification, "notification")
        exit_future = self._exits.get(notification.container_id)
        if exit_future is None or exit_future.done():
            raise UvmError(
                f"notification for container {notification.container_id!r}, which is unknown here"
            )
        exit_future.set_result(notification)
