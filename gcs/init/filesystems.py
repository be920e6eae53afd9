"""The file systems of the machine, as tables (spec 7.1)."""

from __future__ import annotations

import errno
import os

from gcs.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gcs.linux.syscalls import Syscalls

_SAFE = MS_NODEV | MS_NOSUID | MS_NOEXEC


class Mount:
    """A file system to mount."""

    __slots__ = ("data", "filesystem", "flags", "may_be_busy", "source", "target")

    def __init__(
        self,
        source: str,
        target: str,
        filesystem: str,
        flags: int = _SAFE,
        data: str = "",
        *,
        may_be_busy: bool = False,
    ) -> None:
        """See mount(2); `may_be_busy`: the kernel may have mounted it before."""
        self.source = source
        self.target = target
        self.filesystem = filesystem
        self.flags = flags
        self.data = data
        self.may_be_busy = may_be_busy

    def apply(self, syscalls: Syscalls) -> None:
        """Mount it, on a new directory when the root file system lacks one."""
        try:
            self._mount(syscalls)
        except FileNotFoundError:
            if os.path.lexists(self.target):
                raise
            syscalls.make_directory(self.target)
            self._mount(syscalls)

    def _mount(self, syscalls: Syscalls) -> None:
        try:
            syscalls.mount(self.source, self.target, self.filesystem, self.flags, self.data)
        except OSError as error:
            if not (self.may_be_busy and error.errno == errno.EBUSY):
                raise


class Directory:
    """A directory that has to exist."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        """Mode is 0755."""
        self.path = path

    def apply(self, syscalls: Syscalls) -> None:
        """Make it unless something is there."""
        try:
            syscalls.make_directory(self.path, 0o755)
        except FileExistsError:
            return


class Link:
    """A symbolic link that has to exist."""

    __slots__ = ("path", "target")

    def __init__(self, path: str, target: str) -> None:
        """`path` leads to `target`."""
        self.path = path
        self.target = target

    def apply(self, syscalls: Syscalls) -> None:
        """Make it unless something is there."""
        try:
            syscalls.make_symlink(self.path, self.target)
        except FileExistsError:
            return


ROOT_TABLE: tuple[Mount | Directory | Link, ...] = (
    Mount("dev", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, may_be_busy=True),
    Mount("proc", "/proc", "proc"),
    Link("/dev/fd", "/proc/self/fd"),
    Link("/dev/stdin", "/proc/self/fd/0"),
    Link("/dev/stdout", "/proc/self/fd/1"),
    Link("/dev/stderr", "/proc/self/fd/2"),
    Mount("tmpfs", "/run", "tmpfs", data="mode=0755"),
    Mount("tmpfs", "/tmp", "tmpfs"),
    Directory("/dev/shm"),
    Mount("shm", "/dev/shm", "tmpfs"),
    Directory("/dev/pts"),
    Mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC),
    Mount("sysfs", "/sys", "sysfs"),
)

# Programs of the base, and drivers, write to /etc and /var although the root is read-only.  The
# upper layers have a limited tmpfs of their own, so that they cannot eat what containers get of
# /run.  Programs may be executed from /var.
OVERLAY_TABLE: tuple[Mount | Directory | Link, ...] = (
    Directory("/run/over"),
    Mount("tmpfs", "/run/over", "tmpfs", data="size=40%,mode=0755"),
    Directory("/run/over/etc"),
    Directory("/run/over/etc/upper"),
    Directory("/run/over/etc/work"),
    Mount(
        "overlay",
        "/etc",
        "overlay",
        data="lowerdir=/etc,upperdir=/run/over/etc/upper,workdir=/run/over/etc/work",
    ),
    Directory("/run/over/var"),
    Directory("/run/over/var/upper"),
    Directory("/run/over/var/work"),
    Mount(
        "overlay",
        "/var",
        "overlay",
        MS_NODEV | MS_NOSUID,
        "lowerdir=/var,upperdir=/run/over/var/upper,workdir=/run/over/var/work",
    ),
)


def apply_table(table: tuple[Mount | Directory | Link, ...], syscalls: Syscalls) -> None:
    """Do what the table says, in order.

    Raises OSError naming what could not be mounted or made; PID 1 ends then, and the machine with
    it, so that nothing is undone.
    """
    for entry in table:
        entry.apply(syscalls)
