"""Hash trees, their superblock, and footers of VHDs."""

from __future__ import annotations

import hashlib
import io
import struct
import uuid
from typing import TYPE_CHECKING

import pytest

from tar2ext4 import ImageFormatError, convert, only_append_vhd_footer, superblock, verity, vhd
from tests.support.tar_archives import archive
from tests.support.tar_entries import pattern

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 4096
UUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


def by_hand(data: bytes, salt: bytes = bytes(32)) -> str:
    """The root digest, level by level."""
    level = data
    while True:
        blocks = [level[at : at + BLOCK] for at in range(0, len(level), BLOCK)]
        hashes = b"".join(hashlib.sha256(salt + block).digest() for block in blocks)
        level = hashes + bytes(-len(hashes) % BLOCK)
        if len(level) == BLOCK:
            return hashlib.sha256(salt + level).hexdigest()


@pytest.mark.parametrize("blocks", [1, 2, 127, 128, 129, 16385])
def test_trees(blocks: int, tmp_path: Path) -> None:
    """From one level to three, in memory and behind the data."""
    data = pattern(blocks * BLOCK, blocks)
    expected = by_hand(data)
    tree = verity.tree(io.BytesIO(data))
    assert len(tree) == verity.tree_size(blocks)
    assert verity.root_digest(tree[:BLOCK]) == expected
    path = tmp_path / "disk"
    path.write_bytes(data)
    with path.open("r+b") as file:
        assert verity.append(file.fileno(), len(data), UUID) == expected
    written = path.read_bytes()
    assert written[: len(data)] == data
    assert written[len(data) : len(data) + BLOCK] == verity.superblock(len(data), UUID)
    assert written[len(data) + BLOCK :] == tree


def test_salted_trees(tmp_path: Path) -> None:
    data, salt = pattern(200 * BLOCK), b"salt" * 8
    assert verity.root_digest(verity.tree(io.BytesIO(data), salt)[:BLOCK], salt) == by_hand(
        data, salt
    )
    path = tmp_path / "disk"
    path.write_bytes(data)
    with path.open("r+b") as file:
        # Anywhere behind the data.
        digest = verity.write_tree(file.fileno(), len(data), len(data) + 7 * BLOCK, salt)
    assert digest == by_hand(data, salt)


@pytest.mark.parametrize("size", [0, 1, BLOCK + 1])
def test_what_no_tree_can_cover(size: int, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(size))
    with path.open("r+b") as file, pytest.raises(ImageFormatError, match="not whole blocks"):
        verity.append(file.fileno(), size)
    with pytest.raises(ImageFormatError, match=r"whole block|nothing to make"):
        verity.tree(io.BytesIO(bytes(size)))
    assert path.stat().st_size == size


def test_a_file_that_is_shorter_than_its_data(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(BLOCK))
    with path.open("r+b") as file, pytest.raises(ImageFormatError, match="4096 bytes too early"):
        verity.append(file.fileno(), 2 * BLOCK)


def test_the_superblock() -> None:
    """Field by field, as veritysetup has them."""
    block = verity.superblock(300 * BLOCK, UUID)
    assert len(block) == BLOCK
    assert block[:8] == b"verity\0\0"
    assert struct.unpack_from("<II", block, 8) == (1, 1)
    assert block[16:32] == UUID.bytes
    assert block[32:64] == b"sha256".ljust(32, b"\0")
    assert struct.unpack_from("<IIQH", block, 64) == (BLOCK, BLOCK, 300, 32)
    assert not any(block[82:])
    assert verity.superblock(BLOCK)[16:32] != verity.superblock(BLOCK)[16:32]


def test_what_an_image_says_about_its_tree(tmp_path: Path) -> None:
    path = tmp_path / "out.img"
    result = convert(io.BytesIO(archive("sizes")), path, append_dm_verity=True)
    with path.open("rb") as file:
        size, block_size = superblock.read_size(file)
        assert (size, block_size) == (result.filesystem_size, BLOCK)
        info = verity.read_info(file, size)
    assert info.root_digest == result.root_digest
    assert info.hash_offset == info.data_blocks == size // BLOCK
    assert (info.salt, info.algorithm) == ("00" * 32, "sha256")
    assert (info.data_block_size, info.hash_block_size, info.version) == (BLOCK, BLOCK, 1)


def test_a_file_that_ends_before_the_superblock() -> None:
    for size in (BLOCK, BLOCK + BLOCK // 2):
        with pytest.raises(ImageFormatError, match="ends before a dm-verity superblock"):
            verity.read_info(io.BytesIO(pattern(size)), BLOCK)


def test_something_else_than_a_superblock() -> None:
    with pytest.raises(ImageFormatError, match="no dm-verity superblock at byte 4096"):
        verity.read_info(io.BytesIO(pattern(3 * BLOCK)), BLOCK)


def test_a_superblock_without_a_tree() -> None:
    data = bytes(BLOCK) + verity.superblock(BLOCK)
    with pytest.raises(ImageFormatError, match="ends before the hash tree at byte 8192"):
        verity.read_info(io.BytesIO(data), BLOCK)


def test_a_superblock_with_an_impossible_salt() -> None:
    block = bytearray(verity.superblock(BLOCK))
    struct.pack_into("<H", block, 80, 257)
    with pytest.raises(ImageFormatError, match="a salt of 257 bytes"):
        verity.read_info(io.BytesIO(bytes(BLOCK) + block + bytes(BLOCK)), BLOCK)


def test_a_file_without_a_file_system() -> None:
    for data in (b"", pattern(8192)):
        with pytest.raises(ImageFormatError, match="no ext4 file system"):
            superblock.read_size(io.BytesIO(data))
    damaged = bytearray(2048)
    struct.pack_into("<H", damaged, 1024 + 0x38, 0xEF53)
    struct.pack_into("<I", damaged, 1024 + 0x18, 7)
    with pytest.raises(ImageFormatError, match=r"block size 2\^17"):
        superblock.read_size(io.BytesIO(bytes(damaged)))


def test_uuids_are_random_unless_they_are_given(tmp_path: Path) -> None:
    images = []
    for number in range(2):
        path = tmp_path / str(number)
        convert(io.BytesIO(archive("empty")), path, append_dm_verity=True, append_vhd_footer=True)
        images.append(path.read_bytes())
    one, other = images
    different = [at for at in range(len(one)) if one[at] != other[at]]
    size = superblock.read_size(io.BytesIO(one))[0]
    footer = len(one) - vhd.FOOTER_SIZE
    assert different
    for at in different:
        assert size + 16 <= at < size + 32 or footer + 64 <= at < footer + 84


# --- VHD ----------------------------------------------------------------------------------------


def test_the_footer() -> None:
    """Field by field of Microsoft's specification."""
    data = vhd.footer(123 << 20, UUID)
    assert len(data) == vhd.FOOTER_SIZE == 512
    assert data[:8] == b"conectix"
    features, version, offset = struct.unpack_from(">IIQ", data, 8)
    assert (features, version, offset) == (2, 0x10000, (1 << 64) - 1)
    assert struct.unpack_from(">QQ", data, 40) == (123 << 20, 123 << 20)
    kind, checksum = struct.unpack_from(">II", data, 60)
    assert kind == 2  # fixed
    assert checksum == ~(sum(data) - sum(data[64:68])) & 0xFFFFFFFF
    assert data[68:84] == UUID.bytes
    assert not any(data[84:])


def test_footer_alone(tmp_path: Path) -> None:
    """The copy is the disk with a footer; what else is asked for is ignored."""
    disk = pattern(3 << 20)
    only_append_vhd_footer(io.BytesIO(disk), tmp_path / "out.vhd", vhd_uuid=UUID)
    assert (tmp_path / "out.vhd").read_bytes() == disk + vhd.footer(len(disk), UUID)


def test_a_footer_covers_file_system_and_tree(tmp_path: Path) -> None:
    path = tmp_path / "out.vhd"
    result = convert(
        io.BytesIO(archive("sizes")),
        path,
        append_dm_verity=True,
        append_vhd_footer=True,
        vhd_uuid=UUID,
    )
    blocks = result.filesystem_size // BLOCK
    size = result.filesystem_size + BLOCK + verity.tree_size(blocks)
    data = path.read_bytes()
    assert len(data) == size + vhd.FOOTER_SIZE
    assert data[size:] == vhd.footer(size, UUID)
