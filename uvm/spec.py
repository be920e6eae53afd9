"""OCI specifications as a real host makes them, after its clean-up (spec 2.5)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What containerd gives a container that asks for nothing.
DEFAULT_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)

READ_ONLY_PATHS: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

_MOUNTS: Final = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
)

_CPU_PERIOD: Final = 100_000


@dataclass(frozen=True)
class User:
    """Who a process runs as."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ProcessOptions:
    """What a person may say about a process.

    Attributes:
        arguments: Program and arguments.
        environment: ``KEY=value``, added to the defaults.
        working_directory: Absolute path.
        user: Who it runs as.
        terminal_size: Height and width in character cells; ``None``: no terminal.
    """

    arguments: tuple[str, ...]
    environment: tuple[str, ...] = ()
    working_directory: str = "/"
    user: User = field(default_factory=User)
    terminal_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Volume:
    """A directory or a file of the host that a container sees.

    Attributes:
        source: Its absolute path.
        target: Where it is in the container, as an absolute path.
        read_only: Whether the container may change nothing of it.
    """

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class ContainerOptions:
    """What a person may say about a container.

    Attributes:
        process: Its init.
        hostname: Name in its own UTS namespace.
        memory_limit: Bytes; ``None``: no limit of its own.
        read_only: Whether the root file system is read-only.
        cgroup_namespace: Whether it sees its own cgroup as the root of them all. A real host does
            not ask for it.
        stop_signal: What asks its init to end; ``None``: what the agent sends.
        volumes: Directories and files of the host that it sees.
    """

    process: ProcessOptions
    hostname: str = "uvm"
    memory_limit: int | None = None
    read_only: bool = False
    cgroup_namespace: bool = True
    stop_signal: int | None = None
    volumes: tuple[Volume, ...] = ()


def process_document(options: ProcessOptions) -> dict[str, Any]:
    """Return an OCI process."""
    user: dict[str, Any] = {"uid": options.user.uid, "gid": options.user.gid}
    if options.user.additional_gids:
        user["additionalGids"] = list(options.user.additional_gids)
    document: dict[str, Any] = {
        "user": user,
        "args": list(options.arguments),
        "env": _environment(options),
        "cwd": options.working_directory,
        "capabilities": {
            kind: list(DEFAULT_CAPABILITIES) for kind in ("bounding", "effective", "permitted")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }
    if options.terminal_size is not None:
        height, width = options.terminal_size
        document["terminal"] = True
        document["consoleSize"] = {"height": height, "width": width}
    return document


def bind_mount(volume: Volume, source: str) -> dict[str, Any]:
    """Return an OCI mount for a volume that is at a path of the guest."""
    access = "ro" if volume.read_only else "rw"
    return {
        "destination": volume.target,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate", access],
    }


def container_document(
    options: ContainerOptions,
    root_path: str,
    network_namespace: str | None = None,
    *,
    mounts: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return an OCI specification.

    Args:
        options: The container.
        root_path: Where its root file system is mounted.
        network_namespace: Id of the namespace whose adapters it gets; ``None``: it gets none.
        mounts: Mounts of its own, behind those that every container has.
    """
    root: dict[str, Any] = {"path": root_path}
    if options.read_only:
        root["readonly"] = True
    resources: dict[str, Any] = {
        "cpu": {"shares": 1024, "quota": -1, "period": _CPU_PERIOD},
    }
    if options.memory_limit is not None:
        resources["memory"] = {"limit": options.memory_limit}
    namespaces = ["pid", "ipc", "uts", "mount", "network"]
    if options.cgroup_namespace:
        namespaces.append("cgroup")
    document: dict[str, Any] = {
        "ociVersion": "1.1.0",
        "process": process_document(options.process),
        "root": root,
        "hostname": options.hostname,
        "mounts": [
            {"destination": destination, "type": kind, "source": source, "options": list(flags)}
            for destination, kind, source, flags in _MOUNTS
        ]
        + list(mounts),
        "linux": {
            "resources": resources,
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READ_ONLY_PATHS),
        },
    }
    if network_namespace is not None:
        document["windows"] = {"network": {"networkNamespace": network_namespace}}
    return document


def _environment(options: ProcessOptions) -> list[str]:
    """Defaults first; a later assignment of the same name replaces an earlier one."""
    defaults = [f"PATH={DEFAULT_PATH}"]
    if options.terminal_size is not None:
        defaults.append("TERM=xterm")
    values: dict[str, str] = {}
    for assignment in (*defaults, *options.environment):
        name, _, value = assignment.partition("=")
        values[name] = value
    return [f"{name}={value}" for name, value in values.items()]
