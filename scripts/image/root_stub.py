"""The initrd of a machine whose root is a disk, for kernels that have drivers as modules.

Its one program (`files/root.c`) loads what a disk and its file system need, makes the dm-verity
device of the command line, and hands over to the init of the disk.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from scripts.image import native
from scripts.image.errors import BuildError
from scripts.image.tree import Tree, directory, file_on_disk, regular

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = "scripts/image/files/root.c"

_ROOT = (
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    # The checksums come first, as without them sd_mod and ext4 ask for modprobe.
    "crct10dif_generic",
    "crc64_rocksoft_generic",
    "crc32c_generic",
    "sd_mod",
    "ext4",
)
_VERITY = ("dm_mod", "dm_verity")


def build(repository: Path, work: Path, compiler: native.Compiler, modules: Tree) -> Tree:
    """Return the stub without the modules, whose archive goes behind its own.

    Parameters:
        repository: root of the sources.
        work: directory for what is compiled.
        compiler: for the machine.
        modules: the tree of modules.cpio.

    Raises:
        BuildError: the compiler fails, or a module that is needed at boot is compressed.
    """
    program = work / "root"
    native.compile_static(repository, SOURCE, program, compiler)
    tree = Tree()
    tree.put("init", file_on_disk(program, 0o755))
    for path in ("dev", "proc", "root"):
        tree.put(path, directory())
    dependencies = _dependencies(modules)
    for name, wanted in (("modules.root", _ROOT), ("modules.verity", _VERITY)):
        lines = _in_order(dependencies, wanted)
        tree.put(name, regular("".join(f"/{line}\n" for line in lines).encode()))
    return tree


def _dependencies(modules: Tree) -> dict[str, list[str]]:
    """Return path of each module to those it needs, the first to load last."""
    (index,) = (path for path, _ in modules if path.endswith("/modules.dep"))
    folder = posixpath.dirname(index)
    found = {}
    for line in modules.nodes[index].read().decode().splitlines():
        path, _, needed = line.partition(":")
        found[f"{folder}/{path}"] = [f"{folder}/{each}" for each in needed.split()]
    return found


def _in_order(dependencies: dict[str, list[str]], names: tuple[str, ...]) -> list[str]:
    by_name = {_name(path): path for path in dependencies}
    order: dict[str, None] = {}
    for name in names:
        path = by_name.get(name)
        if path is None:
            continue  # built into this kernel, or of another architecture
        for each in (*reversed(dependencies[path]), path):
            if not each.endswith(".ko"):
                raise BuildError(f"/{each} is needed to mount the root, and must not be compressed")
            order[each] = None
    return list(order)


def _name(path: str) -> str:
    return posixpath.basename(path).partition(".")[0].replace("-", "_")
