"""Mounting the control groups: version 2 where it is complete, else version 1 (spec 7.1)."""

from __future__ import annotations

import errno
import os

from gcs.init import kmsg
from gcs.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.linux.syscalls import Syscalls

_FLAGS = MS_NODEV | MS_NOSUID | MS_NOEXEC

MOUNT_POINT = "/sys/fs/cgroup"
AGENT_GROUP = "/gcs"
"""The agent's control group (gcs.runtime.memory)."""

FORCE_V1 = "hcsshim.cgroup=v1"
"""Word of the kernel command line that asks for version 1."""


class CgroupMounter:
    """Mounts the hierarchy or hierarchies; paths can be others than the machine's for tests."""

    __slots__ = ("_cgroups", "_command_line", "_mount_point", "_probe", "_syscalls")

    def __init__(
        self,
        syscalls: Syscalls,
        *,
        probe: Callable[[int], bool] | None = None,
        mount_point: str = MOUNT_POINT,
        command_line: str = "/proc/cmdline",
        cgroups: str = "/proc/cgroups",
    ) -> None:
        """Take where things are.

        probe: tells whether BPF device programs work for a cgroup directory given as descriptor;
        default: ask the kernel.
        """
        self._syscalls = syscalls
        if probe is None:
            from gcs.linux.bpf import supports_device_programs

            probe = supports_device_programs
        self._probe = probe
        self._mount_point = mount_point
        self._command_line = command_line
        self._cgroups = cgroups

    def mount(self) -> int:
        """Mount version 2 or else version 1, and return which.

        Raises OSError when no controller of version 1 could be mounted either.
        """
        if self._forced_v1():
            kmsg.info(f"cgroup v1, because of {FORCE_V1} on the kernel command line")
        elif self._mount_v2():
            self._enable_controllers()
            return 2
        self._mount_v1()
        return 1

    def _forced_v1(self) -> bool:
        try:
            with open(self._command_line, encoding="utf-8", errors="surrogateescape") as file:
                return FORCE_V1 in file.read().split()
        except OSError as error:
            kmsg.warning(f"whether {FORCE_V1} is wanted: {kmsg.describe(error)}")
            return False

    def _mount_v2(self) -> bool:
        try:
            self._syscalls.mount("cgroup2", self._mount_point, "cgroup2", _FLAGS)
        except OSError as error:
            kmsg.info(f"cgroup v1, because v2 is missing: {kmsg.describe(error)}")
            return False
        reason = self._v2_defect()
        if reason:
            kmsg.warning(f"cgroup v1, because v2 is incomplete: {reason}")
            self._syscalls.unmount(self._mount_point)
        return not reason

    def _v2_defect(self) -> str:
        """Why version 2 cannot be used; "" when it can."""
        if not os.path.exists(f"{self._mount_point}/cgroup.controllers"):
            return "there is no cgroup.controllers"
        directory = os.open(self._mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # An OCI runtime controls devices by a BPF program in version 2.
            works = self._probe(directory)
        finally:
            os.close(directory)
        return "" if works else "the kernel has no BPF in cgroups, which device control needs"

    def _enable_controllers(self) -> None:
        """Hand all controllers on to the children of the root; warn about what is refused."""
        with open(f"{self._mount_point}/cgroup.controllers", encoding="ascii") as file:
            controllers = file.read().split()
        if not controllers or self._enable(controllers) is None:
            return
        # One refused controller makes the kernel refuse the whole line.
        for controller in controllers:
            error = self._enable([controller])
            if error is not None:
                kmsg.warning(f"cgroup controller {controller} not enabled: {error.strerror}")

    def _enable(self, controllers: list[str]) -> OSError | None:
        text = " ".join(f"+{controller}" for controller in controllers)
        try:
            descriptor = os.open(
                f"{self._mount_point}/cgroup.subtree_control", os.O_WRONLY | os.O_CLOEXEC
            )
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            return error
        return None

    def _mount_v1(self) -> None:
        self._syscalls.mount("cgroup_root", self._mount_point, "tmpfs", _FLAGS, "mode=0755")
        mounted = 0
        for controller in self._v1_controllers():
            path = f"{self._mount_point}/{controller}"
            self._syscalls.make_directory(path, 0o755)
            try:
                self._syscalls.mount(controller, path, "cgroup", _FLAGS, controller)
                mounted += 1
            except OSError as error:
                kmsg.warning(f"cgroup controller {controller} not mounted: {error.strerror}")
        if not mounted:
            raise OSError(
                errno.ENODEV, "cgroup v2 cannot be used and no v1 controller either", self._cgroups
            )

    def _v1_controllers(self) -> list[str]:
        """The enabled ones of /proc/cgroups: name, hierarchy, number of cgroups, enabled."""
        with open(self._cgroups, encoding="ascii") as file:
            rows = [line.split() for line in file if not line.startswith("#")]
        return [row[0] for row in rows if len(row) == 4 and row[3] == "1"]


def enter(group: str, mount_point: str = MOUNT_POINT) -> bool:
    """Move this process into a group, which is made where it is missing; whether it is there now.

    group: its path, such as AGENT_GROUP or "/".
    mount_point: of version 2.  In version 1 nothing happens: there the memory controller may have
        to be set up before the first group is made, which is the agent's part.

    Memory belongs for ever to the group in which it was first used.  What the agent uses from its
    very start is only protected when it was there from the start.  A refusal is logged, and no more
    than that: the agent enters its group itself later.
    """
    directory = mount_point + group
    if not os.path.exists(f"{mount_point}/cgroup.procs"):
        return False
    try:
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o755)
        descriptor = os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)
    except OSError as error:
        kmsg.warning(f"cgroup {group} not entered: {kmsg.describe(error)}")
        return False
    return True
