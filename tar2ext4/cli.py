"""The command `tar2ext4`, with the flags of the reference's and some more."""

from __future__ import annotations

import argparse
import signal
import sys
import uuid
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from tar2ext4.convert import convert, only_append_vhd_footer, root_digest
from tar2ext4.errors import Tar2Ext4Error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class _Parser(argparse.ArgumentParser):
    """Ends with the reference's exit status when the command line is wrong."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        # A flag has one dash or two, and a name: `-overlays` is no `-o verlays`.
        return []


def _size(text: str) -> int:
    number, suffix = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdigit() or suffix not in _SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 65536, 512M or 16G")
    return int(number) * _SUFFIXES[suffix]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tar2ext4",
        description="Write an ext4 image with the files of a tar archive.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-i", "--i", dest="input", metavar="FILE", help="archive (default, and -: standard input)")
    add("-o", "--o", dest="output", metavar="FILE", help="image to write")
    flags = {
        "overlay": "make whiteouts of OCI layers those of overlayfs",
        "convert-slash": r"take '\' in names for '/'",
        "vhd": "append the footer of a fixed VHD",
        "only-vhd": "copy an image as it is, and append the footer; other options are ignored",
        "inline": "keep small files in their inodes; not for use with DAX",
        "verity": "append a dm-verity hash tree, and print its root digest",
        "digest": "write no image; print the root digest a security policy has for the layer",
    }
    for name, text in flags.items():
        add(f"-{name}", f"--{name}", action="store_true", help=text)
    add(
        "-max-size", "--max-size", type=_size, metavar="SIZE",
        help="limit of the image, with suffix K, M, G or T (default: 16G)",
    )  # fmt: skip
    for name in ("vhd-uuid", "verity-uuid"):
        add(
            f"-{name}", f"--{name}", type=uuid.UUID, metavar="UUID",
            help="instead of a random one, for images that are the same each time",
        )  # fmt: skip
    return parser


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    # As an exception, so that no half-written file stays.
    raise KeyboardInterrupt


def _run(options: argparse.Namespace, source: str | BinaryIO) -> None:
    if options.digest:
        print(root_digest(source))
    elif options.only_vhd:
        only_append_vhd_footer(source, options.output, vhd_uuid=options.vhd_uuid)
    else:
        result = convert(
            source,
            options.output,
            convert_whiteout=options.overlay,
            convert_backslash=options.convert_slash,
            inline_data=options.inline,
            append_dm_verity=options.verity,
            append_vhd_footer=options.vhd,
            maximum_disk_size=options.max_size,
            verity_uuid=options.verity_uuid,
            vhd_uuid=options.vhd_uuid,
        )
        if result.root_digest is not None:
            print(result.root_digest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output is None and not options.digest:
        parser.error("-o is required")
    if options.output == "-":
        parser.error("-o -: an image is not written in one go, and cannot go to standard output")
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        if options.input not in (None, "", "-"):
            _run(options, options.input)
        else:
            with open(0, "rb", buffering=1 << 20, closefd=False) as source:
                _run(options, source)
                # Whoever writes the archive may go on with padding: let it finish.
                while source.read(1 << 20):
                    pass
    except Tar2Ext4Error as error:
        print(f"tar2ext4: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tar2ext4: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0
