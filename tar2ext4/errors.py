"""What can go wrong when a tar archive becomes an ext4 image."""

from __future__ import annotations


class Tar2Ext4Error(Exception):
    """Base of all errors of this package; the message names the object and the cause."""


class ArchiveError(Tar2Ext4Error):
    """The input is no tar archive, is damaged, or ends too early."""


class EntryError(Tar2Ext4Error):
    """An entry of the archive that the file system cannot hold."""


class ImageTooLargeError(Tar2Ext4Error):
    """The image would exceed its maximum size."""


class OutputError(Tar2Ext4Error):
    """The image cannot be written (disk full, no permission, …)."""


class ImageFormatError(Tar2Ext4Error):
    """A file that is to be read holds no ext4 file system, or no dm-verity superblock."""


def printable(name: bytes) -> str:
    """A name from an archive as it may stand in a message: UTF-8, the rest escaped."""
    return (
        name.decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")
        if any(byte < 0x20 or byte == 0x7F for byte in name)
        else name.decode("utf-8", "backslashreplace")
    )
