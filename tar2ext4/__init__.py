"""Tar archives to ext4 images, byte by byte those of hcsshim's `tar2ext4`.

`convert` does it; `root_digest` says what a security policy calls a layer. `verity` and `vhd` have
hash trees and VHD footers for images from elsewhere.
"""

from tar2ext4.convert import Result, convert, only_append_vhd_footer, root_digest
from tar2ext4.errors import (
    ArchiveError,
    EntryError,
    ImageFormatError,
    ImageTooLargeError,
    OutputError,
    Tar2Ext4Error,
)

__all__ = [
    "ArchiveError",
    "EntryError",
    "ImageFormatError",
    "ImageTooLargeError",
    "OutputError",
    "Result",
    "Tar2Ext4Error",
    "convert",
    "only_append_vhd_footer",
    "root_digest",
]
