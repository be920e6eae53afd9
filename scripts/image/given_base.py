"""What a base of the user's must have, and what of it does not go into the image."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from scripts.image.errors import BuildError, warn

if TYPE_CHECKING:
    from scripts.image.tree import Tree

SEARCHED = ("sbin", "usr/sbin", "bin", "usr/bin")
"""Where /init, and so the agent, looks for programs."""

RUNTIMES = ("runc", "crun")

# Program, and what fails without it (spec 7.8).
_EXPECTED = {
    "sh": "processes that the host runs by a command line",
    "mkfs.ext4": "scratch disks of a pod that are formatted in the VM",
    "mkfs.xfs": "encrypted scratch disks",
    "cryptsetup": "encrypted disks",
    "modprobe": "drivers on demand",
    "depmod": "drivers that the host brings along",
    "chronyd": "the clock",
    "udhcpc": "networks with DHCP",
}
_SHOWN = 5


def adapt(tree: Tree) -> None:
    """Check a base and take out what an image must not have; warnings say what was.

    Parameters:
        tree: the base's files.

    Raises:
        BuildError: there is no container runtime in it.
    """
    if not any(has_program(tree, name) for name in RUNTIMES):
        raise BuildError(
            "no container runtime: put runc or crun into one of "
            f"{', '.join(f'/{folder}' for folder in SEARCHED)}"
        )
    for name, lost in _EXPECTED.items():
        if not has_program(tree, name):
            warn(f"BASE has no {name}, which is needed for {lost}")
    if devices := _remove_devices(tree):
        warn(f"device nodes of BASE outside of /dev are left out: {_listed(devices)}")
    if tree.stripped:
        warn(
            "everything belongs to root in the image, so files of other owners in BASE lose their "
            f"set-user-id and set-group-id bits: {_listed(tree.stripped)}"
        )


def has_program(tree: Tree, name: str) -> bool:
    """Tell whether /init would find a program."""
    for folder in SEARCHED:
        node = tree.nodes.get(tree.resolve(f"{folder}/{name}"))
        if node is not None and stat.S_ISREG(node.mode) and node.mode & 0o111:
            return True
    return False


def _remove_devices(tree: Tree) -> list[str]:
    """Remove device nodes that would be there to use; over those in /dev the kernel's are mounted.

    A disk's node elsewhere would let whoever may read it by its mode get round all other modes.
    """
    found = [
        path
        for path, node in tree
        if (stat.S_ISBLK(node.mode) or stat.S_ISCHR(node.mode)) and not path.startswith("dev/")
    ]
    for path in found:
        del tree.nodes[path]
    return found


def _listed(paths: list[str]) -> str:
    shown = ", ".join(f"/{path}" for path in paths[:_SHOWN])
    return f"{shown} and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else shown
