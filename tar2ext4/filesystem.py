"""Puts files into a new ext4 image: data as it comes, everything else when it is finished."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tar2ext4 import directory, extents, groups, names, timestamps, xattrs
from tar2ext4.errors import ArchiveError, EntryError, printable
from tar2ext4.inode import Inode
from tar2ext4.layout import (
    BLOCK_SIZE,
    FIRST_INODE,
    FLAG_EXTENTS,
    FLAG_HUGE_FILE,
    FLAG_INLINE_DATA,
    INODE_BLOCK_SIZE,
    MAX_FILE_SIZE,
    MAX_INLINE_SYMLINK,
    MAX_LINKS,
    MAX_NAME,
    ROOT_INODE,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFREG,
    S_IFSOCK,
    TYPE_MASK,
    descriptor_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tar2ext4.output import Bytes, ImageFile
    from tar2ext4.timestamps import Time

    #: A piece of a file: bytes, or a number of zeros.
    Piece = Bytes | int

#: The largest file that fits into an inode: behind the block pointers, an attribute holds the rest.
MAX_INLINE_DATA: Final = 136
_ATTRIBUTE_NAME_LIMIT: Final = 255


@dataclass(slots=True)
class File:
    """What a file is to be like.

    Attributes:
        mode: Type and permissions; without a type it is a regular file.
        size: Bytes of a regular file.
        device: Major and minor number of a device.
        target: Of a symbolic link.
        attributes: Extended attributes by their full names.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    atime: Time | None = None
    mtime: Time | None = None
    ctime: Time | None = None
    crtime: Time | None = None
    device: tuple[int, int] = (0, 0)
    target: bytes = b""
    attributes: dict[bytes, bytes] = field(default_factory=dict)


class FileSystem:
    """An image that is being filled.

    Names are paths of bytes; they are taken relative to the root, wherever they point. Directories
    that a name needs and that were not there yet are made, owned and dated as the directory they
    are in; an entry that comes later corrects them.
    """

    def __init__(
        self,
        image: ImageFile,
        disk_size: int,
        *,
        inline_data: bool = False,
        as_unpacked: bool = False,
    ) -> None:
        """Begin an image.

        Args:
            image: Empty.
            disk_size: Bytes to reserve group descriptors for, see `layout.maximum_disk_size`.
            inline_data: Keep files of up to 136 bytes in their inodes.
            as_unpacked: See `tar2ext4.convert`.
        """
        self._as_unpacked = as_unpacked
        self._encode_time, self._decode_time = (
            (timestamps.encode_for_kernel, timestamps.decode_from_kernel)
            if as_unpacked
            else (timestamps.encode, timestamps.decode)
        )
        #: Numbers of inodes that lost their last name.
        self._unused: list[int] = []
        self._image = image
        self._inline_data = inline_data
        self._descriptor_blocks = descriptor_blocks(disk_size)
        self._inodes: list[Inode | None] = [None]
        image.skip_to_block(1 + self._descriptor_blocks)
        self._root = self._make_inode(File(S_IFDIR | 0o755), None)
        self._root.links = 2
        self._inodes += [None] * (FIRST_INODE - 1 - ROOT_INODE)
        #: The directory of the latest name; most of the time the next one is there, too.
        self._latest = (b"", self._root)
        self.create(b"lost+found", File(S_IFDIR | 0o700))

    def create(self, name: bytes, file: File, content: Iterable[Piece] = ()) -> None:
        """Add a file, or replace one.

        Args:
            content: A regular file's, `file.size` bytes altogether.

        Raises:
            EntryError: the name is taken by something that cannot be replaced, or the file system
                cannot hold such a file.
            ImageTooLargeError: there is no room.
            OutputError: the image cannot be written.
        """
        parent, child_name, existing = self._locate(name)
        is_directory = file.mode & TYPE_MASK == S_IFDIR
        if self._as_unpacked and existing is not None:
            existing = self._make_way(parent, child_name, name, is_directory=is_directory)
        reuse = self._replaceable(name, existing, is_directory=is_directory)
        if existing is None and is_directory and parent.links >= MAX_LINKS:
            raise EntryError(
                f"{printable(name)}: its directory has {MAX_LINKS - 2} subdirectories already"
            )
        try:
            inode = self._make_inode(file, reuse)
        except EntryError as error:
            raise EntryError(f"{printable(name)}: {error}") from None
        if inode is not existing:
            if existing is not None:
                existing.links -= 1
            parent.children[child_name] = inode
            inode.links += 1
            if is_directory:
                parent.links += 1
        if inode.mode & TYPE_MASK == S_IFREG:
            self._write_content(name, inode, content)

    def link(self, target: bytes, name: bytes) -> None:
        """Give an existing file, or symbolic link, one more name.

        Raises:
            EntryError: the target is not there, is a directory, or has too many links; or the name
                is taken.
        """
        parent, child_name, existing = self._locate(name)
        inode = self._find(target)
        if self._as_unpacked and existing is not None and existing is not inode:
            existing = self._make_way(parent, child_name, name, is_directory=False)
        if existing is not None and (existing.is_directory or existing.links < 2):
            if self._as_unpacked:
                return
            raise EntryError(
                f"{printable(name)}: exists, and a hard link would take the last name of what it is"
            )
        if inode is None:
            raise EntryError(
                f"{printable(name)}: a hard link to {printable(target)}, which is not in the "
                "archive before it"
            )
        if inode.is_directory:
            raise EntryError(
                f"{printable(name)}: a hard link to {printable(target)}, which is a directory"
            )
        if inode is not existing and inode.links >= MAX_LINKS:
            raise EntryError(
                f"{printable(name)}: {printable(target)} has {MAX_LINKS} links already"
            )
        if existing is not None:
            existing.links -= 1
        inode.links += 1
        parent.children[child_name] = inode

    def set_attribute(self, name: bytes, attribute: bytes, value: bytes) -> None:
        """Set an extended attribute of a directory; what else it has stays.

        Raises:
            EntryError: there is no such directory, or no room for the attribute.
        """
        inode = self._find(name, make_parents=True)
        if inode is None or not inode.is_directory:
            raise EntryError(f"{printable(name)}: is no directory, and cannot be made opaque")
        file = self._describe(inode)
        file.attributes |= self._attributes(inode)
        file.attributes[attribute] = value
        self._make_inode(file, inode)

    def finish(self) -> None:
        """Write directories, inodes and all that describes them.

        Raises:
            ImageTooLargeError: there is no room.
            OutputError: the image cannot be written.
        """
        self._write_directories()
        while self._inodes[-1] is None:
            # Of what was removed; the directory `lost+found` comes before all that can be.
            self._inodes.pop()
        groups.write(
            self._image, self._inodes, self._descriptor_blocks, inline_data=self._inline_data
        )

    # --- names ------------------------------------------------------------------------------

    def _locate(self, name: bytes) -> tuple[Inode, bytes, Inode | None]:
        """Directory of a name (made when missing), its last component, and what is there.

        The root is its own directory, with an empty last component.
        """
        head, _, tail = name.rstrip(b"/").rpartition(b"/")
        if head == self._latest[0] and tail not in (b"", b".", b".."):
            parent = self._latest[1]
        else:
            parts = names.clean(name)
            if not parts:
                return self._root, b"", self._root
            parent = self._make_parents(name, parts[:-1])
            if parts[-1] == tail:
                self._latest = (head, parent)
            tail = parts[-1]
        if len(tail) > MAX_NAME or b"\0" in tail:
            raise EntryError(f"{printable(name)}: not a name: too long, or with a zero byte")
        return parent, tail, parent.children.get(tail)

    def _make_parents(self, name: bytes, parts: list[bytes]) -> Inode:
        here = self._root
        path = b""
        for part in parts:
            path += b"/" + part
            below = here.children.get(part)
            if below is not None and self._as_unpacked and below.is_symlink:
                return self._make_parents(name, names.follow(self._root, parts, self._target))
            if below is None:
                if len(part) > MAX_NAME or b"\0" in part:
                    raise EntryError(
                        f"{printable(name)}: not a name: too long, or with a zero byte"
                    )
                if here.links >= MAX_LINKS:
                    raise EntryError(
                        f"{printable(path)}: its directory has {MAX_LINKS - 2} subdirectories "
                        "already"
                    )
                below = self._make_inode(self._implied(here), None)
                here.children[part] = below
                below.links += 1
                here.links += 1
            elif not below.is_directory:
                raise EntryError(f"{printable(name)}: {printable(path)} is no directory")
            here = below
        return here

    def _find(self, name: bytes, *, make_parents: bool = False) -> Inode | None:
        parts = names.clean(name)
        if make_parents:
            return self._make_parents(name, parts)
        found = names.look_up(self._root, parts)
        if found is None and self._as_unpacked:
            directory_ = names.follow(self._root, parts[:-1], self._target)
            found = names.look_up(self._root, [*directory_, *parts[-1:]])
        return found

    def _target(self, inode: Inode) -> bytes:
        if inode.flags & FLAG_EXTENTS:
            return self._image.read_at(extents.start(inode.data) * BLOCK_SIZE, inode.size)
        return inode.data

    def _make_way(
        self, parent: Inode, child_name: bytes, name: bytes, *, is_directory: bool
    ) -> Inode | None:
        """Remove what has a name; a directory stays for another, and is what is returned."""
        existing = self._root if not child_name else parent.children[child_name]
        if existing is self._root or (existing.is_directory and is_directory):
            return existing
        if existing.is_directory and existing.children:
            raise EntryError(f"{printable(name)}: a file cannot replace a directory with files")
        del parent.children[child_name]
        existing.links -= 1
        if existing.is_directory:
            parent.links -= 1
            existing.links -= 1
        if not existing.links:
            self._inodes[existing.number - 1] = None
            self._unused.append(existing.number)
        # Another path may lead elsewhere now.
        self._latest = (b"", self._root)
        return None

    # --- inodes -----------------------------------------------------------------------------

    def _replaceable(
        self, name: bytes, existing: Inode | None, *, is_directory: bool
    ) -> Inode | None:
        """The inode that a new file of this name is to use instead of one of its own."""
        if existing is None:
            return None
        if existing.is_directory != is_directory:
            kinds = ("a directory", "a file") if is_directory else ("a file", "a directory")
            raise EntryError(f"{printable(name)}: {kinds[0]} cannot replace {kinds[1]}")
        if existing.is_directory or existing.links < 2:
            return existing
        return None

    def _describe(self, inode: Inode) -> File:
        """A file like this one, without data and extended attributes."""
        return File(
            inode.mode,
            inode.uid,
            inode.gid,
            0,
            self._decode_time(inode.atime),
            self._decode_time(inode.mtime),
            self._decode_time(inode.ctime),
            self._decode_time(inode.crtime),
            inode.device,
        )

    def _implied(self, parent: Inode) -> File:
        """A directory that an entry needs and the archive does not have."""
        file = self._describe(parent)
        if self._as_unpacked:
            file.mode, file.uid, file.gid = S_IFDIR | 0o755, 0, 0
        return file

    def _attributes(self, inode: Inode) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        if inode.attribute_block:
            offset = inode.attribute_block * BLOCK_SIZE
            block = self._image.read_at(offset, BLOCK_SIZE)
            found |= xattrs.decode_block(block, lists=self._as_unpacked)
        return found | self._attributes_in(inode.attribute_area)

    def _attributes_in(self, area: bytes) -> dict[bytes, bytes]:
        return xattrs.decode_inode(area, lists=self._as_unpacked)

    def _make_inode(self, file: File, reuse: Inode | None) -> Inode:
        """Fill a new inode, or an existing one again; writes what of it needs blocks now."""
        file_type = file.mode & TYPE_MASK or S_IFREG
        if reuse is None:
            inode = Inode(self._unused[-1] if self._unused else len(self._inodes) + 1)
            if file_type == S_IFDIR:
                inode.children = {}
                inode.links = 1  # its own "."
        else:
            inode = reuse
            if inode.flags & FLAG_EXTENTS:
                raise EntryError(
                    "comes twice in the archive, and the data of the first is written already"
                )
        inode.mode = file.mode | file_type
        inode.uid, inode.gid = file.uid, file.gid
        inode.flags = FLAG_HUGE_FILE
        inode.atime = self._encode_time(file.atime)
        inode.ctime = self._encode_time(file.ctime)
        inode.mtime = self._encode_time(file.mtime)
        inode.crtime = self._encode_time(file.crtime)
        inode.device = file.device
        inode.data = b""
        inode.size = 0
        placement = xattrs.Placement()
        if file_type == S_IFREG:
            self._prepare_regular(inode, file, placement)
        elif file_type == S_IFLNK:
            self._prepare_symlink(inode, file)
        elif file_type not in _OTHER_TYPES:
            raise EntryError(f"unknown type of file {file_type:#o}")
        self._place_attributes(inode, file, placement)
        if len(inode.data) > MAX_INLINE_SYMLINK and file_type == S_IFLNK:
            start = self._image.block
            self._image.write(inode.data)
            self._set_extents(inode, start)
        if reuse is None:
            if self._unused:
                self._inodes[self._unused.pop() - 1] = inode
            else:
                self._inodes.append(inode)
        return inode

    def _prepare_regular(self, inode: Inode, file: File, placement: xattrs.Placement) -> None:
        if file.size > MAX_FILE_SIZE:
            raise EntryError(f"{file.size} bytes; a file may have up to {MAX_FILE_SIZE}")
        inode.size = file.size
        if self._inline_data and file.size <= MAX_INLINE_DATA:
            inode.flags |= FLAG_INLINE_DATA
            rest = bytes(max(0, file.size - INODE_BLOCK_SIZE))
            placement.add(xattrs.INLINE_DATA_NAME, rest)  # the first one always fits

    def _prepare_symlink(self, inode: Inode, file: File) -> None:
        if not file.target or len(file.target) >= BLOCK_SIZE or b"\0" in file.target:
            raise EntryError(
                f"the target of a symbolic link has 1 to {BLOCK_SIZE - 1} bytes, none of them "
                f"zero; this one has {len(file.target)}"
            )
        inode.mode |= 0o777
        inode.data = file.target
        inode.size = len(file.target)

    def _place_attributes(self, inode: Inode, file: File, placement: xattrs.Placement) -> None:
        """Attributes of the file, and those of the inode before that the file does not have."""
        attributes = file.attributes
        if not (attributes or inode.attribute_area or inode.attribute_block or placement.in_inode):
            return
        if inode.attribute_area:
            attributes = self._attributes_in(inode.attribute_area) | attributes
        for name in sorted(attributes):
            if not 0 < len(name) <= _ATTRIBUTE_NAME_LIMIT:
                raise EntryError(
                    f"the name of an extended attribute has up to {_ATTRIBUTE_NAME_LIMIT} bytes; "
                    f"this one has {len(name)}"
                )
            if not placement.add(name, attributes[name]):
                raise EntryError(f"no room for the extended attribute {printable(name)}")
        inode.attribute_area = placement.encode_inode()
        if inode.attribute_block:
            # It stays the inode's, even when nothing is in it any more.
            self._image.write_at(inode.attribute_block, placement.encode_block())
        elif placement.in_block:
            inode.attribute_block = self._image.block
            inode.blocks += 1
            self._image.write(placement.encode_block())

    # --- data -------------------------------------------------------------------------------

    def _write_content(self, name: bytes, inode: Inode, content: Iterable[Piece]) -> None:
        if inode.flags & FLAG_INLINE_DATA:
            inode.data = b"".join(
                bytes(piece) if isinstance(piece, int) else piece for piece in content
            )
            written = len(inode.data)
        else:
            image = self._image
            start = image.position
            for piece in content:
                if isinstance(piece, int):
                    image.zeros(piece)
                elif piece:
                    image.write(piece)
            written = image.position - start
            if written:
                self._set_extents(inode, start // BLOCK_SIZE)
        if written != inode.size:
            raise ArchiveError(f"{printable(name)}: {written} bytes of {inode.size}")

    def _set_extents(self, inode: Inode, start: int) -> None:
        """The data from block `start` up to the end of the image is this inode's."""
        image = self._image
        image.align()
        inode.data, leaves = extents.encode(start, image.block - start)
        image.write(leaves)
        inode.flags |= FLAG_EXTENTS
        inode.blocks += image.block - start

    def _write_directories(self) -> None:
        pending = [(self._root, self._root)]
        while pending:
            inode, parent = pending.pop()
            children = directory.children_in_order(inode)
            start = self._image.position
            for block in directory.encode(inode, parent, children):
                self._image.write(block)
            inode.size = self._image.position - start
            self._set_extents(inode, start // BLOCK_SIZE)
            pending += [(child, inode) for _, child in reversed(children) if child.is_directory]


_OTHER_TYPES: Final = frozenset({S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFSOCK})
