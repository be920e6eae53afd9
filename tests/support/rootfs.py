"""A root file system of busybox, and OCI specifications for containers in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

BUSYBOX = "/bin/busybox"
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "sys", "tmp")


def build_rootfs(directory: Path) -> Path:
    """Fill a directory, which may exist, with busybox and a link for each of its commands."""
    for name in _DIRECTORIES:
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copy2(BUSYBOX, directory / "bin/busybox")
    commands = subprocess.run([BUSYBOX, "--list"], capture_output=True, check=True, text=True)
    for command in commands.stdout.split():
        if command != "busybox":
            (directory / "bin" / command).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\n")
    return directory


def specification(rootfs: Path, *args: str, **process: Any) -> dict[str, Any]:
    """Return a specification with its own namespaces, as hosts send it.

    args: Command.
    process: More members of the process section.
    """
    nodev = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": oci_process(*args, **process),
        "root": {"path": os.fspath(rootfs)},
        "hostname": "test.example",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": nodev},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*nodev, "ro"]},
        ],
        "linux": {
            "resources": {"memory": {"limit": 256 << 20}},
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
        },
        "windows": {"network": {"networkNamespace": str(uuid.uuid4())}},
    }


def oci_process(*args: str, **members: Any) -> dict[str, Any]:
    """Return an OCI process."""
    return {
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": [PATH, "TERM=xterm"],
        "cwd": "/",
        **members,
    }
