"""From a tar archive to an ext4 image, on request with hash tree and VHD footer."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from tar2ext4 import layout, tar_header, verity, vhd, xattrs
from tar2ext4.errors import ArchiveError
from tar2ext4.filesystem import File, FileSystem
from tar2ext4.output import ImageFile, output_error, replacing
from tar2ext4.tar_reader import TarReader

if TYPE_CHECKING:
    import uuid as uuids
    from collections.abc import Callable, Iterator

    from tar2ext4.tar_header import Header

    Path = str | os.PathLike[str]

_WHITEOUT_PREFIX: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_XATTR_RECORD: Final = b"SCHILY.xattr."
_INPUT_BUFFER: Final = 1 << 20
_UINT32: Final = 0xFFFFFFFF

_TYPES: Final = {
    tar_header.REGULAR: layout.S_IFREG,
    tar_header.SYMLINK: layout.S_IFLNK,
    tar_header.CHARACTER_DEVICE: layout.S_IFCHR,
    tar_header.BLOCK_DEVICE: layout.S_IFBLK,
    tar_header.DIRECTORY: layout.S_IFDIR,
    tar_header.FIFO: layout.S_IFIFO,
}


@dataclass(frozen=True, slots=True)
class Result:
    """What was written.

    Attributes:
        filesystem_size: Bytes of the ext4 file system, where the hash tree begins, if there is one.
        root_digest: Of the hash tree, hexadecimal; None without one.
    """

    filesystem_size: int
    root_digest: str | None


def convert(
    source: Path | BinaryIO,
    output: Path,
    *,
    convert_whiteout: bool = False,
    convert_backslash: bool = False,
    inline_data: bool = False,
    append_dm_verity: bool = False,
    append_vhd_footer: bool = False,
    maximum_disk_size: int | None = None,
    verity_uuid: uuids.UUID | None = None,
    vhd_uuid: uuids.UUID | None = None,
    as_unpacked: bool = False,
    examine: Callable[[Header], bool] | None = None,
) -> Result:
    """Write an ext4 image with the files of a tar archive.

    Equal archives give equal images, except for the two UUIDs when they are not given.

    The image is the reference's, and refuses what that refuses, unless it is made `as_unpacked`:
    then it has what unpacking the archive would have given. A later entry replaces an earlier one
    of its name, directories may be reached through symbolic links, global extended headers count,
    directories that an archive does not have are ordinary ones, times before 1970 and access
    control lists are as a kernel reads them, extended attributes of unknown kinds are left out.

    Args:
        source: Path of the archive, or a file to read it from, up to its end or that of the
            archive.
        output: Path of the image. A file there is replaced when all has succeeded; a block device
            is written in place.
        convert_whiteout: Make whiteouts of OCI layers those of overlayfs.
        convert_backslash: Take `\\` in names for `/`.
        inline_data: Keep small files in their inodes (not for use with DAX).
        append_dm_verity: Append a hash tree and its superblock.
        append_vhd_footer: Append the footer of a fixed VHD.
        maximum_disk_size: Limit in bytes, for which metadata is reserved (default: 16 GiB; at
            most 16 TiB, which a negative number stands for).
        verity_uuid: UUID of the hash device; random by default.
        vhd_uuid: UUID of the VHD; random by default.
        as_unpacked: See above.
        examine: Called with each header; may change it, and leaves the entry out by returning
            False. What it raises ends the conversion.

    Raises:
        ArchiveError: the archive is none, is damaged, or cannot be read.
        EntryError: the file system cannot hold an entry.
        ImageTooLargeError: the image would exceed the limit.
        OutputError: the image cannot be written.
    """
    name = os.fspath(output)
    with _opened(source) as (archive, archive_name), replacing(name) as descriptor:
        reader = TarReader(archive, archive_name, as_unpacked=as_unpacked)
        limit = layout.maximum_disk_size(maximum_disk_size)
        image = ImageFile(descriptor, name, limit)
        file_system = FileSystem(image, limit, inline_data=inline_data, as_unpacked=as_unpacked)
        for header in reader:
            if examine is not None and not examine(header):
                continue
            if convert_backslash:
                header.name = header.name.replace(b"\\", b"/")
                header.target = header.target.replace(b"\\", b"/")
            if not (convert_whiteout and _whiteout(file_system, header)):
                _add(file_system, reader, header, as_unpacked=as_unpacked)
        file_system.finish()
        image.finish()
        digest = None
        try:
            if append_dm_verity:
                digest = verity.append(descriptor, image.position, verity_uuid)
            if append_vhd_footer:
                size = image.position
                if append_dm_verity:
                    size += layout.BLOCK_SIZE + verity.tree_size(size // layout.BLOCK_SIZE)
                vhd.append(descriptor, size, vhd_uuid)
        except OSError as error:
            raise output_error(name, error) from error
        return Result(image.position, digest)


def root_digest(source: Path | BinaryIO, *, directory: Path | None = None) -> str:
    """The root digest of a layer: with whiteouts, and for disks of up to 128 GiB.

    Security policies name layers by it.

    Args:
        source: Path of the archive, or a file to read it from.
        directory: Where the image goes in the meantime; by default that of temporary files.

    Raises:
        Tar2Ext4Error: as `convert`.
    """
    with tempfile.TemporaryDirectory(prefix="tar2ext4-", dir=directory) as scratch:
        result = convert(
            source,
            os.path.join(scratch, "image"),
            convert_whiteout=True,
            append_dm_verity=True,
            maximum_disk_size=verity.RECOMMENDED_DISK_SIZE,
        )
    assert result.root_digest is not None
    return result.root_digest


def only_append_vhd_footer(
    source: Path | BinaryIO, output: Path, *, vhd_uuid: uuids.UUID | None = None
) -> None:
    """Copy a raw image and make the copy a VHD.

    Raises:
        ArchiveError: the source cannot be read.
        OutputError: the copy cannot be written.
    """
    name = os.fspath(output)
    with _opened(source) as (image, _), replacing(name) as descriptor:
        try:
            with open(descriptor, "wb", closefd=False) as copy:
                shutil.copyfileobj(image, copy, _INPUT_BUFFER)
                size = copy.tell()
            vhd.append(descriptor, size, vhd_uuid)
        except OSError as error:
            raise output_error(name, error) from error


@contextlib.contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    if not isinstance(source, str | os.PathLike):
        yield source, str(getattr(source, "name", "archive"))
        return
    name = os.fspath(source)
    try:
        file = open(name, "rb", buffering=_INPUT_BUFFER)  # noqa: SIM115 -- closed below
    except OSError as error:
        raise ArchiveError(f"{name}: cannot read it: {error.strerror}") from error
    with file:
        yield file, name


def _whiteout(file_system: FileSystem, header: Header) -> bool:
    """Handle an entry that is a whiteout; False when it is none."""
    slash = header.name.rfind(b"/") + 1
    directory, name = header.name[:slash], header.name[slash:]
    if not name.startswith(_WHITEOUT_PREFIX):
        return False
    if name == _OPAQUE:
        file_system.set_attribute(directory, b"trusted.overlay.opaque", b"y")
    else:
        hidden = directory + name.removeprefix(_WHITEOUT_PREFIX)
        file_system.create(hidden, File(layout.S_IFCHR))
    return True


def _add(file_system: FileSystem, reader: TarReader, header: Header, *, as_unpacked: bool) -> None:
    if header.kind == tar_header.HARD_LINK:
        file_system.link(header.target, header.name)
        return
    file = File(
        header.mode & 0xFFFF & ~layout.TYPE_MASK | _TYPES.get(header.kind, 0),
        header.uid & _UINT32,
        header.gid & _UINT32,
        header.size,
        header.atime,
        header.mtime,
        header.ctime,
        header.mtime,
        (header.device[0] & _UINT32, header.device[1] & _UINT32),
        header.target,
    )
    if header.records:
        file.attributes = {
            key.removeprefix(_XATTR_RECORD): value
            for key, value in header.records.items()
            if key.startswith(_XATTR_RECORD)
        }
        if as_unpacked:
            file.attributes = xattrs.for_kernel(file.attributes)
    file_system.create(header.name, file, reader.content(header))
