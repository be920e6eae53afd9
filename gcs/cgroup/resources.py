"""Limits of a group, as OCI's LinuxResources names them, and what cgroup v2 calls them (spec 4.7).

A number that is missing or 0 sets nothing, as in runc and CRI; a negative one means no limit.
Devices are left out: every container has its own rules from the runtime, and rules of a pod could
only take from a privileged workload what its specification grants.
"""

from typing import Any, Final

import msgspec

from gcs.protocol.decode import convert
from gcs.protocol.errors import InvalidArgumentError

_SHARES_MIN: Final = 2
_SHARES_MAX: Final = 262_144


class _Section(msgspec.Struct, rename="camel", kw_only=True):
    """An object of the specification: keys in camel case."""


class Memory(_Section):
    """Memory in bytes; ``swap`` is memory and swap together."""

    limit: int = 0
    reservation: int = 0
    swap: int = 0
    swappiness: int | None = None


class Cpu(_Section):
    """CPU time; quota and period in microseconds."""

    shares: int = 0
    quota: int = 0
    period: int = 0
    cpus: str = ""
    mems: str = ""


class Pids(_Section):
    """Number of processes and threads."""

    limit: int = 0


class Throttle(_Section):
    """A rate, in bytes or operations per second, of a block device."""

    major: int = 0
    minor: int = 0
    rate: int = 0


class BlockIo(_Section):
    """Block input and output."""

    weight: int = 0
    throttle_read_bps_device: list[Throttle] = msgspec.field(default_factory=list)
    throttle_write_bps_device: list[Throttle] = msgspec.field(default_factory=list)
    throttle_read_iops_device: list[Throttle] = msgspec.field(
        name="throttleReadIOPSDevice", default_factory=list
    )
    throttle_write_iops_device: list[Throttle] = msgspec.field(
        name="throttleWriteIOPSDevice", default_factory=list
    )


class HugepageLimit(_Section):
    """Bytes in huge pages of a size such as ``2MB``."""

    page_size: str = ""
    limit: int = 0


class Resources(_Section):
    """OCI LinuxResources, as far as the agent sets them for groups of its own."""

    memory: Memory = msgspec.field(default_factory=Memory)
    cpu: Cpu = msgspec.field(default_factory=Cpu)
    pids: Pids = msgspec.field(default_factory=Pids)
    block_io: BlockIo = msgspec.field(name="blockIO", default_factory=BlockIo)
    hugepage_limits: list[HugepageLimit] = msgspec.field(default_factory=list)
    unified: dict[str, str] = msgspec.field(default_factory=dict)


def read_resources(document: Any) -> Resources:
    """Check OCI LinuxResources; ``None`` is an empty document.

    Raises:
        InvalidJsonError: A value of the wrong type.
        InvalidArgumentError: Values that contradict each other, or that name no file of a group.
    """
    resources = convert({} if document is None else document, Resources, "linux.resources")
    memory = resources.memory
    if 0 < memory.swap < memory.limit:
        raise InvalidArgumentError(
            f"linux.resources: memory and swap together ({memory.swap}) are less than the memory "
            f"limit ({memory.limit})"
        )
    names = [limit.page_size for limit in resources.hugepage_limits]
    for name in (*names, *resources.unified):
        if not name or "/" in name or name.startswith("."):
            raise InvalidArgumentError(f"linux.resources: {name!r} can't be part of a file name")
    return resources


def v2_settings(resources: Resources) -> list[tuple[str, str]]:
    """Convert to files of cgroup v2 and what to write to them, in the right order.

    Raises:
        InvalidArgumentError: A limit of swap without one of memory: version 2 limits swap alone,
            and how much that is can't be told.
    """
    settings = [*_v2_memory(resources.memory), *_v2_cpu(resources.cpu)]
    if resources.pids.limit:
        settings.append(("pids.max", _or_max(resources.pids.limit)))
    io = resources.block_io
    if io.weight:
        settings.append(("io.bfq.weight", str(io.weight)))
    for key, devices in (
        ("rbps", io.throttle_read_bps_device),
        ("wbps", io.throttle_write_bps_device),
        ("riops", io.throttle_read_iops_device),
        ("wiops", io.throttle_write_iops_device),
    ):
        for device in devices:
            rate = str(device.rate) if device.rate else "max"
            settings.append(("io.max", f"{device.major}:{device.minor} {key}={rate}"))
    settings += [
        (f"hugetlb.{huge.page_size}.max", str(huge.limit)) for huge in resources.hugepage_limits
    ]
    settings += resources.unified.items()
    return settings


def _v2_memory(memory: Memory) -> list[tuple[str, str]]:
    settings = []
    if memory.limit:
        settings.append(("memory.max", _or_max(memory.limit)))
    if memory.reservation:
        settings.append(("memory.low", _or_max(memory.reservation)))
    if memory.swap < 0:
        settings.append(("memory.swap.max", "max"))
    elif memory.swap:
        if memory.limit <= 0:
            raise InvalidArgumentError(
                f"linux.resources: a limit of memory and swap together ({memory.swap}) needs a "
                "memory limit, too"
            )
        settings.append(("memory.swap.max", str(memory.swap - memory.limit)))
    return settings


def _v2_cpu(cpu: Cpu) -> list[tuple[str, str]]:
    settings = []
    if cpu.shares > 0:
        settings.append(("cpu.weight", str(cpu_weight(cpu.shares))))
    if cpu.quota or cpu.period:
        # A quota alone keeps the period that is in force.
        period = f" {cpu.period}" if cpu.period else ""
        quota = str(cpu.quota) if cpu.quota > 0 else "max"
        settings.append(("cpu.max", f"{quota}{period}"))
    if cpu.cpus:
        settings.append(("cpuset.cpus", cpu.cpus))
    if cpu.mems:
        settings.append(("cpuset.mems", cpu.mems))
    return settings


def cpu_weight(shares: int) -> int:
    """Convert shares of v1, 2 to 262,144, to a weight of v2, 1 to 10,000."""
    shares = min(max(shares, _SHARES_MIN), _SHARES_MAX)
    return 1 + (shares - _SHARES_MIN) * 9999 // (_SHARES_MAX - _SHARES_MIN)


def io_weight(bfq_weight: int) -> int:
    """Convert a weight of the BFQ scheduler, 10 to 1,000, to one of ``io.weight``, 1 to 10,000."""
    return 1 + (min(max(bfq_weight, 10), 1000) - 10) * 9999 // 990


def _or_max(number: int) -> str:
    return "max" if number < 0 else str(number)
