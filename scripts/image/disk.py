"""The root file system as a disk: ext4, VHD, and a dm-verity tree with the command lines for it.

All of it depends on the files alone: UUIDs and the salt are digests of the file system (spec 8.2).
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import uuid
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.image.archive import replacing
from scripts.image.errors import BuildError, run
from tar2ext4 import Tar2Ext4Error, convert, only_append_vhd_footer

if TYPE_CHECKING:
    from pathlib import Path

_NAMESPACE = uuid.UUID("5d8b2c1e-6f0b-5c53-9b0e-3a6c2f1d7e40")
"""Ours; the UUID of a disk is version 5 of it and the digest of the file system."""

_SECTOR = 512
_QEMU_DISK = "/dev/vda"
"""What `uvm boot --root-disk` attaches is the one virtio-blk device."""

# What the lines of `veritysetup format` begin with, and the file that keeps the value (spec 8.2).
_VALUES = {
    "Root hash:": "rootdigest",
    "Salt:": "salt",
    "Data block size:": "datablocksize",
    "Hash block size:": "hashblocksize",
    "Data blocks:": "datablocks",
}

_KERNEL = "8250_core.nr_uarts=0 panic=-1 debug loglevel={level}"


@dataclass(frozen=True, slots=True)
class Verity:
    """What a kernel has to know of a hash tree."""

    sectors: int
    data_block_size: int
    hash_block_size: int
    blocks: int
    digest: str
    salt: str

    def create(self, data: str, hashes: str, *options: str) -> str:
        """Return `root=… dm-mod.create="…"` for a kernel.

        Parameters:
            data: device of the file system.
            hashes: device of the tree; on the device of the data it stands behind them.
            options: of the target.

        The form is that of Documentation/admin-guide/device-mapper/dm-init.rst.
        """
        start = self.blocks if hashes == data else 0
        words = [
            *("verity", "1", data, hashes),
            *(str(self.data_block_size), str(self.hash_block_size)),
            *(str(self.blocks), str(start), "sha256", self.digest, self.salt),
            *([str(len(options)), *options] if options else []),
        ]
        table = f"0 {self.sectors} {' '.join(words)}"
        return f'root=/dev/dm-0 dm-mod.create="dmverity,,,ro,{table}"'


class RootDisk:
    """Makes the disks from `rootfs.tar.gz`.

    Parameters:
        out: directory of the products.
        root_device: what the kernel calls the disk.
        hash_device: what it calls a separate disk with the tree.
    """

    def __init__(self, out: Path, root_device: str, hash_device: str) -> None:
        self._out = out
        self._devices = root_device, hash_device
        self._ext4 = out / "rootfs.ext4"

    def make_ext4(self) -> None:
        """Make rootfs.ext4.

        Raises:
            BuildError: the tar archive is damaged, or does not fit.
        """
        source = self._out / "rootfs.tar.gz"
        try:
            with gzip.open(source) as archive:
                convert(archive, self._ext4)  # type: ignore[arg-type]  # reads like any file
        except (EOFError, gzip.BadGzipFile, zlib.error, Tar2Ext4Error) as error:
            raise BuildError(f"{source}: {error}") from error

    def make_vhd(self) -> None:
        """Make rootfs.vhd."""
        self._vhd(self._ext4)

    def make_verity(self, *, debugging: bool) -> None:
        """Make the hash tree, `rootfs-verity.*`, and the files with values and command lines.

        Parameters:
            debugging: whether the file system has the scripts of delta-snp.

        Raises:
            BuildError: veritysetup fails, or says something unexpected.
        """
        values = self._make_tree()
        combined = self._out / "rootfs-verity.ext4"
        with replacing(combined) as out:
            for part in (self._ext4, self._out / "rootfs.hash"):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, out, 1 << 20)
        self._vhd(combined)
        self._vhd(self._out / "rootfs.hash")
        for name, line in self._command_lines(values, debugging).items():
            (self._out / f"{name}.cmdline").write_text(f"{line}\n")

    def _make_tree(self) -> Verity:
        tree = self._out / "rootfs.hash"
        # As of 32 random bytes, in upper case; but the same for the same file system.
        salt = _digest(self._ext4).upper()
        with replacing(tree) as out:
            part = out.name
            text = run(
                ["veritysetup", "format", "--no-superblock", "--salt", salt, self._ext4, part]
            )
        text = text.replace(part, str(tree.relative_to(self._out.parent)))
        values = {"info": text.rstrip("\n")}
        for line in text.splitlines():
            for beginning, name in _VALUES.items():
                if line.startswith(beginning):
                    values[name] = line.removeprefix(beginning).strip()
        if missing := set(_VALUES.values()) - set(values):
            raise BuildError(f"veritysetup did not say its {', '.join(sorted(missing))}")
        sectors = int(values["datablocks"]) * int(values["datablocksize"]) // _SECTOR
        values["datasectors"] = str(sectors)
        for name, value in values.items():
            (self._out / f"rootfs.hash.{name}").write_text(f"{value}\n")
        return Verity(
            sectors,
            int(values["datablocksize"]),
            int(values["hashblocksize"]),
            int(values["datablocks"]),
            values["rootdigest"],
            values["salt"],
        )

    def _command_lines(self, verity: Verity, debugging: bool) -> dict[str, str]:
        """Return the command lines, by the name of what the reference builds them into."""
        root, hashes = self._devices
        quiet, debug = _KERNEL.format(level=7), _KERNEL.format(level=9)
        lines = {
            "rootfs-verity": verity.create(_QEMU_DISK, _QEMU_DISK),
            "kernel": f"{quiet} {verity.create(root, root)} init=/startup.sh",
        }
        if not debugging:
            return lines
        separate = verity.create(root, hashes, "ignore_corruption")
        combined = verity.create(root, root, "ignore_corruption")
        return lines | {
            "v2056": f"{debug} {separate} init=/startup_v2056.sh",
            "v2056combined": f"{debug} {combined} init=/startup_v2056.sh",
            "simple": f"{quiet} rdinit=/startup_simple.sh",
        }

    def _vhd(self, disk: Path) -> None:
        target = (
            disk.with_suffix(".vhd")
            if disk.suffix == ".ext4"
            else disk.with_name(f"{disk.name}.vhd")
        )
        try:
            unique = uuid.uuid5(_NAMESPACE, _digest(disk))
            only_append_vhd_footer(disk, target, vhd_uuid=unique)
        except Tar2Ext4Error as error:
            raise BuildError(str(error)) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
