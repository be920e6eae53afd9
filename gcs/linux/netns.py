"""Network namespaces of the kernel (network_namespaces(7)): opening, entering, comparing them."""

from __future__ import annotations

import os

from gcs.linux.libc import call

_CLONE_NEWNET = 0x40000000


def open_of_process(pid: int) -> int:
    """A close-on-exec descriptor of a process's network namespace.

    It keeps the namespace alive, and the adapters in it away from the VM's, until it is closed.
    Raises OSError (ENOENT, ESRCH) when the process has ended.
    """
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """Make the calling thread use a network namespace, given as a descriptor (setns(2)).

    For processes of a single thread.  Raises OSError when it is no network namespace.
    """
    call("setns", namespace, _CLONE_NEWNET)


def are_same(one: int, other: int) -> bool:
    """Tell whether two descriptors are of the same namespace."""
    return os.path.sameopenfile(one, other)
