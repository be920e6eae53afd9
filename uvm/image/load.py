"""Root file systems of containers, from whatever a person names: disks, lowest layer last."""

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gcs.protocol.decode import looked_at
from uvm.errors import MissingFileError, UvmError
from uvm.image.disk import write_disk
from uvm.image.documents import ProcessConfig
from uvm.image.resolve import Image, LayerFile, find_image
from uvm.image.store import Store, open_store
from uvm.image.streams import (
    Check,
    HashingReader,
    damages_named,
    decompressed,
    split_digest,
)
from uvm.vm.disks import (
    CACHE_FORMAT,
    WORK_PREFIX,
    file_key,
    image_cache,
    rootfs_image,
    rootfs_image_path,
)

#: Layers that were not used for longest are dropped when all of them take more bytes.
_KEPT_BYTES: Final = 8 << 30
#: Notes about archives that are kept.
_KEPT_NOTES: Final = 256
_BLOCK: Final = 512


@dataclass(frozen=True)
class RootFileSystem:
    """What a container starts from.

    Attributes:
        layers: Read-only ext4 images, top-most first.
        config: How the image wants to be run; ``None``: it is a plain root file system.
    """

    layers: tuple[Path, ...]
    config: ProcessConfig | None = None


class _Note(msgspec.Struct):
    """What is known about an archive that was read before."""

    config: ProcessConfig
    layers: list[str]


class _StoppedError(UvmError):
    """Nobody waits for the work any more."""


def split_source(text: str) -> tuple[Path, str | None]:
    """Return the file that a person means, and the name of an image in it: ``FILE[#NAME]``."""
    path = Path(text)
    if "#" in text and not path.exists():
        file, _, reference = text.rpartition("#")
        return Path(file), reference or None
    return path, None


async def load_root(
    source: Path, reference: str | None, say: Callable[[str], None]
) -> RootFileSystem:
    """Return the disks of a root file system, made on first use.

    Args:
        source: A directory or tar archive (compressed or not) with a root file system; an OCI
            layout directory; an archive of ``docker save`` or of an OCI layout.
        reference: Which image of an archive with several.
        say: Called with each step, from another thread.

    Raises:
        MissingFileError: There is no such file.
        UvmError: It is damaged, not for this machine, or the images can't be made; nothing is left.
    """
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise _StoppedError("given up")

    try:
        return await asyncio.to_thread(_load_root, source, reference, say, check)
    finally:
        stop.set()


def _load_root(
    source: Path, reference: str | None, say: Callable[[str], None], check: Check
) -> RootFileSystem:
    if not source.exists():
        raise MissingFileError(f"{source} does not exist")
    with image_cache() as cache:
        known = _known(cache, source, reference)
        if known is not None:
            return known
        with tempfile.TemporaryDirectory(dir=cache, prefix=WORK_PREFIX) as work:
            store = open_store(source, Path(work), check)
            if store is not None:
                with contextlib.closing(store):
                    return _from_store(cache, store, source, reference, say, check)
        if reference is not None:
            raise UvmError(f"{source} is no archive of images: leave #{reference} out")
        return RootFileSystem((rootfs_image(cache, source),))


def _from_store(
    cache: Path,
    store: Store,
    source: Path,
    reference: str | None,
    say: Callable[[str], None],
    check: Check,
) -> RootFileSystem:
    image = find_image(store, reference)
    paths = [_layer_path(cache, layer.diff_id) for layer in image.layers]
    for number, (layer, path) in enumerate(zip(image.layers, paths, strict=True), 1):
        if path.exists():
            os.utime(path)
            continue
        say(f"preparing layer {number} of {len(paths)}")
        _build(store, layer, path, check)
    if source.is_file():
        _take_note(cache, source, reference, image)
    _evict(cache, set(paths))
    return RootFileSystem(_top_most_first(paths), image.config)


def _top_most_first(paths: list[Path]) -> tuple[Path, ...]:
    """Return layers in overlayfs's order. One that is there twice counts once, where it is highest.

    overlayfs refuses the same directory twice; what the lower one has, the higher one has, too.
    """
    return tuple(dict.fromkeys(reversed(paths)))


def _build(store: Store, layer: LayerFile, path: Path, check: Check) -> None:
    what = f"{store.label}: layer {layer.digest or layer.name}"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=WORK_PREFIX) as work:
        fresh = Path(work) / "image"
        with (
            store.open(layer.name) as file,
            HashingReader(file, layer.digest, what, check) as packed,
            damages_named(what),
            decompressed(packed) as stream,
            HashingReader(stream, layer.diff_id, what, check) as plain,
        ):
            write_disk(plain, fresh, what, check, layer=True)
            plain.finish()
            packed.finish()
        fresh.rename(path)


def _known(cache: Path, source: Path, reference: str | None) -> RootFileSystem | None:
    """Return what is in the cache for a file, without reading it."""
    if source.is_dir():
        return None
    image = rootfs_image_path(cache, source)
    if reference is None and image.exists():
        os.utime(image)
        return RootFileSystem((image,))
    path = _note_path(cache, source, reference)
    try:
        note = msgspec.json.decode(path.read_bytes(), type=looked_at(_Note))
    except FileNotFoundError:
        return None
    layers = [cache / name for name in note.layers]
    if not all(layer.exists() for layer in layers):
        return None
    for used in (path, *layers):
        os.utime(used)
    return RootFileSystem(tuple(layers), note.config)


def _take_note(cache: Path, source: Path, reference: str | None, image: Image) -> None:
    paths = [_layer_path(cache, layer.diff_id) for layer in image.layers]
    names = [layer.name for layer in _top_most_first(paths)]
    path = _note_path(cache, source, reference)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(_Note(image.config, names)))
    fresh.rename(path)


def _note_path(cache: Path, source: Path, reference: str | None) -> Path:
    name = (reference or "").encode().hex()[-160:]
    return cache / f"image-{CACHE_FORMAT}-{file_key(source)}-{name}.json"


def _layer_path(cache: Path, diff_id: str) -> Path:
    algorithm, digits = split_digest(diff_id, "the image")
    return cache / f"{algorithm}-{digits}-{CACHE_FORMAT}.ext4"


def _evict(cache: Path, used: set[Path]) -> None:
    """Drop what was not used for longest; never what is used now."""
    layers = sorted(
        ((path.stat(), path) for path in cache.glob("sha*.ext4") if path not in used),
        key=lambda entry: entry[0].st_mtime_ns,
        reverse=True,
    )
    total = sum(path.stat().st_blocks * _BLOCK for path in used)
    for status, path in layers:
        total += status.st_blocks * _BLOCK
        if total > _KEPT_BYTES:
            path.unlink()
    notes = sorted(cache.glob("image-*.json"), key=lambda path: path.stat().st_mtime_ns)
    for note in notes[:-_KEPT_NOTES]:
        note.unlink()
