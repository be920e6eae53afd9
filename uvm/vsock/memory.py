"""The guest's memory, as QEMU shares it: regions of memory files, mapped here."""

from __future__ import annotations

import mmap
from typing import Final, NamedTuple


class GuestMemoryError(Exception):
    """An address, or an address with its length, that lies outside of every shared region."""


class RegionLayout(NamedTuple):
    """Where a region stands. ``user_address`` is the address in QEMU's own address space, which
    QEMU uses for the rings; the guest's descriptors hold guest addresses. Sizes in bytes."""

    guest_address: int
    size: int
    user_address: int
    file_offset: int


class Region:
    """One mapped region."""

    __slots__ = ("guest_address", "layout", "size", "user_address", "view")

    def __init__(self, layout: RegionLayout, fd: int) -> None:
        """Map ``fd``; the descriptor stays the caller's.

        Raises ValueError when the file is shorter than the layout says, OSError when it cannot
        be mapped.
        """
        if layout.size == 0 or layout.file_offset % mmap.ALLOCATIONGRANULARITY:
            raise ValueError(f"memory region {layout} is empty or not aligned to a page")
        mapping = mmap.mmap(
            fd,
            layout.size,
            flags=mmap.MAP_SHARED,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=layout.file_offset,
        )
        self.layout: Final = layout
        self.guest_address: Final = layout.guest_address
        self.user_address: Final = layout.user_address
        self.size: Final = layout.size
        # The view keeps the mapping alive, and views handed out keep it alive after a new memory
        # table: what was read into them is in the shared file, whoever maps it.
        self.view: Final = memoryview(mapping)


class GuestMemory:
    """All regions of one memory table."""

    __slots__ = ("_last", "regions")

    def __init__(self, regions: list[Region]) -> None:
        self.regions: Final = regions
        self._last = regions[0] if regions else None

    def guest(self, address: int, length: int) -> memoryview:
        """The ``length`` bytes at a guest address.

        Raises GuestMemoryError when they are not all within one region.
        """
        region = self._last
        if region is not None:
            offset = address - region.guest_address
            if offset >= 0 and offset + length <= region.size:
                return region.view[offset : offset + length]
        for region in self.regions:
            offset = address - region.guest_address
            if offset >= 0 and offset + length <= region.size:
                self._last = region
                return region.view[offset : offset + length]
        raise GuestMemoryError(f"guest address {address:#x}, {length} bytes, is not shared memory")

    def user(self, address: int, length: int) -> memoryview:
        """The ``length`` bytes at an address of QEMU's. Raises GuestMemoryError as `guest`."""
        for region in self.regions:
            offset = address - region.user_address
            if offset >= 0 and offset + length <= region.size:
                return region.view[offset : offset + length]
        raise GuestMemoryError(f"QEMU address {address:#x}, {length} bytes, is not shared memory")
