"""What tests of the bridge need of a host: processes that end on demand, and waits for them."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from gcs.protocol.frame import MessageType
from tests.support.fakehost import PATIENCE, UVM
from tests.support.rootfs import specification

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fakehost import HostConnection, Reply

NEGOTIATED, WAITED, STARTED = 0x20100B01, 0x20100601, 0x20100201
FOR_EVER = 0xFFFF_FFFF
PROBE = 50


async def start(connection: HostConnection, parameters: dict[str, Any], target: str = UVM) -> int:
    body = {"ContainerId": target, "Settings": {"ProcessParameters": json.dumps(parameters)}}
    reply = await connection.rpc(MessageType.EXECUTE_PROCESS, body)
    assert reply.result == 0, reply.body
    return int(reply.body["ProcessId"])


def wait_body(pid: int, target: str = UVM, timeout: int = 0xFFFF_FFFF) -> dict[str, Any]:
    return {"ContainerId": target, "ProcessId": pid, "TimeoutInMs": timeout}


async def soon(future: asyncio.Future[Reply]) -> Reply:
    async with asyncio.timeout(PATIENCE):
        return await future


class Target:
    """A process that ends with a status when it is let go.

    Attributes:
        container_id: Where it runs.
        status: Its exit code.
        pid: Known once it was started.
    """

    def __init__(self, directory: Path, name: str, container_id: str, status: int) -> None:
        self.container_id = container_id
        self.status = status
        self.pid = 0
        self._fifo = directory / name
        os.mkfifo(self._fifo)

    @property
    def arguments(self) -> list[str]:
        """What to run, in the VM; in a container the directory of the fifo is /gate."""
        path = self._fifo if self.container_id == UVM else f"/gate/{self._fifo.name}"
        return ["/bin/sh", "-c", f"read line < {path}; exit {self.status}"]

    async def let_go(self) -> None:
        """Let it end; waits until it is there."""
        await asyncio.to_thread(self._fifo.write_text, "go\n")

    def wait(self, timeout: int = FOR_EVER) -> dict[str, Any]:
        """Body of a wait for it."""
        return wait_body(self.pid, self.container_id, timeout)


async def start_in_vm(connection: HostConnection, target: Target) -> None:
    """Start a process of the VM."""
    target.pid = await start(connection, {"CommandArgs": target.arguments})


async def start_container(
    connection: HostConnection, target: Target, directory: Path, rootfs: Path
) -> None:
    """Create a container and start its init."""
    spec = specification(rootfs, *target.arguments)
    spec["mounts"].append(
        {"destination": "/gate", "type": "bind", "source": str(directory), "options": ["rbind"]}
    )
    config = {
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciBundlePath": str(directory / f"bundle-{target.container_id}"),
        "OciSpecification": spec,
    }
    body = {"ContainerId": target.container_id, "ContainerConfig": json.dumps(config)}
    created = await connection.rpc(MessageType.CREATE, body)
    assert created.result == 0, created.body
    target.pid = await start(connection, {}, target.container_id)


async def start_in_container(connection: HostConnection, target: Target) -> None:
    """Run another process in a container."""
    process = {
        "args": target.arguments,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
    }
    target.pid = await start(connection, {"OCIProcess": process}, target.container_id)
