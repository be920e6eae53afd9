"""A host for the agent to talk to, over unix sockets, and the agent as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gcs.protocol.frame import HEADER_SIZE, MAX_TO_HOST, MessageType, decode_header, encode_frame
from gcs.protocol.logs import LogEntry, decode_json
from tests.support.as_in_the_image import MARK, Command, agent_command
from tests.support.runtimes import AGENT_ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    Stream = asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]

BRIDGE_PORT = 0x4000_0000
ACTIVITY = "11111111-2222-3333-4444-555555555555"
UVM = "00000000-0000-0000-0000-000000000000"
PATIENCE = 60.0
_NO_LIMIT = 1 << 62


class Reply(NamedTuple):
    """A message of the agent.

    Attributes:
        type: Message identifier.
        id: Sequence number.
        size: Of the whole frame, in bytes.
        body: Decoded JSON.
    """

    type: int
    id: int
    size: int
    body: dict[str, Any]

    @property
    def result(self) -> int:
        """Unsigned HRESULT."""
        return int(self.body["Result"]) & 0xFFFF_FFFF


class HostConnection:
    """One connection the agent made to the bridge port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.notifications: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.strays: asyncio.Queue[Reply] = asyncio.Queue()
        self.order: list[int] = []
        self._reader = reader
        self._next_id = 0
        self._waiting: dict[int, list[asyncio.Future[Reply]]] = {}
        self._closed = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    def expect(self, sequence: int) -> asyncio.Future[Reply]:
        """Return a future for the response with an id, which need not belong to a request here."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(sequence, []).append(future)
        return future

    async def send(
        self, message_type: int, body: bytes | dict[str, Any], sequence: int | None = None
    ) -> asyncio.Future[Reply]:
        """Send a request; the future is its response."""
        if sequence is None:
            sequence = self._next_id
            self._next_id += 1
        data = body if isinstance(body, bytes) else json.dumps(body).encode() + b"\n"
        future = self.expect(sequence)
        await self.send_raw(encode_frame(message_type, sequence, data, limit=_NO_LIMIT))
        return future

    async def send_raw(self, data: bytes) -> None:
        """Send any bytes."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def rpc(
        self, message_type: int, body: bytes | dict[str, Any], sequence: int | None = None
    ) -> Reply:
        """Send a request and wait for the response."""
        async with asyncio.timeout(PATIENCE):
            return await (await self.send(message_type, body, sequence))

    async def negotiate(self) -> Reply:
        """Open the conversation."""
        body = {"ContainerId": "", "ActivityId": UVM, "MinimumVersion": 4, "MaximumVersion": 4}
        return await self.rpc(MessageType.NEGOTIATE_PROTOCOL, body)

    async def wait_closed(self) -> None:
        """Wait until the agent has closed the connection."""
        async with asyncio.timeout(PATIENCE):
            await self._closed.wait()

    def close(self) -> None:
        """Close at once, from the host's side."""
        self._task.cancel()
        self.writer.transport.abort()

    async def close_orderly(self) -> None:
        """End the conversation, and read what the agent had sent by then."""
        self.writer.write_eof()
        await self.wait_closed()
        self.close()

    async def _read(self) -> None:
        try:
            while True:
                header = decode_header(
                    await self._reader.readexactly(HEADER_SIZE), limit=MAX_TO_HOST
                )
                body = json.loads(await self._reader.readexactly(header.body_size))
                reply = Reply(header.type, header.id, header.size, body)
                self._dispatch(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._closed.set()
            for future in (f for waiting in self._waiting.values() for f in waiting):
                if not future.done():
                    future.set_exception(ConnectionResetError("the agent closed the connection"))
                    future.exception()  # somebody may have stopped waiting for it

    def _dispatch(self, reply: Reply) -> None:
        self.order.append(reply.type)
        if reply.type == MessageType.NOTIFICATION:
            self.notifications.put_nowait(reply.body)
            return
        waiting = self._waiting.get(reply.id)
        if waiting:
            future = waiting.pop(0)
            if not future.done():
                future.set_result(reply)
        else:
            self.strays.put_nowait(reply)


class FakeHost:
    """Listens where the agent dials: `<prefix>_<port>`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._connections: asyncio.Queue[HostConnection] = asyncio.Queue()
        self._all: list[HostConnection] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._servers: list[asyncio.Server] = []

    async def listen(self) -> None:
        """Start to accept bridge connections."""
        server = await asyncio.start_unix_server(
            self._accepted, f"{self.prefix}_{BRIDGE_PORT}", limit=1 << 20
        )
        self._servers.append(server)

    async def connection(self) -> HostConnection:
        """Wait for the next connection of the agent."""
        async with asyncio.timeout(PATIENCE):
            return await self._connections.get()

    async def negotiated(self) -> HostConnection:
        """Wait for the next connection and negotiate on it."""
        connection = await self.connection()
        reply = await connection.negotiate()
        assert reply.result == 0
        return connection

    async def stdio(self, port: int) -> Stream:
        """Listen on a stdio port; the future is the first connection to it, the only one taken."""
        accepted: Stream = asyncio.get_running_loop().create_future()

        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            server.close()
            accepted.set_result((reader, writer))

        server = await asyncio.start_unix_server(take, f"{self.prefix}_{port}")
        self._servers.append(server)
        return accepted

    async def close(self) -> None:
        """Close everything."""
        for server in self._servers:
            server.close()
        for connection in self._all:
            connection.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = HostConnection(reader, writer)
        self._all.append(connection)
        self._connections.put_nowait(connection)


class AgentProcess:
    """The agent as a process; its log is read all the time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[bytes] = []
        self.missing_modules: list[str] = []
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def entries(self) -> list[LogEntry]:
        """The log so far; fails, as a host's parser does, on anything that is no entry."""
        return [decode_json(line) for line in self.lines]

    @property
    def resident_bytes(self) -> int:
        """Resident memory."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    async def logged(self, matches: Callable[[LogEntry], bool]) -> LogEntry:
        """Wait for a log entry."""
        async with asyncio.timeout(PATIENCE), self._news:
            while True:
                for entry in self.entries:
                    if matches(entry):
                        return entry
                await self._news.wait()

    async def stop(self) -> int:
        """End the agent by SIGTERM; return its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        return await self.ended()

    async def kill(self) -> None:
        """End it by SIGKILL, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Wait for the end of the agent and of its log; return the exit status."""
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self.process.wait()
                await self._task
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise
        assert not self.missing_modules, f"the image lacks {self.missing_modules}; try 'make all'"
        return status

    async def _read(self) -> None:
        if self.process.stderr is None:
            return  # the test reads the log, or does not
        async for line in self.process.stderr:
            if line.startswith(MARK.encode()):
                self.missing_modules.append(line.decode().strip().removeprefix(MARK))
                continue
            async with self._news:
                self.lines.append(line)
                self._news.notify_all()


class Launcher(Protocol):
    """Starts an agent; see :func:`start_agent`."""

    async def __call__(self, *arguments: str, **options: Any) -> AgentProcess: ...


async def start_agent(*arguments: str, program: Sequence[str] = (), **options: Any) -> AgentProcess:
    """Run the agent with arguments, its standard error captured.

    Without a program it has the modules of the image and no others: one that imports something else
    fails the test when it has ended.
    """
    command = Command(tuple(program), {}) if program else agent_command()
    options["env"] = {**(options.get("env") or os.environ), **command.environment}
    process = await asyncio.create_subprocess_exec(
        *command.program,
        *arguments,
        *AGENT_ARGUMENTS,
        **{
            "stdin": asyncio.subprocess.DEVNULL,
            "stdout": asyncio.subprocess.DEVNULL,
            "stderr": asyncio.subprocess.PIPE,
            "limit": 1 << 22,
            **options,
        },
    )
    return AgentProcess(process)


class Rig(NamedTuple):
    """A host with an agent connected to it."""

    host: FakeHost
    agent: AgentProcess
    prefix: str


@contextlib.asynccontextmanager
async def rig(arguments: Sequence[str] = ()) -> AsyncIterator[Rig]:
    """Run the agent against a fake host, and end both; the agent must end orderly."""
    directory = tempfile.mkdtemp(prefix="gcs-")
    prefix = f"{directory}/host"
    host = FakeHost(prefix)
    try:
        await host.listen()
        flags = ("-v4", "-log-format", "json", "-loglevel", "debug", "-transport", f"unix:{prefix}")
        agent = await start_agent(*flags, *arguments)
        try:
            yield Rig(host, agent, prefix)
        finally:
            status = await agent.stop()
        assert status == 0, agent.lines[-20:]
        assert agent.entries
    finally:
        await host.close()
        shutil.rmtree(directory)
