"""Write newc cpio archives, as the kernel unpacks; read these and the older ASCII ones."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, BinaryIO

from scripts.image.errors import BuildError
from scripts.image.tree import FileSlice, Node, Tree, directory, member_path, mode_for_root

if TYPE_CHECKING:
    from pathlib import Path

MAGICS = (b"070701", b"070702", b"070707")
_TRAILER = "TRAILER!!!"
_NEWC_FIELDS = 13
_NEWC_HEADER = 110
_ODC_WIDTHS = (6, 6, 6, 6, 6, 6, 6, 11, 6, 11)
_MAX_NAME = 4096


def write(tree: Tree, out: BinaryIO, mtime: int) -> None:
    """Write a tree as one newc archive, every owner 0:0 and every time `mtime` (seconds)."""
    writer = _Writer(out, mtime)
    links: dict[int, int] = {}
    for _, node in tree:
        links[id(node)] = links.get(id(node), 0) + 1
    inodes: dict[int, int] = {}
    left = dict(links)
    writer.member(".", tree.nodes[""], inode=1, links=1, data=b"")
    for path, node in tree:
        inode = inodes.setdefault(id(node), len(inodes) + 2)
        left[id(node)] -= 1
        # The data of hard links goes with the last name, as GNU cpio writes and expects it.
        data = _data(node) if left[id(node)] == 0 else b""
        writer.member(path, node, inode=inode, links=links[id(node)], data=data)
    writer.member(_TRAILER, Node(0), inode=0, links=1, data=b"")


def _data(node: Node) -> bytes:
    return node.target.encode(errors="surrogateescape") if node.target else node.read()


class _Writer:
    def __init__(self, out: BinaryIO, mtime: int) -> None:
        self._out = out
        self._mtime = mtime

    def member(self, name: str, node: Node, *, inode: int, links: int, data: bytes) -> None:
        raw = name.encode(errors="surrogateescape") + b"\0"
        fields = (
            inode,
            node.mode,
            0,
            0,
            links,
            self._mtime if node.mode else 0,
            len(data),
            0,
            0,
            *node.device,
            len(raw),
            0,
        )
        header = MAGICS[0] + b"".join(b"%08X" % value for value in fields)
        self._out.write(header + raw + _padding(len(header) + len(raw)))
        self._out.write(data)
        self._out.write(_padding(len(data)))


def _padding(length: int) -> bytes:
    return bytes(-length % 4)


def read(path: Path) -> Tree:
    """Read an uncompressed cpio file, also several archives one behind the other.

    Raises:
        BuildError: the file is truncated, damaged, or has a member name that leads out of it.
    """
    with path.open("rb") as file:
        reader = _Reader(path, file)
        reader.read_archives()
    return reader.tree


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.tree = Tree()
        self._path = path
        self._file = file
        self._size = path.stat().st_size
        self._inodes: dict[tuple[int, int], Node] = {}

    def read_archives(self) -> None:
        ended = False
        while True:
            magic = self._file.read(4)
            while ended and magic == bytes(4):  # padding between and behind archives
                magic = self._file.read(4)
            if ended and not magic.strip(b"\0"):
                return
            magic += self._file.read(2)
            if len(magic) < len(MAGICS[0]):
                raise BuildError("truncated cpio archive")
            if magic not in MAGICS:
                raise BuildError("damaged cpio archive: a member does not begin with a header")
            ended = self._odc() if magic == MAGICS[2] else self._newc()
            if ended:
                self._inodes.clear()

    def _newc(self) -> bool:
        values = self._numbers((8,) * _NEWC_FIELDS, 16)
        inode, mode, uid, gid, links, _, size, major, minor, rmajor, rminor, length, _ = values
        name = self._name(length)
        self._exactly(-(_NEWC_HEADER + length) % 4)
        offset = self._skip(size)
        self._skip(-size % 4)
        device = (rmajor, rminor)
        key = (major << 32 | minor, inode)
        mode = self._mode(name, mode, uid, gid)
        return self._member(name, mode, links, key, device, offset, size)

    def _odc(self) -> bool:
        values = self._numbers(_ODC_WIDTHS, 8)
        device, inode, mode, uid, gid, links, rdevice, _, length, size = values
        name = self._name(length)
        offset = self._skip(size)
        node_device = (rdevice >> 8, rdevice & 0xFF)
        mode = self._mode(name, mode, uid, gid)
        return self._member(name, mode, links, (device, inode), node_device, offset, size)

    def _mode(self, name: str, mode: int, uid: int, gid: int) -> int:
        changed = mode_for_root(mode, uid, gid)
        if changed != mode and not stat.S_ISDIR(mode):
            self.tree.stripped.append(member_path(name))
        return changed

    def _member(
        self,
        name: str,
        mode: int,
        links: int,
        key: tuple[int, int],
        device: tuple[int, int],
        offset: int,
        size: int,
    ) -> bool:
        if name == _TRAILER:
            return True
        path = member_path(name)
        if not path:
            self.tree.nodes[""] = directory(stat.S_IMODE(mode))
            return False
        if stat.S_ISLNK(mode):
            target = FileSlice(self._path, offset, size).read().decode(errors="surrogateescape")
            self.tree.put(path, Node(mode, target=target))
            return False
        node = Node(mode, device=device)
        if links > 1 and stat.S_ISREG(mode):
            node = self._inodes.setdefault(key, node)
        if size:
            node.content = FileSlice(self._path, offset, size)
        self.tree.put(path, node)
        return False

    def _numbers(self, widths: tuple[int, ...], base: int) -> list[int]:
        values = []
        for width in widths:
            digits = self._exactly(width)
            try:
                values.append(int(digits, base))
            except ValueError as error:
                raise BuildError("damaged cpio archive: a header field is no number") from error
        return values

    def _name(self, length: int) -> str:
        if not 1 < length <= _MAX_NAME:
            raise BuildError(f"damaged cpio: member name of {length} bytes")
        return self._exactly(length)[:-1].decode(errors="surrogateescape")

    def _exactly(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise BuildError("truncated cpio archive")
        return data

    def _skip(self, length: int) -> int:
        """Pass over `length` bytes and return where they began."""
        offset = self._file.tell()
        if offset + length > self._size:
            raise BuildError("truncated cpio archive")
        self._file.seek(length, 1)
        return offset
