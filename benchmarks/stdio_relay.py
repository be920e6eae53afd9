"""Throughput of the output relay: read and write with a buffer against splice(2).

A process writes into a pipe, the relay copies to a socket, another process reads the socket.  The
variants take turns in one run, since only their ratio means something on a shared machine::

    python -m benchmarks.stdio_relay                    # to a unix socket
    python -m benchmarks.stdio_relay --vsock 2:5000     # to a listener of the host, from a guest
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from gcs.linux.pipe import set_pipe_size
from gcs.stdio import copier
from gcs.stdio.sink import SocketSink

if TYPE_CHECKING:
    from collections.abc import Callable

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20
SPLICE_FLAGS = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
WRITE_SIZE = 64 * KIBIBYTE
HEARTBEAT = 0.001


class Variant(NamedTuple):
    """How to relay; chunk and pipe in bytes."""

    method: str
    chunk: int
    pipe: int


class Result(NamedTuple):
    """What one run took: MiB/s, CPU seconds of the relay, by how many seconds the loop was late."""

    rate: float
    cpu: float
    latest_turn: float


VARIANTS = [
    Variant("copier", 64 * KIBIBYTE, 64 * KIBIBYTE),
    Variant("splice", 64 * KIBIBYTE, 64 * KIBIBYTE),
    Variant("copier", 128 * KIBIBYTE, 256 * KIBIBYTE),
    Variant("splice", 128 * KIBIBYTE, 256 * KIBIBYTE),
    Variant("copier", 256 * KIBIBYTE, 1024 * KIBIBYTE),
    Variant("splice", 256 * KIBIBYTE, 1024 * KIBIBYTE),
]


def child(work: Callable[[], None]) -> int:
    """Fork a process that does `work` and exits."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def produce(writer: int, size: int) -> None:
    block = bytes(WRITE_SIZE)
    while size:
        size -= os.write(writer, block[:size])


def consume(connection: socket.socket, other_end: socket.socket) -> None:
    other_end.close()
    buffer = bytearray(MEBIBYTE)
    while connection.recv_into(buffer):
        pass


class SpliceCopier:
    """The least that a relay with splice(2) has to do."""

    def __init__(
        self, source: int, connection: socket.socket, chunk: int, ended: asyncio.Event
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = connection.fileno()
        self._chunk = chunk
        self._ended = ended
        self._loop.add_reader(source, self._copy)

    def _copy(self) -> None:
        try:
            copied = os.splice(self._source, self._sink, self._chunk, flags=SPLICE_FLAGS)
        except BlockingIOError:
            # EAGAIN doesn't tell which side is not ready: the pipe was, so it is the socket.
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._sink_ready)
            return
        if copied == 0:
            self._loop.remove_reader(self._source)
            self._ended.set()

    def _sink_ready(self) -> None:
        self._loop.remove_writer(self._sink)
        self._loop.add_reader(self._source, self._copy)


async def relay(variant: Variant, source: int, connection: socket.socket) -> float:
    """Relay until EOF, and return by how much the loop was late at most."""
    ended = asyncio.Event()
    if variant.method == "splice":
        SpliceCopier(source, connection, variant.chunk, ended)
    else:
        copier.CHUNK = variant.chunk
        sink = SocketSink(connection, "benchmark")
        copier.Copier(source, sink, lambda _: ended.set(), lambda _: ended.set())
    late = await longest_turn(ended)
    connection.close()
    return late


async def longest_turn(ended: asyncio.Event) -> float:
    """Return by how much the loop was late at most, in seconds, until `ended`."""
    late = 0.0
    while not ended.is_set():
        start = time.perf_counter()
        await asyncio.sleep(HEARTBEAT)
        late = max(late, time.perf_counter() - start - HEARTBEAT)
    return late


def measure(variant: Variant, size: int, vsock: tuple[int, int] | None) -> Result:
    reader, writer = os.pipe()
    set_pipe_size(writer, variant.pipe)
    children = [child(lambda: produce(writer, size))]
    os.close(writer)
    if vsock is None:
        near, far = socket.socketpair()
        children.append(child(lambda: consume(far, near)))
        far.close()
    else:
        near = socket.socket(socket.AF_VSOCK)
        near.connect(vsock)
    near.setblocking(False)
    os.set_blocking(reader, False)
    start, cpu = time.perf_counter(), time.process_time()
    late = asyncio.run(relay(variant, reader, near))
    for pid in children:
        os.waitpid(pid, 0)
    duration = time.perf_counter() - start
    cpu = time.process_time() - cpu
    os.close(reader)
    return Result(size / MEBIBYTE / duration, cpu, late)


def parse_vsock(text: str) -> tuple[int, int]:
    cid, _, port = text.partition(":")
    return int(cid), int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vsock", type=parse_vsock, metavar="CID:PORT")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: dict[Variant, list[Result]] = {variant: [] for variant in VARIANTS}
    for _ in range(arguments.rounds):
        for variant in VARIANTS:
            results[variant].append(
                measure(variant, arguments.mebibytes * MEBIBYTE, arguments.vsock)
            )
    rows = []
    for variant, runs in results.items():
        rows.append(
            {
                **variant._asdict(),
                "mebibytes_per_second": round(statistics.median(run.rate for run in runs)),
                "cpu_seconds": round(statistics.median(run.cpu for run in runs), 2),
                "latest_turn_ms": round(1e3 * max(run.latest_turn for run in runs), 1),
            }
        )
    if arguments.json:
        json.dump(rows, sys.stdout, indent=1)
        return
    print("  ".join(rows[0]))
    for row in rows:
        print("  ".join(str(value).rjust(len(name)) for name, value in row.items()))


if __name__ == "__main__":
    main()
