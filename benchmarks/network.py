"""A network adapter for a container that runs: from its addition until the host reaches it."""

import asyncio
import contextlib
import socket
import statistics
import time
from itertools import pairwise
from typing import Final

from benchmarks.containers import Workbench
from benchmarks.measure import Rows, Sizes, pss
from uvm.container import Container, new_container_id
from uvm.network.adapter import user_adapter
from uvm.spec import ContainerOptions, ProcessOptions
from uvm.vm.nic import PublishedPort

_SERVER: Final = ("/usr/sbin/httpd", "-f", "-p", "80", "-h", "/etc")
_REQUEST: Final = b"GET /hostname HTTP/1.0\r\n\r\n"


async def network_adapters(bench: Workbench, sizes: Sizes) -> Rows:
    """Measure the life of adapters of a running container, one after another.

    The VM needs a port for network adapters.
    """
    network = bench.vm.network_namespace()
    container = Container(bench.guest, new_container_id(), network=network)
    await container.combine([bench.layer], writable=True)
    await container.create(ContainerOptions(ProcessOptions(_SERVER)))
    await container.start(output=False)
    before = await pss(bench.guest)
    rounds = []
    for _ in range(sizes.adapters):
        port = PublishedPort(_free_port(), 80)
        marks = [time.perf_counter()]
        adapter_id = await network.add(user_adapter((port,)))
        marks.append(time.perf_counter())
        await _ask(port)
        marks.append(time.perf_counter())
        await network.remove_adapter(adapter_id)
        marks.append(time.perf_counter())
        rounds.append([b - a for a, b in pairwise(marks)])
    after = await pss(bench.guest)
    await container.kill()
    await container.remove()
    columns = [statistics.median(column) * 1000 for column in zip(*rounds, strict=True)]
    answered, reached, removed = columns
    return {
        "network adapter: add → reachable, p50, ms": answered + reached,
        "  plugged, and the agent's answer, p50, ms": answered,
        "  first answer of a server in the container, p50, ms": reached,
        "  remove and unplug, p50, ms": removed,
        f"memory after {sizes.adapters} adapters, less before, MiB": after - before,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _ask(port: PublishedPort) -> None:
    reader, writer = await asyncio.open_connection(port.host_address, port.host_port)
    with contextlib.closing(writer):
        writer.write(_REQUEST)
        if b" 200 " not in (await reader.read()).partition(b"\r\n")[0]:
            raise RuntimeError(f"the container's server does not answer at {port}")
