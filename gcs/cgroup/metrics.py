"""The form of the metrics: cgroup v1 ones of containerd as Go's JSON (spec 1.8)."""

from __future__ import annotations

from typing import Any, Final

from gcs.cgroup.files import MAX, read_text

# Too large for a response; hosts know that they are missing (spec 1.8).
_EMPTIED: Final = ("blkio", "rdma")
_RDMA_MAX: Final = 2**32 - 1


def omit_empty(section: dict[str, Any]) -> dict[str, Any]:
    """Leave out numbers that are zero, empty lists and empty texts, at any depth.

    Sections stay, even empty: Go marshals pointers to structures that way.
    """
    result: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict):
            result[key] = omit_empty(value)
        elif isinstance(value, list):
            if value:
                result[key] = [omit_empty(x) if isinstance(x, dict) else x for x in value]
        elif value:
            result[key] = value
    return result


def cut_for_host(metrics: dict[str, Any]) -> dict[str, Any]:
    """Leave out what could make a response too large: block I/O, RDMA, network (spec 1.8)."""
    cut = {key: {} if key in _EMPTIED else value for key, value in metrics.items()}
    cut.pop("network", None)
    return cut


def nanoseconds(microseconds: int) -> int:
    """Convert a time; one that is out of range stays at 2^64-1, as a host can't read more."""
    return min(microseconds * 1000, MAX)


def read_rdma(directory: str) -> dict[str, Any]:
    """Return the RDMA section from ``rdma.current`` and ``rdma.max``, equal in both versions."""
    current = parse_rdma(read_text(f"{directory}/rdma.current"))
    return {"current": current, "limit": parse_rdma(read_text(f"{directory}/rdma.max"))}


def parse_rdma(text: str) -> list[dict[str, Any]]:
    """Read lines such as ``mlx4_0 hca_handle=2 hca_object=max``."""
    entries = []
    for line in text.splitlines():
        device, *pairs = line.split() or [""]
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if device and values:
            entries.append(
                {
                    "device": device,
                    "hca_handles": _rdma_number(values.get("hca_handle", "")),
                    "hca_objects": _rdma_number(values.get("hca_object", "")),
                }
            )
    return entries


def _rdma_number(text: str) -> int:
    if text == "max":
        return _RDMA_MAX
    return min(int(text), _RDMA_MAX) if text.isdecimal() else 0
