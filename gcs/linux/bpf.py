"""Asking the kernel which BPF programs it supports (bpf(2))."""

from __future__ import annotations

import errno

from gcs.linux.libc import system_call

# linux/bpf.h
BPF_PROG_QUERY = 16
BPF_CGROUP_DEVICE = 6

_ATTRIBUTE_SIZE = 64


def supports_device_programs(cgroup: int) -> bool:
    """Whether device control by BPF, the only one that cgroup v2 has, works.

    cgroup: descriptor of a cgroup v2 directory.

    ENOSYS (no bpf system call) and EINVAL (no BPF in cgroups) mean no; any other answer, EPERM
    too, comes from code that is there.
    """
    attributes = bytearray(_ATTRIBUTE_SIZE)
    attributes[0:4] = cgroup.to_bytes(4, "little")
    attributes[4:8] = BPF_CGROUP_DEVICE.to_bytes(4, "little")
    try:
        system_call("bpf", BPF_PROG_QUERY, attributes, _ATTRIBUTE_SIZE)
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EINVAL)
    return True
