"""Command line of the image build; scripts/build_initrd.sh calls it, one step at a time."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from scripts.image import (
    archive,
    base,
    cpio,
    foreign_base,
    given_base,
    native,
    pins,
    root_stub,
    sbom,
    tarball,
)
from scripts.image.architecture import ARCHITECTURES, this_machine
from scripts.image.compression import COMPRESSIONS, compress
from scripts.image.disk import RootDisk
from scripts.image.errors import BuildError
from scripts.image.kernel import Kernel
from scripts.image.lock import locked
from scripts.image.origin import Contained, Origin
from scripts.image.packages import PackageCache
from scripts.image.prefix import PythonPrefix
from scripts.image.provenance import Provenance
from scripts.image.refresh import refresh
from scripts.image.tree import Tree, character_device, directory, file_on_disk, regular, symlink

_FILES = Path(__file__).parent / "files"
DELTAS = ("delta", "delta-dev", "delta-snp")


class Steps:
    """The steps; each makes one product (or a few of one kind) from files before it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._repository = Path(__file__).resolve().parents[2]
        self._build: Path = options.build.resolve()
        self._out: Path = options.out.resolve()
        self._architecture = ARCHITECTURES[options.arch]
        self._locked: bool = options.locked
        self._compression: str = options.compression
        if self._compression not in COMPRESSIONS:
            known = ", ".join(COMPRESSIONS)
            raise BuildError(f"COMPRESSION={self._compression}: expected one of {known}")

    @cached_property
    def _cache(self) -> PackageCache:
        folder = self._build / "cache"
        return PackageCache(folder, self._architecture, pins.read(), strict=self._locked)

    @cached_property
    def _provenance(self) -> Provenance:
        return Provenance(self._cache, self._repository, self._options.commit)

    def delta(self) -> None:
        """Make delta.tar.gz: the Python prefix, the commands and the build information."""
        prefix = PythonPrefix(
            self._cache, self._repository, self._build, self._architecture, self._provenance
        )
        tree = prefix.build()
        if self._options.usr_merged:
            tree.put("usr/bin", directory())
            tree.put("bin", symlink("usr/bin"))
        compiler = native.compiler_for(self._cache, self._architecture)
        native.compile_reaper(self._repository, self._build / "reaper", compiler)
        tree.put(native.REAPER, file_on_disk(self._build / "reaper", 0o755))
        musl = (Contained(self._provenance.package(name)) for name in native.PACKAGES)
        compiled = Origin(self._provenance.sources, "compiled", tuple(musl))
        tree.nodes[native.REAPER].origin = compiled
        tree.add_disk_tree(self._repository / "rootfs")
        # Python seeds its hashes before /init can mount anything, and falls back on this device
        # where the kernel has no randomness yet (a processor without RDRAND).
        tree.put("dev/urandom", character_device(1, 9, 0o666))
        for name, text in self._information().items():
            tree.put(f"info/{name}", regular(f"{text}\n".encode()))
        self._list(tree, "gcs-delta")
        with archive.gzipped(self._out / "delta.tar.gz") as out:
            tarball.write(tree, out, self._options.epoch)

    def delta_dev(self) -> None:
        """Make delta-dev.tar.gz: the delta, and what helps with confidential machines."""
        self._extended_delta("delta-dev", {})

    def delta_snp(self) -> None:
        """Make delta-snp.tar.gz: the same, and the programs such a machine starts with."""
        scripts = sorted((_FILES / "startup").iterdir())
        self._extended_delta("delta-snp", {path.name: path for path in scripts})

    def _extended_delta(self, name: str, files: dict[str, Path]) -> None:
        tree = self._read_delta("delta")
        for place, path in {"bin/snp-report": _FILES / "snp-report", **files}.items():
            tree.put(place, file_on_disk(path, 0o755))
        self._list(tree, f"gcs-{name}")
        with archive.gzipped(self._out / f"{name}.tar.gz") as out:
            tarball.write(tree, out, self._options.epoch)

    def _read_delta(self, name: str) -> Tree:
        """Read a delta, whose files have origins then."""
        path = self._out / f"{name}.tar.gz"
        tree = archive.read(path, self._build / "unpacked" / name)
        sbom.attach(tree)
        foreign_base.assign(tree, path)
        return tree

    def base(self) -> None:
        """Make build/base.tar, the default base."""
        merged = self._options.usr_merged
        tree = base.build(
            self._cache, self._architecture, runtime=self._options.runtime, usr_merged=merged
        )
        self._list(tree, "gcs-base")
        self._write_tar(tree, self._build / "base.tar")

    def initrd(self) -> None:
        """Make build/initrd.cpio: the base, and the delta laid over it; and the list of files."""
        chosen = self._options.base or self._build / "base.tar"
        tree = archive.read(chosen, self._build / "unpacked" / "base")
        try:
            self._lay_over(tree, chosen)
        except BuildError as error:
            raise BuildError(f"{chosen}: {error}") from error
        listed = self._list(tree, "gcs-image")
        tree.share_equal_files()
        with archive.replacing(self._out / "sbom.cdx.json") as out:
            out.write(listed)
        with archive.replacing(self._build / "initrd.cpio") as out:
            cpio.write(tree, out, self._options.epoch)

    def _lay_over(self, tree: Tree, chosen: Path) -> None:
        """Put what is ours over a base."""
        sbom.attach(tree)
        foreign_base.assign(tree, chosen)
        if self._options.base:
            given_base.adapt(tree)
        tree.merge(self._read_delta(self._options.delta))
        if self._options.kmod:
            modules = cpio.read(self._out / "modules.cpio")
            kernel = Kernel(self._cache, self._build, self._architecture)
            self._provenance.assign_modules(modules, kernel.package)
            tree.merge(modules)
        base.complete(tree)

    def compress(self) -> None:
        """Make initrd.img: the same, compressed."""
        compress(self._compression, self._build / "initrd.cpio", self._out / "initrd.img")

    def rootfs(self) -> None:
        """Make rootfs.tar.gz: the same files as the initrd, as a tar."""
        tree = cpio.read(self._build / "initrd.cpio")
        with archive.gzipped(self._out / "rootfs.tar.gz") as out:
            tarball.write(tree, out, self._options.epoch)

    def ext4(self) -> None:
        """Make rootfs.ext4: the same, as a file system."""
        self._root_disk().make_ext4()

    def vhd(self) -> None:
        """Make rootfs.vhd: the file system as a disk of Hyper-V."""
        self._root_disk().make_vhd()

    def verity(self) -> None:
        """Make rootfs.hash.*, rootfs-verity.vhd, and the command lines of kernels that check it."""
        self._root_disk().make_verity(debugging=self._options.delta == "delta-snp")

    def _root_disk(self) -> RootDisk:
        return RootDisk(self._out, self._options.rootfs_device, self._options.hash_device)

    def stub(self) -> None:
        """Make initrd-root.img, which boots QEMU from a root disk."""
        compiler = native.compiler_for(self._cache, self._architecture)
        modules = self._out / "modules.cpio"
        tree = root_stub.build(self._repository, self._build, compiler, cpio.read(modules))
        with archive.replacing(self._out / "initrd-root.img") as out:
            cpio.write(tree, out, self._options.epoch)
            with modules.open("rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)

    def kernel(self) -> None:
        """Make vmlinux and modules.cpio from Debian's kernel package."""
        kernel = Kernel(self._cache, self._build, self._architecture)
        with archive.replacing(self._out / "modules.cpio") as out:
            cpio.write(kernel.modules(), out, self._options.epoch)
        with archive.replacing(self._out / "vmlinux") as out:
            out.write(kernel.vmlinux())

    def qemu(self) -> None:
        """Make initrd-qemu.img: the initrd and the modules, uncompressed, one behind the other."""
        with archive.replacing(self._out / "initrd-qemu.img") as out:
            with (self._build / "initrd.cpio").open("rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)
            if not self._options.kmod:
                modules = self._out / "modules.cpio"
                tree = cpio.read(modules)
                moved = cpio.read(self._build / "initrd.cpio").relocate(tree)
                if moved.nodes.keys() == tree.nodes.keys():
                    # As it is: made for another commit, its times are another's.
                    out.write(modules.read_bytes())
                else:
                    cpio.write(moved, out, self._options.epoch)

    def busybox(self) -> None:
        """Make busybox.tar, the root file system of a container when the user names none."""
        self._write_tar(
            base.container_root(self._cache, self._architecture), self._out / "busybox.tar"
        )

    def lock(self) -> None:
        """Write the lock file anew, for all architectures."""
        refresh(self._build)

    def _list(self, tree: Tree, name: str) -> bytes:
        """Put the list of a tree's files into it, and return the list."""
        self._provenance.assign(tree)
        tree.put(sbom.PATH, regular(b"", origin=Origin(self._provenance.generated)))
        return sbom.embed(tree, name, self._options.commit, self._options.epoch)

    def _write_tar(self, tree: Tree, path: Path) -> None:
        with archive.replacing(path) as out:
            tarball.write(tree, out, self._options.epoch)

    def _information(self) -> dict[str, str]:
        """Return what /info says (spec 8.2)."""
        when = datetime.fromtimestamp(self._options.epoch, UTC)
        lines = {
            "gcs.commit": self._options.commit,
            "gcs.branch": self._options.branch,
            "tar.date": when.strftime("%Y-%m-%dT%H:%M+00:00"),
        }
        if self._options.base:
            described = Path(str(self._options.base).removesuffix(".gz").removesuffix(".tar"))
            data = described.with_name(f"{described.name}.testdata.json")
            if data.is_file():
                lines |= _base_information(data)
        return lines


def _base_information(path: Path) -> dict[str, str]:
    try:
        values = json.loads(path.read_text())
        return {"image.name": values["IMAGE_NAME"], "build.date": values["DATETIME"]}
    except (ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{path}: no IMAGE_NAME and DATETIME to read: {error}") from error


def main() -> int:
    """Run the steps named on the command line, in order."""
    steps = (
        *(*DELTAS, "base", "kernel", "initrd", "compress", "qemu"),
        *("rootfs", "ext4", "vhd", "verity", "stub", "busybox", "lock"),
    )
    parser = argparse.ArgumentParser(prog="build_initrd", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where products go")
    parser.add_argument("--build", type=Path, required=True, help="where everything else goes")
    parser.add_argument("--arch", choices=ARCHITECTURES, default=this_machine().name)
    parser.add_argument("--base", type=Path, help="root file system to use, tar or cpio")
    parser.add_argument("--compression", default="gzip", help="of initrd.img")
    parser.add_argument("--locked", action="store_true", help="take versions of the lock file only")
    parser.add_argument("--delta", choices=DELTAS, default="delta", help="which goes over the base")
    parser.add_argument(
        "--runtime", choices=base.RUNTIMES, default="runc", help="container runtime of the base"
    )
    parser.add_argument("--usr-merged", action="store_true", help="make /bin a link to /usr/bin")
    parser.add_argument(
        "--kmod", action="store_true", help="put the kernel's modules into the image"
    )
    parser.add_argument(
        "--rootfs-device", default="/dev/sda", help="the root disk in command lines"
    )
    parser.add_argument("--hash-device", default="/dev/sdb", help="the disk of its hash tree")
    parser.add_argument("--epoch", type=int, required=True, help="time of every file, in seconds")
    parser.add_argument("--commit", required=True)
    parser.add_argument("--branch", required=True)
    parser.add_argument("step", nargs="+", choices=steps)
    options = parser.parse_args()
    try:
        made = Steps(options)
        for step in options.step:
            begun = time.monotonic()
            with locked(options.build / f"{step}.lock"):
                getattr(made, step.replace("-", "_"))()
            print(f"{step}: made in {time.monotonic() - begun:.1f} s", flush=True)
    except BuildError as error:
        print(f"build_initrd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"build_initrd: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
