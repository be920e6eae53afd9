"""The default base: the programs the agent runs, taken from Debian's packages, and little else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scripts.image import elf
from scripts.image.errors import BuildError, run
from scripts.image.tree import Tree, directory, file_on_disk, regular, symlink

if TYPE_CHECKING:
    from scripts.image.architecture import Architecture
    from scripts.image.packages import PackageCache

PROGRAMS = {
    "busybox-static": ("bin/busybox",),
    "chrony": ("usr/sbin/chronyd",),
    "cryptsetup-bin": ("sbin/cryptsetup",),
    "e2fsprogs": ("sbin/mke2fs",),
    "kmod": ("bin/kmod",),
    "xfsprogs": ("sbin/mkfs.xfs",),
}
"""Packages and the programs taken from them (spec 7.8)."""

RUNTIMES = {
    "runc": {"runc": ("usr/sbin/runc",)},
    "crun": {"crun": ("usr/bin/crun",)},
}
"""The same for each container runtime; one of them is in the image."""

_RUNTIME_LIBRARIES = {
    "runc": (),
    "crun": ("libgcrypt20", "libgpg-error0", "liblz4-1", "libsystemd0", "libyajl2"),
}

_LIBRARIES = (
    "libargon2-1",
    "libblkid1",
    "libc6",
    "libcap2",
    "libcom-err2",
    "libcryptsetup12",
    "libdevmapper1.02.1",
    "libext2fs2",
    "libffi8",
    "libgmp10",
    "libgnutls30",
    "libhogweed6",
    "libidn2-0",
    "libinih1",
    "libjson-c5",
    "liblzma5",
    "libnettle8",
    "libp11-kit0",
    "libpcre2-8-0",
    "libpopt0",
    "libseccomp2",
    "libselinux1",
    "libssl3",
    "libtasn1-6",
    "libudev1",
    "libunistring2",
    "liburcu8",
    "libuuid1",
    "libzstd1",
)

_UDHCPC_SCRIPT = Path(__file__).parent / "files/udhcpc_config.script"

PACKAGES = (
    *(*PROGRAMS, *_LIBRARIES),
    *(package for programs in RUNTIMES.values() for package in programs),
    *(package for packages in _RUNTIME_LIBRARIES.values() for package in packages),
)
"""All that any base is made of."""

_LINKS = {
    "sbin/mkfs.ext4": "mke2fs",
    "sbin/mkfs.ext3": "mke2fs",
    "sbin/mkfs.ext2": "mke2fs",
    **{f"sbin/{name}": "../bin/kmod" for name in ("depmod", "insmod", "modprobe", "rmmod")},
    "sbin/modinfo": "../bin/kmod",
    "bin/lsmod": "kmod",
    "var/run": "/run",
}

_DIRECTORIES = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "lib": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "sbin": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "var/lib/chrony": 0o755,
    "var/log": 0o755,
    "var/tmp": 0o1777,
}

_MERGED = ("bin", "lib", "lib64", "sbin")

_ETC = {
    "etc/group": "root:x:0:\ntty:x:5:\n_chrony:x:100:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "_chrony:x:100:100:chrony:/var/lib/chrony:/bin/false\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    ),
}

# Not linked to busybox: an /sbin/init would start in place of a failed /init, and the rest would
# offer parts of package managers.
_NO_APPLETS = {"sbin/init", "linuxrc", "bin/busybox", "bin/rpm", "usr/bin/dpkg", "usr/bin/dpkg-deb"}

_CONTAINER_DIRECTORIES = (
    *(f"{name}" for name in ("dev", "etc", "home", "mnt", "proc", "sys", "usr/bin", "usr/sbin")),
    *("run", "var/log"),
)


def build(
    cache: PackageCache,
    architecture: Architecture,
    *,
    runtime: str = "runc",
    usr_merged: bool = False,
) -> Tree:
    """Return the default base root file system.

    Parameters:
        cache: where packages come from.
        architecture: of the machine that runs it.
        runtime: which container runtime: runc or crun.
        usr_merged: whether /bin, /sbin and /lib are links into /usr, as in new distributions.

    Raises:
        BuildError: a package lacks a program, or none has a library that a program needs.
    """
    with_runtime = PROGRAMS | RUNTIMES[runtime]
    packages = sorted((*with_runtime, *_LIBRARIES, *_RUNTIME_LIBRARIES[runtime]))
    folders = dict(zip(packages, cache.unpack(packages), strict=True))
    tree = Tree()
    for path in _MERGED if usr_merged else ():
        tree.put(f"usr/{path}", directory())
        tree.put(path, symlink(f"usr/{path}"))
    for path, mode in _DIRECTORIES.items():
        tree.put(path, directory(mode))
    _add_applets(tree, folders["busybox-static"] / "bin/busybox", architecture)
    programs = []
    for package, paths in with_runtime.items():
        for path in paths:
            program = folders[package] / path
            if not program.is_file():
                raise BuildError(f"package {package} has no /{path}")
            tree.put(path, file_on_disk(program, 0o755))
            programs.append(program)
    for file, place in elf.Libraries(folders.values()).closure(programs).values():
        tree.put(place, file_on_disk(file, 0o755))
    loader = folders["libc6"] / "lib" / architecture.triplet / architecture.loader
    tree.put(architecture.loader_link, file_on_disk(loader, 0o755))
    for path, target in _LINKS.items():
        tree.put(path, symlink(target))
    tree.put("etc/mke2fs.conf", file_on_disk(folders["e2fsprogs"] / "etc/mke2fs.conf", 0o644))
    for path, text in _ETC.items():
        tree.put(path, regular(text.encode()))
    tree.put("sbin/udhcpc_config.script", file_on_disk(_UDHCPC_SCRIPT, 0o755))
    return tree


def complete(tree: Tree) -> None:
    """Add the directories that must exist in a read-only root (spec 7.8), whatever the base is.

    The agent keeps its bookkeeping below /var/run, which has to lead to /run, the one file system
    that is always writable.

    Raises:
        BuildError: /var/run leads elsewhere, and cannot be replaced as there are files in it.
    """
    # On /lib/modules goes what the initrd of a root disk has.
    for path in ("dev", "etc", "lib/modules", "proc", "run", "sys", "tmp", "var"):
        tree.need_directory(path)
    if tree.resolve("var/run") == "run":
        return
    if any(path.startswith("var/run/") for path, _ in tree):
        raise BuildError("/var/run of the base holds files; it has to be a link to /run")
    tree.nodes["var/run"] = symlink("/run")


def container_root(cache: PackageCache, architecture: Architecture) -> Tree:
    """Return the root file system of the container that runs when the user names none."""
    (folder,) = cache.unpack(["busybox-static"])
    tree = Tree()
    for path in _CONTAINER_DIRECTORIES:
        tree.put(path, directory())
    tree.put("root", directory(0o700))
    tree.put("tmp", directory(0o1777))
    tree.put("var/tmp", directory(0o1777))
    _add_applets(tree, folder / "bin/busybox", architecture)
    for path in ("etc/passwd", "etc/group", "etc/hosts", "etc/nsswitch.conf"):
        tree.put(path, regular(_ETC[path].encode()))
    return tree


def _add_applets(tree: Tree, busybox: Path, architecture: Architecture) -> None:
    tree.put("bin/busybox", file_on_disk(busybox, 0o755))
    for path in run(architecture.command(str(busybox), "--list-full")).split():
        if path not in _NO_APPLETS:
            up = "../" * (path.count("/") - 1)
            there = "busybox" if path.startswith("bin/") else f"../{up}bin/busybox"
            tree.put(path, symlink(there))
