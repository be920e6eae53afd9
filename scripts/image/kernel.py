"""Debian's kernel for QEMU: the uncompressed kernel, and the modules a VM of ours can need."""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import zlib
from typing import TYPE_CHECKING

from scripts.image.errors import BuildError, run
from scripts.image.tree import Tree, file_on_disk, regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from scripts.image.architecture import Architecture
    from scripts.image.packages import PackageCache

LOAD_AT_BOOT = (
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "overlay",
    "scsi_common",
    "scsi_mod",
    "virtio_scsi",
    "failover",
    "net_failover",
    "virtio_net",
    "crct10dif_generic",
    "crc64_rocksoft_generic",
    "sd_mod",
)
"""What every VM needs, dependencies first.

The two checksums come before sd_mod, since without them it starts modprobe four times over to look
for some (0.3 s under emulation). File systems on disks are loaded by the kernel when they are
mounted: ext4 alone takes 0.2 s. Nothing in the VM loads a driver when a device is plugged in, so
the one for network adapters is here, too, after what it depends on.
"""

CARRIED = (
    *LOAD_AT_BOOT,
    "9p",
    "9pnet",
    "9pnet_fd",
    "9pnet_virtio",
    "authenc",
    "br_netfilter",
    "bridge",
    "crc32c_generic",
    "dm-crypt",
    "dm-integrity",
    "dm-mod",
    "dm-verity",
    "dummy",
    "ecb",
    "erofs",
    "ext4",
    "fuse",
    "iptable_filter",
    "iptable_nat",
    "ip_tables",
    "loop",
    "macvlan",
    "nd_pmem",
    "nf_conntrack",
    "nfit",
    "nls_utf8",
    "ptp_kvm",
    "rng-core",
    "squashfs",
    "tun",
    "veth",
    "virtio_balloon",
    "virtio_blk",
    "virtio-rng",
    "virtio_pmem",
    "virtiofs",
    "vsock_loopback",
    "xfs",
    "xt_MASQUERADE",
    "xts",
)
"""Modules in the image: those above, and what devices and file systems of ours can ask for."""

_SOON = ("crc32c_generic", "dm-mod", "ext4")
"""Big, and not loaded at boot, but soon after in many VMs; like those, they are not compressed."""

_BIG = 300_000
"""Bytes from which a module that is rarely loaded is compressed."""

_ABSENT = {
    "arm64": frozenset(
        (
            "crct10dif_generic",
            "virtio_pci_legacy_dev",
            "virtio_pci_modern_dev",
            "virtio_pmem",
        )
    )
}
"""Architecture to modules that its kernel has not, or has built in under another name."""

_ARM64_MAGIC = b"ARM\x64"
_SETUP_MAGIC = b"HdrS"
_DECOMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\xfd7zXZ\0": lambda data: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data),
    b"\x1f\x8b\x08": lambda data: zlib.decompressobj(31).decompress(data),
    b"BZh": lambda data: bz2.BZ2Decompressor().decompress(data),
    b"\x5d\0\0": lambda data: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data),
}


def kernel_package(package: str, depends: str) -> str:
    """Return the name of the newest kernel's package.

    Parameters:
        package: the one that depends on it.
        depends: that one's dependencies, as its control file says.

    Raises:
        BuildError: there is no kernel among them.
    """
    for each in depends.split(","):
        name = each.strip().partition(" ")[0]
        if name.startswith("linux-image-"):
            return name
    raise BuildError(f"package {package} depends on no kernel package")


class Kernel:
    """The kernel package, unpacked.

    Raises:
        BuildError: the package cannot be had, or holds no kernel.
    """

    def __init__(self, cache: PackageCache, work: Path, architecture: Architecture) -> None:
        self._architecture = architecture
        package = architecture.kernel_package
        name = kernel_package(package, cache.depends(package))
        (self._root,) = cache.unpack([name])
        self._work = work / "modules"
        images = sorted((self._root / "boot").glob("vmlinuz-*"))
        if not images:
            raise BuildError(f"package {name} has no /boot/vmlinuz-*")
        self._image = images[-1]
        self.package = name
        self.release = self._image.name.removeprefix("vmlinuz-")

    def vmlinux(self) -> bytes:
        """Return the uncompressed kernel, which boots faster than the bzImage under emulation."""
        data = self._image.read_bytes()
        if data[0x38:0x3C] == _ARM64_MAGIC:
            return data  # is uncompressed as it comes
        if data[0x202:0x206] != _SETUP_MAGIC:
            raise BuildError(f"{self._image}: is no bzImage")
        setup = (data[0x1F1] or 4) + 1
        offset, length = struct.unpack_from("<II", data, 0x248)
        start = setup * 512 + offset
        payload = data[start : start + length]
        for magic, decompress in _DECOMPRESSORS.items():
            if payload.startswith(magic):
                return decompress(payload)
        raise BuildError(f"{self._image}: compressed in an unknown way ({payload[:4].hex()})")

    def modules(self) -> Tree:
        """Return /lib/modules/<release>: the carried modules, what they depend on, and indexes.

        `modules.load` in it names what to load at boot, one module name per line, in order.
        """
        source = self._root / "lib/modules" / self.release
        folder = self._work / "lib/modules" / self.release
        shutil.rmtree(self._work, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            shutil.copyfile(source / name, folder / name)
        plain = set(_with_dependencies(source, self._carried((*LOAD_AT_BOOT, *_SOON))))
        for path in _with_dependencies(source, self._carried(CARRIED)):
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Without type information (and so without Debian's signature) a module loads in two
            # thirds of the time.
            objcopy = self._architecture.tool("objcopy")
            run([objcopy, "--strip-debug", "--remove-section=.BTF", path, target])
            if path not in plain and target.stat().st_size > _BIG:
                # A megabyte more or less in the initrd is 15 ms of boot time under emulation. Both
                # kmod and busybox unpack xz, the latter with this check only.
                packed = lzma.compress(target.read_bytes(), check=lzma.CHECK_CRC32)
                target.with_name(f"{target.name}.xz").write_bytes(packed)
                target.unlink()
        run(["depmod", "-b", self._work, self.release])
        load = self._carried(LOAD_AT_BOOT)
        return _tree(folder, f"lib/modules/{self.release}", load)

    def _carried(self, names: tuple[str, ...]) -> list[str]:
        absent = _ABSENT.get(self._architecture.name, frozenset())
        return [name for name in names if name not in absent]


def _tree(folder: Path, place: str, load_at_boot: Iterable[str]) -> Tree:
    tree = Tree()
    built_in = {_name(line) for line in (folder / "modules.builtin").read_text().splitlines()}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("modules.symbols", "modules.symbols.bin"):
            tree.put(f"{place}/{path.relative_to(folder)}", file_on_disk(path, 0o644))
    load = [name for name in load_at_boot if _name(name) not in built_in]
    tree.put(f"{place}/modules.load", regular("".join(f"{name}\n" for name in load).encode()))
    return tree


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _with_dependencies(source: Path, names: Iterable[str]) -> list[Path]:
    files = {_name(path.name): path for path in source.rglob("*.ko")}
    built_in = {_name(line) for line in (source / "modules.builtin").read_text().splitlines()}
    found: dict[str, Path] = {}
    pending = [_name(name) for name in names]
    while pending:
        name = pending.pop()
        if name in found or name in built_in:
            continue
        if name not in files:
            raise BuildError(f"kernel {source.name} has no module {name}")
        found[name] = files[name]
        pending += [_name(other) for other in _depends(files[name].read_bytes())]
    return sorted(found.values())


def _depends(module: bytes) -> list[str]:
    """Return the `depends` and soft dependencies a module's .modinfo section declares."""
    start = module.find(b"\0depends=")
    if start < 0:
        return []
    value = module[start + len(b"\0depends=") : module.index(b"\0", start + 1)].decode()
    return [name for name in value.split(",") if name]
