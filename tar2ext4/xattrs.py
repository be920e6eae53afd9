"""Extended attributes: in the inode as long as there is room, the rest in one block.

See https://docs.kernel.org/filesystems/ext4/attributes.html.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tar2ext4.layout import BLOCK_SIZE, INODE_EXTRA_SIZE
from tar2ext4.reference_sort import reference_sort

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Name of the attribute that holds what of a small file does not fit where block pointers are.
INLINE_DATA_NAME: Final = b"system.data"

_MAGIC: Final = 0xEA020000
_ENTRY: Final = struct.Struct("<BBHIII")  # name length, index, offset, inode, size, hash
_BLOCK_HEADER: Final = struct.Struct("<III20x")  # magic, references, blocks
_END: Final = 4  # a zero word behind the last entry
_IN_INODE: Final = INODE_EXTRA_SIZE - 4
_IN_BLOCK: Final = BLOCK_SIZE - _BLOCK_HEADER.size
_UINT32: Final = 0xFFFFFFFF

_ACL_ENTRY: Final = struct.Struct("<HHI")  # tag, permissions, owner
#: Tags of entries for named users and groups.
_ACL_NAMED: Final = (0x02, 0x08)
#: Indexes of the two access control lists.
_ACLS: Final = (2, 3)

#: Prefixes of names that become a number, in the order they are tried.
_PREFIXES: Final = (
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (8, b"system.richacl"),
    (7, b"system."),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
)
_PREFIX_OF: Final = dict(_PREFIXES)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute, with its name as it is on disk."""

    index: int
    name: bytes
    value: bytes

    @property
    def entry_size(self) -> int:
        return _ENTRY.size + (len(self.name) + 3 & ~3)

    @property
    def value_size(self) -> int:
        return len(self.value) + 3 & ~3


def split_name(name: bytes) -> tuple[int, bytes]:
    """Index of the prefix, and the rest of the name; index 0 for an unknown prefix."""
    for index, prefix in _PREFIXES:
        if name.startswith(prefix):
            return index, name[len(prefix) :]
    return 0, name


def for_kernel(attributes: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Attributes as a kernel can use them.

    Access control lists get the form they have on disk, see `fs/ext4/acl.h` of Linux; what has no
    prefix that ext4 knows is left out. A list that is none is left out, too: the kernel would
    refuse to open the file.
    """
    usable = {}
    for name, value in attributes.items():
        index, rest = split_name(name)
        if index in _ACLS and not rest:
            acl = _acl_on_disk(value)
            if acl is not None:
                usable[name] = acl
        elif index:
            usable[name] = value
    return usable


def _acl_on_disk(value: bytes) -> bytes | None:
    if len(value) % _ACL_ENTRY.size != 4 or value[:4] != b"\2\0\0\0":
        return None
    parts = [b"\1\0\0\0"]
    for tag, permissions, owner in _ACL_ENTRY.iter_unpack(value[4:]):
        parts.append(struct.pack("<HH", tag, permissions))
        if tag in _ACL_NAMED:
            parts.append(owner.to_bytes(4, "little"))
    return b"".join(parts)


def _hash(name: bytes, value: bytes) -> int:
    result = 0
    for byte in name:
        result = (result << 5 & _UINT32) ^ (result >> 27) ^ byte
    padded = value + bytes(-len(value) % 4)
    for (word,) in struct.iter_unpack("<I", padded):
        result = (result << 16 & _UINT32) ^ (result >> 16) ^ word
    return result


def _encode(attributes: Iterable[Attribute], size: int, value_base: int) -> bytes:
    """An area of `size` bytes: entries from its start on, values from its end backwards.

    Args:
        value_base: What offsets of values are counted from, in bytes before the area.
    """
    area = bytearray(size)
    entry_at, value_at = 0, size
    for attribute in attributes:
        value_at -= attribute.value_size
        _ENTRY.pack_into(
            area,
            entry_at,
            len(attribute.name),
            attribute.index,
            value_at + value_base,
            0,
            len(attribute.value),
            _hash(attribute.name, attribute.value),
        )
        name_at = entry_at + _ENTRY.size
        area[name_at : name_at + len(attribute.name)] = attribute.name
        area[value_at : value_at + len(attribute.value)] = attribute.value
        entry_at += attribute.entry_size
    return bytes(area)


def _decode(area: bytes, value_base: int, *, lists: bool) -> dict[bytes, bytes]:
    """The attributes of an area.

    An access control list has no name besides its prefix. Unless they are asked for, it ends the
    area: so does the reference when an entry of the archive comes again.
    """
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(area) and (area[at] or (lists and area[at + 1] in _ACLS)):
        length, index, offset, _, size, _ = _ENTRY.unpack_from(area, at)
        name_at = at + _ENTRY.size
        name = area[name_at : name_at + length]
        value_at = offset - value_base
        found[_PREFIX_OF.get(index, b"") + name] = area[value_at : value_at + size]
        at = name_at + (length + 3 & ~3)
    return found


@dataclass(slots=True)
class Placement:
    """Which attributes of a file go to its inode, and which to a block."""

    in_inode: list[Attribute] = field(default_factory=list)
    in_block: list[Attribute] = field(default_factory=list)
    _inode_left: int = _IN_INODE - _END
    _block_left: int = _IN_BLOCK - _END

    def add(self, name: bytes, value: bytes) -> bool:
        """Place one more; False when it fits nowhere."""
        attribute = Attribute(*split_name(name), value)
        size = attribute.entry_size + attribute.value_size
        if size <= self._inode_left:
            self.in_inode.append(attribute)
            self._inode_left -= size
        elif size <= self._block_left:
            self.in_block.append(attribute)
            self._block_left -= size
        else:
            return False
        return True

    def encode_inode(self) -> bytes:
        """The area behind the fields of the inode; empty when there is nothing in it."""
        return encode_inode(self.in_inode) if self.in_inode else b""

    def encode_block(self) -> bytes:
        """The block, whether or not there is anything in it."""
        ordered = list(self.in_block)
        reference_sort(ordered, _is_before)
        return _BLOCK_HEADER.pack(_MAGIC, 1, 1) + _encode(ordered, _IN_BLOCK, _BLOCK_HEADER.size)


def _is_before(one: Attribute, other: Attribute) -> bool:
    # No order at all when indexes and lengths disagree, but the reference's.
    return one.index < other.index or len(one.name) < len(other.name) or one.name < other.name


def encode_inode(attributes: Iterable[Attribute]) -> bytes:
    """The area behind the fields of an inode with these attributes."""
    return _MAGIC.to_bytes(4, "little") + _encode(attributes, _IN_INODE, 0)


def decode_inode(area: bytes, *, lists: bool = False) -> dict[bytes, bytes]:
    """The attributes in the area behind the fields of an inode; `lists`: also behind an ACL."""
    return _decode(area[4:], 0, lists=lists) if area else {}


def decode_block(block: bytes, *, lists: bool = False) -> dict[bytes, bytes]:
    """The attributes in a block; `lists`: also behind an ACL."""
    return _decode(block[_BLOCK_HEADER.size :], _BLOCK_HEADER.size, lists=lists)


def with_inline_data(area: bytes, data: bytes) -> bytes:
    """The area of an inode with the rest of a small file in its first attribute.

    Its place was kept by an attribute of the same size when the file was made.
    """
    index, name = split_name(INLINE_DATA_NAME)
    first = Attribute(index, name, data)
    entries = _encode([first], _IN_INODE, 0)
    end = first.entry_size
    start = _IN_INODE - first.value_size
    return area[:4] + entries[:end] + area[4 + end : 4 + start] + entries[start:]
