"""Guest memory: what is inside, and that nothing else is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from uvm.vsock.memory import GuestMemory, GuestMemoryError, Region, RegionLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 4096


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def memory(file: int) -> GuestMemory:
    """Two regions with a hole between them."""
    return GuestMemory(
        [
            Region(RegionLayout(0x1000, 2 * PAGE, 0x7F0000, 0), file),
            Region(RegionLayout(0x9000, PAGE, 0x900000, 2 * PAGE), file),
        ]
    )


def test_views_are_the_file(memory: GuestMemory, file: int) -> None:
    memory.guest(0x1000 + 10, 3)[:] = b"abc"
    memory.guest(0x9000, 3)[:] = b"def"
    assert os.pread(file, 3, 10) == b"abc"
    assert os.pread(file, 3, 2 * PAGE) == b"def"
    assert bytes(memory.user(0x7F0000 + 10, 3)) == b"abc"
    assert bytes(memory.user(0x900000, 3)) == b"def"


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, 1),
        (0xFFF, 1),
        (0x3000, 1),
        (0x2FFF, 2),
        (0xA000, 1),
        (0x9FFF, 2),
        (0x1000, 2 * PAGE + 1),
        (2**64 - 1, 2),
    ],
)
def test_outside(memory: GuestMemory, address: int, length: int) -> None:
    with pytest.raises(GuestMemoryError, match=f"{address:#x}"):
        memory.guest(address, length)
    with pytest.raises(GuestMemoryError):
        memory.user(address, length)


def test_file_too_short(file: int) -> None:
    with pytest.raises(ValueError, match="greater than file size"):
        Region(RegionLayout(0, 8 * PAGE, 0, 0), file)


@pytest.mark.parametrize(("size", "offset"), [(0, 0), (PAGE, 100)])
def test_impossible_region(file: int, size: int, offset: int) -> None:
    with pytest.raises(ValueError, match="aligned"):
        Region(RegionLayout(0, size, 0, offset), file)
