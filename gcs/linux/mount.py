"""mount(2), umount2(2), and the option strings of mount(8) turned into flags.

PID 1 imports this module: it needs nothing but `gcs.linux.libc`.
"""

from __future__ import annotations

from os import fsencode

from gcs.linux.libc import call, naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# linux/mount.h
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000

# flags of umount2(2)
MNT_FORCE = 0x1
MNT_DETACH = 0x2
MNT_EXPIRE = 0x4
UMOUNT_NOFOLLOW = 0x8

# option -> (flags it sets, flags it clears); mount(8), "filesystem-independent mount options".
_OPTIONS: dict[str, tuple[int, int]] = {
    "defaults": (0, 0),
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "suid": (0, MS_NOSUID),
    "nosuid": (MS_NOSUID, 0),
    "dev": (0, MS_NODEV),
    "nodev": (MS_NODEV, 0),
    "exec": (0, MS_NOEXEC),
    "noexec": (MS_NOEXEC, 0),
    "sync": (MS_SYNCHRONOUS, 0),
    "async": (0, MS_SYNCHRONOUS),
    "dirsync": (MS_DIRSYNC, 0),
    "remount": (MS_REMOUNT, 0),
    "mand": (MS_MANDLOCK, 0),
    "nomand": (0, MS_MANDLOCK),
    "symfollow": (0, MS_NOSYMFOLLOW),
    "nosymfollow": (MS_NOSYMFOLLOW, 0),
    "atime": (0, MS_NOATIME),
    "noatime": (MS_NOATIME, 0),
    "diratime": (0, MS_NODIRATIME),
    "nodiratime": (MS_NODIRATIME, 0),
    "relatime": (MS_RELATIME, 0),
    "norelatime": (0, MS_RELATIME),
    "strictatime": (MS_STRICTATIME, 0),
    "nostrictatime": (0, MS_STRICTATIME),
    "lazytime": (MS_LAZYTIME, 0),
    "nolazytime": (0, MS_LAZYTIME),
    "iversion": (MS_I_VERSION, 0),
    "noiversion": (0, MS_I_VERSION),
    "silent": (MS_SILENT, 0),
    "loud": (0, MS_SILENT),
    "bind": (MS_BIND, 0),
    "rbind": (MS_BIND | MS_REC, 0),
    "private": (MS_PRIVATE, 0),
    "rprivate": (MS_PRIVATE | MS_REC, 0),
    "slave": (MS_SLAVE, 0),
    "rslave": (MS_SLAVE | MS_REC, 0),
    "shared": (MS_SHARED, 0),
    "rshared": (MS_SHARED | MS_REC, 0),
    "unbindable": (MS_UNBINDABLE, 0),
    "runbindable": (MS_UNBINDABLE | MS_REC, 0),
}


def mount(source: str, target: str, filesystem: str, flags: int = 0, data: str = "") -> None:
    """Attach a file system to the tree (mount(2)).

    source: device, directory (with MS_BIND or MS_MOVE) or any name, as the file system wants.
    target: an existing directory, or an existing file for a bind mount of a file.
    filesystem: type, for example "ext4"; "" with MS_BIND, MS_MOVE, MS_REMOUNT and propagation.
    flags: MS_* values; the kernel takes propagation flags only in a call of their own.
    data: options of the file system itself, separated by commas.

    Raises OSError with both paths; EBUSY when already mounted there, ENODEV when the kernel does
    not know the file system, EINVAL also when there is no valid superblock.
    """
    try:
        call(
            "mount",
            fsencode(source),
            fsencode(target),
            fsencode(filesystem) if filesystem else None,
            flags,
            fsencode(data) if data else None,
        )
    except OSError as error:
        what = f"mount {filesystem}" if filesystem else "mount"
        options = f" (flags {flags:#x}, options {data!r})"
        raise naming(error, what + options, source, target) from None


def unmount(target: str, flags: int = 0) -> None:
    """Detach what is mounted at `target` (umount2(2)).

    flags: MNT_FORCE, MNT_DETACH, MNT_EXPIRE, UMOUNT_NOFOLLOW.

    Raises OSError naming the target: EINVAL when nothing is mounted there, EBUSY when in use.
    """
    try:
        call("umount2", fsencode(target), flags)
    except OSError as error:
        raise naming(error, "unmount", target) from None


def parse_mount_options(options: Iterable[str]) -> tuple[int, str]:
    """Split options as mount(8) writes them into MS_* flags and the file system's own data.

    An element may itself hold several options separated by commas.  Later options override
    earlier ones.  What is no general option goes, in order, to the data string.
    """
    flags = 0
    data: list[str] = []
    for element in options:
        for option in element.split(","):
            if option in _OPTIONS:
                sets, clears = _OPTIONS[option]
                flags = flags & ~clears | sets
            elif option:
                data.append(option)
    return flags, ",".join(data)


def mounts_under(path: str) -> list[str]:
    """Mount points at `path` and below it, in an order in which they can be unmounted.

    What is mounted on top of something comes before it.  A place with several mounts on top of
    each other appears once for each.  `path` must be absolute and free of symbolic links, as the
    kernel lists mount points.

    Raises OSError when /proc/self/mountinfo cannot be read.
    """
    from gcs.linux.mountinfo import read_mounts

    prefix = path.rstrip("/") + "/"
    depths: dict[int, int] = {}
    found: list[tuple[int, str]] = []
    for entry in read_mounts():
        # A parent may be listed after its child when trees were moved; its depth is then unknown
        # and the order of the list, oldest first, decides.
        depths[entry.identifier] = depth = depths.get(entry.parent, -1) + 1
        if (entry.target + "/").startswith(prefix):
            found.append((depth, entry.target))
    found.reverse()
    found.sort(key=lambda item: item[0], reverse=True)
    return [target for _, target in found]
