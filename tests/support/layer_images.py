"""Images of layers of each kind, made by the programs that everybody uses."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.support.storage import MIB, blank

if TYPE_CHECKING:
    from pathlib import Path

#: What NVDIMMs come in multiples of, under QEMU on x86.
PMEM_ALIGNMENT = 2 * MIB
#: mkfs.xfs refuses smaller ones.
XFS_BYTES = 300 * MIB
SALT = "5a" * 32


def make_layer(
    path: Path, kind: str, files: dict[str, str], *, size: int = 4 * MIB, block_size: int = 4096
) -> Path:
    """An image with a file system that holds some files; "xfs" holds none.

    block_size: of an ext4 file system, in bytes.
    """
    content = path.with_suffix(".d")
    content.mkdir()
    for name, text in files.items():
        (content / name).write_text(text)
    if kind == "ext4":
        blank(path, size)
        # As the host's tool makes layers: blocks of a page, no journal.
        options = ("-b", str(block_size), "-O", "^has_journal")
        run("mkfs.ext4", "-q", *options, "-d", content, path)
    elif kind == "erofs":
        run("mkfs.erofs", path, content)
    elif kind == "squashfs":
        run("mksquashfs", content, path, "-quiet", "-no-progress")
    else:
        assert kind == "xfs"
        assert not files
        blank(path, XFS_BYTES)
        run("mkfs.xfs", "-q", path)
    return path


def make_verified(path: Path, kind: str, files: dict[str, str], *, size: int = 4 * MIB) -> str:
    """An image with the hashes of dm-verity behind its file system; the result is its root."""
    make_layer(path, kind, files, size=size)
    return add_hashes(path)


def add_hashes(path: Path) -> str:
    """Append superblock and hashes to an image; the result is the root digest."""
    with path.open("r+b") as file:
        size = (file.seek(0, 2) + 4095) // 4096 * 4096
        file.truncate(size)
    options = ["--hash-offset", str(size), "--data-blocks", str(size // 4096), "--salt", SALT]
    report = run("veritysetup", "format", *options, path, path)
    return next(line for line in report.splitlines() if "Root hash" in line).split()[-1]


def pad(path: Path, alignment: int) -> Path:
    """Make the size of an image a multiple of something."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.truncate((size + alignment - 1) // alignment * alignment)
    return path


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    """Replace some bytes of an image, wherever they are."""
    data = path.read_bytes()
    assert old in data
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def run(*command: str | Path) -> str:
    """Run a program that has to succeed; the result is its output."""
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout
