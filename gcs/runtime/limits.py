"""Limits of a running container, as far as their types go (OCI runtime specification 1.0)."""

from __future__ import annotations

from typing import Any

import msgspec


class Memory(msgspec.Struct):
    """Bytes; -1 is no limit."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    swappiness: int | None = None


class Cpu(msgspec.Struct):
    """Shares, times in microseconds, and lists such as "0-3,7"."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    realtime_runtime: int | None = msgspec.field(name="realtimeRuntime", default=None)
    realtime_period: int | None = msgspec.field(name="realtimePeriod", default=None)
    cpus: str = ""
    mems: str = ""


class Pids(msgspec.Struct):
    """Number of processes and threads."""

    limit: int | None = None


class BlockIo(msgspec.Struct):
    """Weight of a container, 10 to 1000."""

    weight: int | None = None


class LinuxResources(msgspec.Struct):
    """All of these; more is left to the runtime."""

    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIo | None = msgspec.field(name="blockIO", default=None)
    unified: dict[str, str] | None = None
    devices: list[dict[str, Any]] | None = None
