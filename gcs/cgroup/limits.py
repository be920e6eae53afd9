"""How much memory the containers may have (spec 4.7)."""

from __future__ import annotations

import os
from typing import Final

from gcs.protocol.errors import GcsError

_INT64_MAX: Final = 2**63 - 1


def total_memory() -> int:
    """Return the memory of the VM, in bytes, at this moment: a host can add some."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_memory() -> int:
    """Return how much memory of the VM could be had without pushing anything out, in bytes.

    Raises:
        OSError: There is no /proc.
    """
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.removesuffix(" kB\n")) << 10
    raise OSError("/proc/meminfo does not tell what is available")


def pods_memory_limit(total: int, reserve: int) -> int:
    """Return the limit of ``/pods``, in bytes.

    Args:
        total: Memory of the VM, in bytes.
        reserve: What is kept for the agent and the rest of the VM (``-root-mem-reserve-bytes``).

    Raises:
        GcsError: Nothing would be left, or the kernel can't take such a number.
    """
    if total <= reserve:
        raise GcsError(
            f"total memory {total} must be greater than the root memory reserve {reserve}; "
            "give the VM more memory or lower -root-mem-reserve-bytes"
        )
    limit = total - reserve
    if limit > _INT64_MAX:
        raise GcsError(f"memory limit {limit} of /pods exceeds maximum {_INT64_MAX}")
    return limit
