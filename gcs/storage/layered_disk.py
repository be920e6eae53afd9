"""What comes between a disk and its file system: checks of a layer, encryption of a scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.protocol.errors import GcsError
from gcs.protocol.trace import span

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from gcs.protocol.settings import MappedVirtualDisk
    from gcs.storage.mapped_devices import MapperSystem


def is_verified(settings: MappedVirtualDisk) -> bool:
    """Whether the host named a root digest that the disk must have."""
    return settings.verity_info is not None and bool(settings.verity_info.root_digest)


def require_sensible(settings: MappedVirtualDisk, what: str) -> None:
    """Check what is asked for together.

    what: the disk and its path, for messages.

    Raises GcsError for what would leave an encrypted disk unencrypted, or without a file system.
    """
    if is_verified(settings) and not settings.read_only:
        raise GcsError(f"{what}: VerityInfo is for read-only disks; set ReadOnly")
    if not settings.encrypted:
        return
    if settings.read_only or settings.block_dev:
        raise GcsError(
            f"{what}: an encrypted disk is made anew with each Add and can be neither ReadOnly "
            "nor BlockDev; unset Encrypted"
        )
    if not settings.ensure_filesystem:
        raise GcsError(
            f"{what}: an encrypted disk holds no file system at first; set EnsureFilesystem "
            "and Filesystem"
        )


def map_device(
    system: MapperSystem,
    device: str,
    place: str,
    settings: MappedVirtualDisk,
    undo: ExitStack,
) -> tuple[str, list[str]]:
    """Make the mapped devices that a disk needs.

    place: where the disk is, as a part of names.
    undo: gets what removes them.

    Returns the device to use and the names of the mapped devices, in the order they were made.
    Raises GcsError and OSError; see `verity` and `crypt`.
    """
    if settings.encrypted:
        # The disk is going to lose what it holds.
        from gcs.storage import filesystem
        from gcs.storage.crypt import encrypt

        filesystem.require_formattable(settings.filesystem, device)
        return encrypt(system, device, f"dm-crypt-{place}", undo)
    if settings.verity_info is not None and settings.verity_info.root_digest:
        digest = settings.verity_info.root_digest
        node, name = make_verified(system, device, place, digest, undo)
        return node, [name]
    return device, []


def make_verified(
    system: MapperSystem, device: str, place: str, digest: str, undo: ExitStack
) -> tuple[str, str]:
    """Make a device that reads another one and checks it against a root digest.

    Returns its node and its name.  Raises GcsError when there is no such digest, and OSError.
    """
    from gcs.storage.mapped_devices import try_remove
    from gcs.storage.verity import read_tree, require_root, verity_target

    tree = read_tree(device)
    require_root(device, tree, digest)
    target = verity_target(device, tree)
    name = f"dm-verity-{place}-{tree.root_digest}"[:127]
    with span(
        "devicemapper::CreateVerityTarget",
        devicePath=device,
        sectorSize=target.sectors,
        verityTable=target.parameters,
    ):
        node = system.create(name, [target], read_only=True)
    undo.callback(try_remove, system, name)
    return node, name


def unmap_device(system: MapperSystem, mappings: Sequence[str]) -> None:
    """Remove the mapped devices of a disk, last first; those that are gone are fine.

    Raises OSError naming the device that is in use.
    """
    for name in reversed(mappings):
        system.remove(name)
