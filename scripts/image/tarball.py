"""Read and write tar archives."""

from __future__ import annotations

import io
import stat
import tarfile
from typing import TYPE_CHECKING, BinaryIO

from scripts.image.errors import BuildError
from scripts.image.tree import FileSlice, Node, Tree, directory, member_path, mode_for_root

if TYPE_CHECKING:
    from pathlib import Path

_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_BACK = {kind: type_ for type_, kind in _TYPES.items()}


def looks_like_tar(head: bytes) -> bool:
    """Tell from a file's first 512 bytes whether it is a tar archive."""
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def write(tree: Tree, out: BinaryIO, mtime: int) -> None:
    """Write a tree as a GNU tar, every owner 0:0 and every time `mtime` (seconds)."""
    first: dict[int, str] = {}
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape"
    ) as archive:
        for path, node in tree:
            info = _info(path, node, mtime)
            if stat.S_ISREG(node.mode):
                known = first.setdefault(id(node), path)
                if known != path:
                    info.type, info.linkname = tarfile.LNKTYPE, known
                    archive.addfile(info)
                    continue
                info.size = node.size
                archive.addfile(info, io.BytesIO(node.read()))
            else:
                archive.addfile(info)


def _info(path: str, node: Node, mtime: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type = _BACK.get(stat.S_IFMT(node.mode), tarfile.REGTYPE)
    info.mode = stat.S_IMODE(node.mode)
    info.mtime = mtime
    info.uname = info.gname = "root"
    info.linkname = node.target
    info.devmajor, info.devminor = node.device
    return info


def read(path: Path) -> Tree:
    """Read an uncompressed tar file.

    Raises:
        BuildError: the file is truncated or damaged, or has a member name that leads out of it.
    """
    tree = Tree()
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as archive:
            for info in archive:
                _add(tree, path, archive, info)
            end = archive.offset
    except (tarfile.TarError, EOFError) as error:
        raise BuildError(f"truncated or damaged tar archive ({error})") from error
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(tarfile.BLOCKSIZE)
    if len(rest) < tarfile.BLOCKSIZE:
        raise BuildError("truncated tar archive (no end-of-archive block)")
    if rest.strip(b"\0"):
        raise BuildError(f"damaged tar archive (no header at byte {end})")
    return tree


def _add(tree: Tree, path: Path, archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    name = member_path(info.name)
    if info.islnk():
        tree.link(name, member_path(info.linkname))
        return
    mode = mode_for_root(stat.S_IMODE(info.mode), info.uid, info.gid)
    if mode != stat.S_IMODE(info.mode) and not info.isdir():
        tree.stripped.append(name)
    if info.isreg():
        node = Node(stat.S_IFREG | mode)
        if info.issparse():
            file = archive.extractfile(info)
            node.content = file.read() if file is not None else b""
        elif info.size:
            node.content = FileSlice(path, info.offset_data, info.size)
            if info.offset_data + info.size > path.stat().st_size:
                raise BuildError(f"truncated tar archive (in member {info.name!r})")
    elif info.type in _TYPES:
        node = Node(_TYPES[info.type] | mode, target=info.linkname if info.issym() else "")
        node.device = (info.devmajor, info.devminor) if info.isdev() else (0, 0)
    else:
        raise BuildError(f"member {info.name!r} is of unknown type {info.type!r}")
    if name:
        tree.put(name, node)
    elif info.isdir():
        tree.nodes[""] = directory(mode)
