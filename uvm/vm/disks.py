"""Disk images for containers: read-only root file systems, and scratch disks to write on."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from uvm.errors import MissingFileError, UvmError
from uvm.image.disk import write_disk
from uvm.image.streams import damages_named, decompressed
from uvm.paths import cache_directory

#: Size of a scratch disk in MiB; the file is sparse.
SCRATCH_MIB: Final = 4096
#: Images that were not used for longest are dropped when there are more.
_KEPT_IMAGES: Final = 16
#: Part of the names of images in the cache; another one when they are made in another way.
CACHE_FORMAT: Final = "2"
#: Beginning of the names of directories in the cache that are being worked in.
WORK_PREFIX: Final = "new-"
_BLOCK: Final = 4096
_MIB: Final = 1 << 20
#: A real host's options for scratch disks (spec 2.6).
_SCRATCH_OPTIONS: Final = (
    *("-E", "lazy_itable_init=0,nodiscard"),
    *("-O", "^has_journal,sparse_super2,^resize_inode"),
)
_LAYER_OPTIONS: Final = ("-O", "^has_journal,^resize_inode", "-m", "0")


async def layer_image(source: Path) -> Path:
    """Return a read-only ext4 image of a root file system; made on first use.

    Args:
        source: A directory, or a tar archive (compressed or not).

    Raises:
        MissingFileError: There is no such file.
        UvmError: It is no archive, or the image can't be made.
    """
    return await asyncio.to_thread(_layer_image, source)


async def scratch_image(path: Path, size_mib: int = SCRATCH_MIB) -> Path:
    """Make an empty, formatted, sparse disk at a path, which is returned."""
    return await asyncio.to_thread(_scratch_image, path, size_mib)


def read_file(image: Path, name: str) -> str:
    """Return the text of a file inside an image; empty when there is none."""
    return debugfs(image, f"cat {name}").decode("utf-8", "replace")


def debugfs(image: Path, request: str) -> bytes:
    """Return what ``debugfs`` answers to a request about an image; empty when it fails."""
    return subprocess.run(
        ["debugfs", "-R", request, str(image)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    ).stdout


def _layer_image(source: Path) -> Path:
    with image_cache() as cache:
        return rootfs_image(cache, source)


def rootfs_image(cache: Path, source: Path) -> Path:
    """Return the image of a root file system; as :func:`layer_image`, with the cache locked."""
    if not source.exists():
        raise MissingFileError(f"{source} does not exist")
    image = rootfs_image_path(cache, source)
    if image.exists():
        os.utime(image)
        return image
    with tempfile.TemporaryDirectory(dir=cache, prefix=WORK_PREFIX) as work:
        fresh = Path(work) / "image"
        if source.is_dir():
            make_image(source, fresh)
        else:
            _convert(source, fresh)
        fresh.rename(image)
    _evict(cache)
    return image


def rootfs_image_path(cache: Path, source: Path) -> Path:
    """Return where the image of a root file system is, or would be."""
    key = _tree_key(source) if source.is_dir() else file_key(source)
    return cache / f"layer-{CACHE_FORMAT}-{key}.ext4"


def make_image(tree: Path, path: Path) -> None:
    """Make an ext4 image of a directory."""
    _make_ext4(path, _tree_size(tree), (*_LAYER_OPTIONS, "-d", str(tree)))


def _scratch_image(path: Path, size_mib: int) -> Path:
    with image_cache() as cache:
        blank = cache / f"scratch-{size_mib}.ext4"
        if not blank.exists():
            fresh = blank.with_suffix(".new")
            _make_ext4(fresh, size_mib * _MIB, _SCRATCH_OPTIONS)
            fresh.rename(blank)
    _run(["cp", "--sparse=always", "--reflink=auto", str(blank), str(path)])
    return path


@contextlib.contextmanager
def image_cache() -> Iterator[Path]:
    """Lock the image cache: two commands that need the same image make it once."""
    directory = cache_directory() / "images"
    directory.mkdir(exist_ok=True)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in directory.glob(f"{WORK_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield directory
    finally:
        os.close(lock)


def _evict(cache: Path) -> None:
    images = sorted(cache.glob("layer-*.ext4"), key=lambda path: path.stat().st_mtime_ns)
    for image in images[:-_KEPT_IMAGES]:
        image.unlink()


def _make_ext4(path: Path, size: int, options: Sequence[str]) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(-(-size // _MIB) * _MIB)
    _run(["mkfs.ext4", "-q", "-F", *options, str(path)])


def _convert(archive: Path, image: Path) -> None:
    what = str(archive)
    with archive.open("rb") as file, damages_named(what), decompressed(file) as stream:
        write_disk(stream, image, what, lambda: None, layer=False)


def _tree_key(root: Path) -> str:
    """Return a key that changes with the names, sizes, owners, modes and times in a tree."""
    digest = hashlib.sha256(os.fsencode(root.resolve()))
    for path, status in _walk(root):
        fields = (
            *(status.st_mode, status.st_uid, status.st_gid),
            *(status.st_size, status.st_mtime_ns, status.st_ctime_ns),
        )
        digest.update(os.fsencode(path) + repr(fields).encode())
    return digest.hexdigest()[:32]


def file_key(path: Path) -> str:
    """Return a key that changes when another file is put at a path, or it is written to."""
    status = path.stat()
    fields = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.sha256(repr(fields).encode()).hexdigest()[:32]


def _tree_size(root: Path) -> int:
    """Return a size in bytes that holds a tree with room to spare."""
    blocks = 0
    entries = 1
    for _, status in _walk(root):
        entries += 1
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            blocks += -(-status.st_size // _BLOCK) + 1
    # An inode for each entry (mkfs makes one per 16 KiB by default), bitmaps and tables.
    return max(blocks * _BLOCK * 5 // 4, entries * 16384) + 8 * _MIB


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    yield "", root.stat()
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            yield entry.path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))


def _run(command: Sequence[str]) -> None:
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
            check=False,
        )
    except FileNotFoundError:
        raise UvmError(f"{command[0]} is not installed") from None
    if result.returncode != 0:
        lines = result.stdout.decode("utf-8", "replace").strip().splitlines()
        raise UvmError(f"{command[0]} failed: {lines[-1] if lines else result.returncode}")
