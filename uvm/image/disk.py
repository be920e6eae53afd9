"""A tar archive as a read-only disk: an ext4 image, made without unpacking it."""

import io
from pathlib import Path
from typing import IO, Final, cast

from tar2ext4 import ArchiveError, Tar2Ext4Error, convert
from tar2ext4.tar_header import (
    BLOCK_DEVICE,
    CHARACTER_DEVICE,
    DIRECTORY,
    FIFO,
    GNU_SPARSE,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Header,
)
from uvm.errors import UvmError
from uvm.image.streams import Check, HashingReader

#: How archives of layers write that something below is gone (OCI image specification, "Whiteouts").
_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_RESERVED: Final = b".wh..wh."
_CONTIGUOUS: Final = b"7"
_KINDS: Final = frozenset(
    [
        *(BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, GNU_SPARSE, HARD_LINK, REGULAR, SYMLINK),
        _CONTIGUOUS,
    ]
)
#: Limit of a disk in bytes; the group descriptors of so many take 256 KiB, as a hole.
_LIMIT: Final = 1 << 40
_CHUNK: Final = 1 << 20


def write_disk(
    stream: "IO[bytes] | HashingReader", image: Path, what: str, check: Check, *, layer: bool
) -> None:
    """Write an image with the files of an uncompressed tar archive.

    Needs no privileges: owners, devices and attributes of files are bytes of the image.

    Args:
        stream: The archive.
        image: Where to write; a file that is left there when this fails is the caller's.
        what: What to call the archive in messages.
        check: Called with every member; what it raises ends the work.
        layer: It is a layer, of which whiteouts are to become those of overlayfs; otherwise it is a
            whole root file system, of which names may begin with a slash.

    Raises:
        UvmError: It is no archive, or one that must not be unpacked; or the disk is full.
    """
    members = _Members(what, check, layer=layer)
    # Many reads are of a header alone.
    source = io.BufferedReader(cast("io.RawIOBase", stream), _CHUNK)
    try:
        convert(
            source,
            image,
            convert_whiteout=layer,
            maximum_disk_size=_LIMIT,
            as_unpacked=True,
            examine=members.examine,
        )
    except ArchiveError as error:
        # It names the stream, which has been named better.
        text = str(error).removeprefix(f"{getattr(source, 'name', 'archive')}: ")
        raise UvmError(f"{what} is no tar archive, or is damaged: {text}") from error
    except Tar2Ext4Error as error:
        raise UvmError(f"{what}: {error}") from error
    finally:
        # The stream is the caller's.
        source.detach()


class _Members:
    """Which members of an archive are taken.

    Args:
        what: What to call the archive in messages.
        check: Called with every member.
        layer: Whether it is a layer.
    """

    def __init__(self, what: str, check: Check, *, layer: bool) -> None:
        self._what = what
        self._check = check
        self._layer = layer

    def examine(self, header: Header) -> bool:
        """Tell whether to take a member.

        Raises:
            UvmError: The archive must not be unpacked.
        """
        self._check()
        name = header.name if self._layer else header.name.lstrip(b"/")
        parts = self._parts(name)
        if header.kind not in _KINDS:
            kind = header.kind.decode("ascii", "backslashreplace")
            raise UvmError(f"{self._what}: {_shown(name)} is of an unknown kind, {kind!r}")
        if not parts:
            # The root itself can be nothing else.
            return header.kind == DIRECTORY
        if self._layer and parts[-1].startswith(_WHITEOUT):
            return self._is_whiteout(parts[-1], name)
        if header.kind == HARD_LINK and not self._parts(header.target.removeprefix(b"/")):
            raise self._refused(name, "links to nothing")
        return True

    def _parts(self, name: bytes) -> list[bytes]:
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if name.startswith(b"/") or b".." in parts:
            place = "layer" if self._layer else "archive"
            raise self._refused(name, f"leads out of the {place}")
        return parts

    def _is_whiteout(self, last: bytes, name: bytes) -> bool:
        if last == _OPAQUE:
            return True
        if last.removeprefix(_WHITEOUT) in (b"", b".", b".."):
            raise self._refused(name, "hides nothing")
        # Other reserved names are book-keeping of the program that made the layer.
        return not last.startswith(_RESERVED)

    def _refused(self, name: bytes, reason: str) -> UvmError:
        return UvmError(f"{self._what} must not be unpacked: {_shown(name)} {reason}")


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "backslashreplace"))
