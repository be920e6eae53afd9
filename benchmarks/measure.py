"""The measurements: each returns its rows, name → value; the unit is part of the name."""

import asyncio
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from benchmarks.containers import Workbench
from uvm.guest import Guest
from uvm.process import Process

MIB: Final = 1 << 20
_CHUNK: Final = 1 << 18
_BLOCK: Final = 1 << 16

Rows = dict[str, float]


class Measurement(Protocol):
    """One of the functions below."""

    __name__: str

    async def __call__(self, bench: Workbench, sizes: "Sizes", /) -> Rows:
        """Measure."""
        ...


class Start(Protocol):
    """Starts a process; returns it, and how to wait for its end and remove what it ran in."""

    async def __call__(
        self, bench: Workbench, stdin: bool, /, *arguments: str
    ) -> tuple[Process, Callable[[], Awaitable[None]]]:
        """Start a command, with or without stdin."""
        ...


#: Sums the proportional set size of the programs that make up the agent, in KiB.
_PSS_SCRIPT: Final = """
total=0
for directory in /proc/[0-9]*; do
    case "$(readlink "$directory/exe")" in
    /usr/lib/gcs/*|/bin/gcs|/usr/bin/gcs|/init|/init.*|/bin/vsockexec)
        while read -r key value unit; do
            [ "$key" = Pss: ] && total=$((total + value))
        done <"$directory/smaps_rollup" ;;
    esac
done
echo $total
"""


@dataclass(frozen=True)
class Sizes:
    """How much to measure.

    Attributes:
        round_trips: Requests per in-flight level.
        lives: Containers that run `true`, one after another.
        stream_mib: Bytes of each stream, in MiB.
        running: Containers that run while memory is measured.
        layers: Disks that one root file system is made of.
        roots: Such root file systems, one after another.
        adapters: Network adapters, one after another.
    """

    round_trips: int = 640
    lives: int = 12
    stream_mib: int = 64
    running: int = 20
    layers: int = 10
    roots: int = 7
    adapters: int = 7


async def round_trips(bench: Workbench, sizes: Sizes) -> Rows:
    """Measure a request that does nothing, alone and with 64 in flight."""
    rows: Rows = {}
    for in_flight in (1, 64):
        durations: list[float] = []
        remaining = sizes.round_trips

        async def worker(durations: list[float] = durations) -> None:
            nonlocal remaining
            while remaining > 0:
                remaining -= 1
                start = time.perf_counter()
                await bench.guest.client.start_container("benchmark")
                durations.append(time.perf_counter() - start)

        await asyncio.gather(*(worker() for _ in range(in_flight)))
        cuts = statistics.quantiles(durations, n=100)
        rows[f"no-op request, {in_flight} in flight, p50, ms"] = cuts[49] * 1000
        rows[f"no-op request, {in_flight} in flight, p99, ms"] = cuts[98] * 1000
    return rows


async def container_lives(bench: Workbench, sizes: Sizes) -> Rows:
    """Measure the life of a container that runs `true`, against that with the bare runtime.

    The life: create, start, wait and delete.
    """
    lives: list[float] = []
    phases: dict[str, list[float]] = {"create": [], "start": [], "exit": [], "delete": []}
    bare: list[float] = []
    for _ in range(sizes.lives):
        container = await bench.prepare()
        marks = [time.perf_counter()]
        await bench.create(container, "/bin/true")
        marks.append(time.perf_counter())
        process = await container.start(output=False)
        marks.append(time.perf_counter())
        await process.wait()
        await container.wait_exit()
        marks.append(time.perf_counter())
        await bench.unmount(container)
        unmounted = time.perf_counter()
        await bench.guest.client.delete_container_state(container.id)
        deleted = time.perf_counter() - unmounted
        lives.append(marks[-1] - marks[0] + deleted)
        for name, took in zip(phases, [*(b - a for a, b in pairwise(marks)), deleted], strict=True):
            phases[name].append(took)
        bare.append(await _bare_runtime(bench))
    life, bare_run = statistics.median(lives), statistics.median(bare)
    rows = {
        "container that runs true, p50, ms": life * 1000,
        "bare runtime's run of true, p50, ms": bare_run * 1000,
        "container / bare runtime, ratio": life / bare_run,
    }
    rows |= {f"  {name}, p50, ms": statistics.median(v) * 1000 for name, v in phases.items()}
    return rows


async def streams(bench: Workbench, sizes: Sizes) -> Rows:
    """Measure stdout and stdin of a container and of a process of the VM."""
    rows: Rows = {}
    write = ("/bin/dd", "if=/dev/zero", f"bs={_BLOCK}", f"count={sizes.stream_mib * MIB // _BLOCK}")
    starts: dict[str, Start] = {"container": _in_container, "VM process": _in_vm}
    for name, start in starts.items():
        process, discard = await start(bench, False, *write)
        rows[f"stdout of a {name}, MiB/s"] = await _rate(_receive(process), sizes)
        await discard()
        process, discard = await start(bench, True, "/bin/sh", "-c", "cat >/dev/null")
        rows[f"stdin of a {name}, MiB/s"] = await _rate(_send(process, sizes), sizes)
        await discard()
    return rows


async def memory(bench: Workbench, sizes: Sizes) -> Rows:
    """Measure the memory of the agent, idle and with running containers."""
    idle = await pss(bench.guest)
    containers = []
    for _ in range(sizes.running):
        container = await bench.prepare()
        containers.append(container)
        await bench.create(container, "/bin/sleep", "100000")
        await container.start(output=True)
    busy = await pss(bench.guest)
    for container in containers:
        await bench.discard(container)
    return {
        "memory of the agent and PID 1, idle, MiB": idle,
        f"memory with {sizes.running} containers, MiB": busy,
        "memory per running container, MiB": (busy - idle) / sizes.running,
    }


async def _bare_runtime(bench: Workbench) -> float:
    """Time `runc run`, or crun's, in the VM by the VM's own clock."""
    script = f"""
set -e
runtime=$(command -v runc || command -v crun)
bundle=/run/bench-bundle
mkdir -p $bundle
cd $bundle
[ -e config.json ] || {{ $runtime spec; sed -i \
    -e 's#"terminal": true#"terminal": false#' -e 's#"sh"#"/bin/true"#' \
    -e 's#"path": "rootfs"#"path": "{bench.layer}"#' config.json; }}
read start _ </proc/uptime
$runtime run --no-pivot bench-bare </dev/null
read end _ </proc/uptime
echo $start $end
"""
    process = await bench.guest.execute_in_vm(["/bin/sh", "-c", script])
    completed = await process.communicate()
    if completed.exit_code != 0:
        raise RuntimeError(f"the bare runtime failed: {completed.stderr.decode()}")
    start, end = map(float, completed.stdout.split())
    return end - start


async def _in_container(
    bench: Workbench, stdin: bool, *arguments: str
) -> tuple[Process, Callable[[], Awaitable[None]]]:
    container = await bench.prepare()
    await bench.create(container, *arguments)
    process = await container.start(stdin=stdin, output=not stdin)

    async def discard() -> None:
        await container.wait_exit()
        await bench.discard(container)

    return process, discard


async def _in_vm(
    bench: Workbench, stdin: bool, *arguments: str
) -> tuple[Process, Callable[[], Awaitable[None]]]:
    process = await bench.guest.execute_in_vm(
        list(arguments), stdin=stdin, stdout=not stdin, stderr=not stdin
    )

    async def discard() -> None:
        process.close()

    return process, discard


async def _rate(transfer: Awaitable[None], sizes: Sizes) -> float:
    start = time.perf_counter()
    await transfer
    return sizes.stream_mib / (time.perf_counter() - start)


async def _receive(process: Process) -> None:
    stdout = process.stdio.stdout
    if stdout is None:
        raise RuntimeError("no stdout")
    loop = asyncio.get_running_loop()
    buffer = bytearray(_CHUNK)
    while await loop.sock_recv_into(stdout, buffer):
        continue
    process.close()
    await process.wait()


async def _send(process: Process, sizes: Sizes) -> None:
    stdin = process.stdio.stdin
    if stdin is None:
        raise RuntimeError("no stdin")
    loop = asyncio.get_running_loop()
    block = bytes(_CHUNK)
    for _ in range(sizes.stream_mib * MIB // _CHUNK):
        await loop.sock_sendall(stdin, block)
    stdin.shutdown(socket.SHUT_WR)
    await process.wait()


async def pss(guest: Guest) -> float:
    process = await guest.execute_in_vm(["/bin/sh", "-c", _PSS_SCRIPT])
    completed = await process.communicate()
    return int(completed.stdout) / 1024
