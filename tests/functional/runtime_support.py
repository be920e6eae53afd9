"""The runtime floor under test, with the host's side of it."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING, Any

from gcs.protocol.message import UVM_ID, SchemaVersion
from gcs.protocol.requests import (
    INFINITE,
    ContainerSettings,
    ModificationRequest,
    ProcessParameters,
    PropertyQuery,
    VsockStdioRelaySettings,
)
from gcs.runtime.assembly import make_host
from gcs.runtime.children import Children
from gcs.runtime.runc import Runc
from gcs.transport import UnixTransport
from tests.support.pods import SANDBOX_ID, SKIP_NETWORK, TYPE
from tests.support.rootfs import oci_process, specification
from tests.support.runtimes import RUNTIME

if TYPE_CHECKING:
    from pathlib import Path

    from gcs.protocol.responses import Notification, Properties
    from gcs.runtime.process import WaitResult

ACTIVITY = "11111111-2222-3333-4444-555555555555"
_ports = itertools.count(0x40000001)
_numbers = itertools.count(1)


class _HostProtocol(asyncio.StreamReaderProtocol):
    """Closes the connection at EOF, as hosts do (spec 1.11)."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


class Stream:
    """A port of the host, which accepts one connection."""

    def __init__(self, prefix: str, port: int = 0) -> None:
        self.port = port or next(_ports)
        self._path = f"{prefix}_{self.port}"
        self._reader = asyncio.StreamReader()
        self._accepted: asyncio.Future[asyncio.StreamWriter]

    async def listen(self) -> Stream:
        loop = asyncio.get_running_loop()
        self._accepted = loop.create_future()
        self._server = await loop.create_unix_server(
            lambda: _HostProtocol(self._reader, self._accept), self._path
        )
        return self

    def _accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server.close()
        self._accepted.set_result(writer)

    @property
    def dialled(self) -> bool:
        return self._accepted.done()

    async def send(self, data: bytes) -> None:
        writer = await self._accepted
        writer.write(data)
        await writer.drain()

    async def end(self) -> None:
        """Half-close: the other side reads EOF."""
        (await self._accepted).write_eof()

    async def read_until(self, text: bytes) -> bytes:
        return await self._reader.readuntil(text)

    async def read_all(self) -> bytes:
        """Everything up to EOF."""
        return await self._reader.read()

    async def close(self) -> None:
        self._server.close()
        if self._accepted.done() and not self._accepted.cancelled():
            self._accepted.result().close()
            await self._accepted.result().wait_closed()
        else:
            self._accepted.cancel()


class Streams:
    """The streams of one process; those that are not wanted are None."""

    def __init__(self, **streams: Stream) -> None:
        self.all = streams

    def __getattr__(self, name: str) -> Stream:
        return self.all[name]

    @property
    def parameters(self) -> dict[str, Any]:
        names = {"stdin": "std_in", "stdout": "std_out", "stderr": "std_err"}
        return {f"create_{names[name]}_pipe": True for name in self.all}

    @property
    def ports(self) -> VsockStdioRelaySettings:
        settings = VsockStdioRelaySettings()
        for name, stream in self.all.items():
            setattr(
                settings,
                {"stdin": "std_in", "stdout": "std_out", "stderr": "std_err"}[name],
                stream.port,
            )
        return settings


class Machine:
    """A guest: the runtime floor with everything real, and what a host does with it."""

    def __init__(
        self, directory: Path, rootfs: Path, *, children: Children | None = None, **runc: Any
    ) -> None:
        self.directory = directory
        self.rootfs = rootfs
        self.mark = f"gcstest{os.getpid()}x"
        self.notifications: asyncio.Queue[Notification] = asyncio.Queue()
        self._prefix = os.fspath(directory / "v")
        self._opened: list[Stream] = []
        self.children = children or Children()
        self.host = make_host(
            transport=UnixTransport(self._prefix),
            publish=self.notifications.put_nowait,
            children=self.children,
            runtime=Runc(self.children, **{"program": RUNTIME, **runc}),
        )

    async def close(self) -> None:
        await self.host.close()
        for stream in self._opened:
            await stream.close()

    def new_id(self) -> str:
        return f"{self.mark}-{next(_numbers)}"

    def bundle(self, container_id: str) -> Path:
        return self.directory / "c" / container_id

    def specification(self, *args: str, **process: Any) -> dict[str, Any]:
        return specification(self.rootfs, *args, **process)

    async def streams(self, names: str = "stdout") -> Streams:
        opened = {name: await Stream(self._prefix).listen() for name in names.split()}
        self._opened += opened.values()
        return Streams(**opened)

    async def listen_again(self, stream: Stream) -> Stream:
        """Break a connection, as a host that goes away does, and wait for another one."""
        await stream.close()
        os.unlink(f"{self._prefix}_{stream.port}")
        opened = await Stream(self._prefix, stream.port).listen()
        self._opened.append(opened)
        return opened

    async def create(
        self,
        *args: str,
        spec: dict[str, Any] | None = None,
        container_id: str = "",
        bundle: str = "",
        scratch: str = "",
        **process: Any,
    ) -> str:
        """Create a container and return its id."""
        container_id = container_id or self.new_id()
        settings = ContainerSettings(
            schema_version=SchemaVersion(major=2, minor=1),
            oci_bundle_path=bundle or os.fspath(self.bundle(container_id)),
            oci_specification=spec or self.specification(*args, **process),
            scratch_dir_path=scratch,
        )
        await self.host.create_container(container_id, ACTIVITY, settings)
        return container_id

    async def create_sandbox(
        self, *args: str, pod: str = "", bundle: str = "", **annotations: str
    ) -> str:
        """Create the sandbox of a pod that has no network, and return its id."""
        spec = self.specification(*(args or ("sleep", "1000")))
        spec["annotations"] = {TYPE: "sandbox", SKIP_NETWORK: "true", **annotations}
        return await self.create(spec=spec, container_id=pod, bundle=bundle)

    async def create_workload(
        self,
        pod: str,
        *args: str,
        sandbox_pid: int = 0,
        bundle: str = "",
        annotations: dict[str, str] | None = None,
        linux: dict[str, Any] | None = None,
        mounts: list[dict[str, Any]] | None = None,
        **process: Any,
    ) -> str:
        """Create a container of a pod, in the sandbox's namespaces when its pid is given."""
        spec = self.specification(*args, **process)
        del spec["hostname"]
        spec["annotations"] = {TYPE: "container", SANDBOX_ID: pod, **(annotations or {})}
        spec["mounts"] += mounts or []
        spec["linux"].update(linux or {})
        if sandbox_pid:
            for namespace in spec["linux"]["namespaces"]:
                kind = namespace["type"]
                if kind in ("ipc", "uts", "network"):
                    name = "net" if kind == "network" else kind
                    namespace["path"] = f"/proc/{sandbox_pid}/ns/{name}"
        return await self.create(spec=spec, bundle=bundle)

    async def start(self, container_id: str, streams: Streams | None = None) -> int:
        return await self.execute(container_id, streams)

    async def exec(
        self, container_id: str, *args: str, streams: Streams | None = None, **process: Any
    ) -> int:
        document = oci_process(*args, **process)
        return await self.execute(container_id, streams, oci_process=document)

    async def execute(
        self, container_id: str, streams: Streams | None = None, **parameters: Any
    ) -> int:
        streams = streams or Streams()
        return await self.host.execute_process(
            container_id, ProcessParameters(**parameters, **streams.parameters), streams.ports
        )

    async def external(self, *args: str, streams: Streams | None = None, **more: Any) -> int:
        """Run a process of the VM."""
        more.setdefault("environment", {"PATH": os.environ["PATH"]})
        return await self.execute(UVM_ID, streams, command_args=list(args), **more)

    async def wait(self, container_id: str, pid: int, timeout_ms: int = INFINITE) -> int:
        """Wait for an exit code, and answer at once."""
        result = await self.pending(container_id, pid, timeout_ms)
        result.answered()
        return result.exit_code

    async def pending(self, container_id: str, pid: int, timeout_ms: int = INFINITE) -> WaitResult:
        return await self.host.wait_for_process(container_id, pid, timeout_ms)

    async def run(self, *args: str, **process: Any) -> tuple[int, bytes]:
        """Create, start, wait, delete; return exit code and output."""
        container_id = await self.create(*args, **process)
        streams = await self.streams()
        pid = await self.start(container_id, streams)
        output, code = await asyncio.gather(streams.stdout.read_all(), self.wait(container_id, pid))
        await self.host.delete_container_state(container_id)
        return code, output

    async def properties(self, container_id: str, *types: str) -> Properties:
        return await self.host.properties(container_id, PropertyQuery(property_types=list(types)))

    async def modify(
        self, container_id: str, resource_type: str, settings: Any, request_type: str = ""
    ) -> None:
        request = ModificationRequest(
            request_type=request_type, resource_type=resource_type, settings=settings
        )
        await self.host.modify_settings(container_id, request)
