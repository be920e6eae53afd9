"""The keeper's side: answers commands about one VM."""

import asyncio
import contextlib
import dataclasses
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from gcs.protocol.errors import GcsError, RemoteError
from uvm.container import Container
from uvm.errors import UvmError
from uvm.keeper.agent_log import AgentLog
from uvm.keeper.channel import Channel, ChannelClosedError, accepted
from uvm.keeper.messages import (
    ContainerEntry,
    Done,
    Execute,
    Failed,
    Kill,
    List,
    Listing,
    Logs,
    Measure,
    OutOfMemory,
    ProcessEntry,
    Request,
    Run,
    SetState,
    Stacks,
    Statistics,
    Stop,
    Text,
)
from uvm.keeper.session import run_session
from uvm.listen import accept_connection
from uvm.process import Process
from uvm.spec import ProcessOptions
from uvm.users import resolve_user
from uvm.utility_vm import RootDisks, UtilityVm

_CONTAINERS_GRACE: Final = 15.0
_POWER_OFF_GRACE: Final = 10.0

_Handler = Callable[[Channel[Request], Any], Awaitable[None]]


class Keeper:
    """Serves one VM until it ends.

    Args:
        name: Name of the VM.
        utility: The VM, booted.
        log: Its agent's log.
    """

    def __init__(self, name: str, utility: UtilityVm, log: AgentLog) -> None:
        self._name = name
        self._utility = utility
        self._log = log
        self._ready = time.monotonic()
        self._commands: dict[int, tuple[Process, list[str]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._options: dict[str, ProcessOptions] = {}
        self._handlers: dict[type, _Handler] = {
            Run: self._run,
            Execute: self._execute,
            List: self._list,
            Kill: self._kill,
            SetState: self._set_state,
            Measure: self._measure,
            Stacks: self._stacks,
            Logs: self._logs,
            Stop: self._stop,
        }
        self.stopping = False
        self.stopped = asyncio.Event()

    async def serve(self, listener: socket.socket) -> None:
        """Accept commands for ever."""
        while True:
            connected, _ = await accept_connection(listener)
            task = asyncio.create_task(self._answer(accepted(connected)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up every command that is being served."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, channel: Channel[Request]) -> None:
        with contextlib.closing(channel), contextlib.suppress(ChannelClosedError):
            try:
                request, _ = await channel.receive()
                handler = self._handlers.get(type(request))
                if handler is None:
                    raise UvmError(f"{type(request).__name__} is no request to begin with")
                await handler(channel, request)
            except (UvmError, GcsError, msgspec.DecodeError, OSError) as error:
                await channel.send(failure(error))

    async def _run(self, channel: Channel[Request], request: Run) -> None:
        layers = tuple(Path(layer) for layer in request.layers)
        disks = RootDisks(layers, Path(request.scratch))
        container = await self._utility.prepare_container(disks, adapters=request.adapters)
        options = request.options
        try:
            await container.create(options)
            process = await container.start(
                terminal=options.process.terminal_size is not None,
                stdin=request.stdin,
                output=not request.detach,
            )
            command = list(options.process.arguments)
            self._options[container.id] = options.process
            with self._registered(process, command):
                await run_session(channel, process, on_loss=signal.SIGKILL, detached=request.detach)
                await container.wait_exit()
                if not request.detach and container.out_of_memory_kills:
                    await channel.send(OutOfMemory(container.out_of_memory_kills))
        finally:
            self._options.pop(container.id, None)
            await self._utility.remove_container(container)

    async def _execute(self, channel: Channel[Request], request: Execute) -> None:
        options = request.options
        if request.container is None:
            if request.user:
                raise UvmError("a process in the VM itself runs as root: leave --user out")
            process = await self._utility.guest.execute_in_vm(
                list(options.arguments),
                environment=dict(entry.split("=", 1) for entry in options.environment),
                working_directory=options.working_directory or "/",
                console=options.terminal_size is not None,
                stdin=request.stdin,
            )
        else:
            container = self._container(request.container)
            options = await self._inherit(container, request)
            process = await container.execute(options, stdin=request.stdin)
        with self._registered(process, list(options.arguments)):
            await run_session(channel, process, on_loss=signal.SIGHUP)

    async def _inherit(self, container: Container, request: Execute) -> ProcessOptions:
        """Complete the options of a process by those of its container."""
        own = self._options.get(container.id)
        if own is None:
            raise UvmError(f"container {container.id} is not running")
        layers = self._utility.layers_of(container)
        user = await resolve_user(layers, request.user) if request.user else own.user
        return dataclasses.replace(
            request.options,
            user=user,
            environment=(*own.environment, *request.options.environment),
            working_directory=request.options.working_directory or own.working_directory,
        )

    async def _list(self, channel: Channel[Request], _: List) -> None:
        machine = self._utility.vm.machine
        containers = [
            await self._describe(container) for container in self._utility.containers.values()
        ]
        known = {process.pid for entry in containers for process in entry.processes}
        await channel.send(
            Listing(
                name=self._name,
                pid=self._utility.vm.pid,
                memory_mib=machine.memory_mib,
                accelerator=machine.accelerator,
                uptime=time.monotonic() - self._ready,
                containers=containers,
                processes=[
                    ProcessEntry(pid, command)
                    for pid, (process, command) in self._commands.items()
                    if pid not in known and process.container_id not in self._utility.containers
                ],
            )
        )

    async def _describe(self, container: Container) -> ContainerEntry:
        pids = await container.process_ids()
        command = self._commands.get(container.init.pid) if container.init else None
        adapters = container.network.adapters.values() if container.network else ()
        return ContainerEntry(
            id=container.id,
            command=command[1] if command else [],
            processes=[
                ProcessEntry(pid, self._commands[pid][1] if pid in self._commands else [])
                for pid in pids
            ],
            ports=[str(port) for adapter in adapters for port in adapter.ports],
        )

    async def _kill(self, channel: Channel[Request], request: Kill) -> None:
        process = self._target(request.target)
        if not await process.signal(request.number):
            raise UvmError(f"process {process.pid} has ended already")
        await channel.send(Done())

    async def _set_state(self, channel: Channel[Request], request: SetState) -> None:
        for container in self._chosen(request.container):
            await (container.pause() if request.paused else container.resume())
        await channel.send(Done())

    async def _measure(self, channel: Channel[Request], request: Measure) -> None:
        # One by one: a message has a limited size.
        for container in self._chosen(request.container):
            await channel.send(Statistics(container.id, await container.statistics()))
        await channel.send(Done())

    async def _stacks(self, channel: Channel[Request], _: Stacks) -> None:
        await channel.send(Text(await self._utility.guest.client.dump_stacks()))

    async def _logs(self, channel: Channel[Request], request: Logs) -> None:
        await self._log.send(channel, follow=request.follow)

    async def _stop(self, channel: Channel[Request], request: Stop) -> None:
        self.stopping = True
        if not request.force:
            await self._end_containers()
            await self._utility.power_off(_POWER_OFF_GRACE)
        await self._utility.stop()
        await channel.send(Done())
        self.stopped.set()

    async def _end_containers(self) -> None:
        containers = list(self._utility.containers.values())
        ends = [asyncio.create_task(container.remove()) for container in containers]
        if ends:
            # What does not end in time ends with the VM.
            _, late = await asyncio.wait(ends, timeout=_CONTAINERS_GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    def _container(self, prefix: str) -> Container:
        found = self._utility.find_container(prefix)
        if len(found) != 1:
            kind = "no container's id begins" if not found else "several containers' ids begin"
            raise UvmError(f"{kind} with {prefix!r}; `uvm ps` lists them")
        return found[0]

    def _chosen(self, prefix: str | None) -> list[Container]:
        if prefix is None:
            return list(self._utility.containers.values())
        return [self._container(prefix)]

    def _target(self, target: str) -> Process:
        if target.isdecimal() and int(target) in self._commands:
            return self._commands[int(target)][0]
        container = self._container(target)
        if container.init is None:
            raise UvmError(f"container {container.id} has not started yet")
        return container.init

    @contextlib.contextmanager
    def _registered(self, process: Process, command: list[str]) -> Iterator[None]:
        self._commands[process.pid] = (process, command)
        try:
            yield
        finally:
            del self._commands[process.pid]


def failure(error: BaseException) -> Failed:
    """Return an error as an answer."""
    if isinstance(error, RemoteError):
        return Failed(error.message, error.hresult)
    return Failed(str(error) or type(error).__name__)
