"""The ioctls of the device mapper: bytes as the kernel's header files say (spec 5.7)."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from gcs.linux import device_mapper
from gcs.linux.device_mapper import DeviceMapper, Target, decode_table, encode, operation_code
from tests.support.mapper import HEADER_BYTES, FakeKernel

if TYPE_CHECKING:
    from pathlib import Path


def test_numbers_of_ioctls() -> None:
    # _IOWR(0xfd, n, struct dm_ioctl)
    assert operation_code(device_mapper.DM_VERSION) == 0xC138FD00
    assert operation_code(device_mapper.DM_TABLE_LOAD) == 0xC138FD09


def test_a_header() -> None:
    buffer = encode("dm-x", flags=1)
    assert len(buffer) == HEADER_BYTES
    assert buffer[:12] == bytes.fromhex("04000000 00000000 00000000")
    assert buffer[12:20] == bytes.fromhex("38010000 38010000")  # its size, and start of the data
    assert buffer[20:28] == bytes(8)
    assert buffer[28:32] == bytes.fromhex("01000000")
    assert buffer[48:52] == b"dm-x"
    assert not any(buffer[52:])


def test_a_table() -> None:
    targets = [Target("linear", 16, "/dev/pmem0 8"), Target("verity", 8, "1 x", start=16)]
    body = encode("n", targets=targets)[HEADER_BYTES:]
    first = struct.pack("=QQiI16s", 0, 16, 0, 56, b"linear") + b"/dev/pmem0 8\0\0\0\0"
    second = struct.pack("=QQiI16s", 16, 8, 0, 48, b"verity") + b"1 x\0\0\0\0\0"
    assert bytes(body) == first + second


@given(
    st.lists(
        st.builds(
            Target,
            st.sampled_from(["linear", "crypt", "verity"]),
            st.integers(0, 2**63),
            st.text(st.characters(min_codepoint=1, max_codepoint=126)),
            st.integers(0, 2**63),
        ),
        max_size=5,
    )
)
def test_each_target_is_found_again(targets: list[Target]) -> None:
    buffer = encode("n", targets=targets)
    # The kernel answers with distances from the first target instead of the one before.
    offset = HEADER_BYTES
    for _ in targets:
        size = struct.unpack_from("=I", buffer, offset + 20)[0]
        assert size % 8 == 0
        struct.pack_into("=I", buffer, offset + 20, offset + size - HEADER_BYTES)
        offset += size
    assert decode_table(buffer) == targets
    assert offset == len(buffer)


@pytest.mark.parametrize("name", ["x" * 128, "a/b", "a\0b"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        encode(name)


def test_parameters_with_a_zero_byte() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        encode("n", targets=[Target("linear", 1, "a\0b")])


def test_answers_that_do_not_fit() -> None:
    short = encode("n", targets=[Target("linear", 1, "x")])[: HEADER_BYTES + 20]
    with pytest.raises(ValueError, match="ends within a target"):
        decode_table(short)
    with pytest.raises(ValueError, match="too long"):
        decode_table(encode("n", flags=device_mapper.DM_BUFFER_FULL_FLAG))


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path / "mapper")


@pytest.fixture
def mapper(kernel: FakeKernel, tmp_path: Path) -> DeviceMapper:
    return DeviceMapper(str(tmp_path / "mapper"), ioctl=kernel)


def test_the_life_of_a_device(kernel: FakeKernel, mapper: DeviceMapper) -> None:
    with mapper:
        assert mapper.version() == (4, 47, 0)
        number = mapper.create("d")
        assert (os.major(number), os.minor(number)) == (253, 7)
        target = Target("linear", 8, "/dev/x 0")
        mapper.load("d", [target], read_only=True)
        assert kernel.flags[-1] == device_mapper.DM_READONLY_FLAG
        mapper.suspend("d")
        mapper.resume("d")
        assert mapper.table("d") == [target]
        assert mapper.status("d").openers == 3
        mapper.remove("d", deferred=True)
        assert kernel.flags[-1] == device_mapper.DM_DEFERRED_REMOVE
        assert kernel.operations == [0, 3, 9, 6, 6, 12, 7, 4]
        with pytest.raises(OSError, match="remove device: No such device or address: 'd'"):
            mapper.remove("d")


def test_a_key_is_wiped_from_the_buffer(kernel: FakeKernel, mapper: DeviceMapper) -> None:
    seen: list[bytearray] = []
    original = kernel.__call__

    def watch(descriptor: int, code: int, buffer: bytearray) -> int:
        seen.append(buffer)
        return original(descriptor, code, buffer)

    with mapper:
        mapper._ioctl = watch
        mapper.create("d")
        mapper.load("d", [Target("crypt", 8, "00ff")], read_only=False, secret=True)
    assert kernel.flags[-1] == device_mapper.DM_SECURE_DATA_FLAG
    assert not any(seen[-1])


def test_a_kernel_without_device_mapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A number that no misc device has.
    monkeypatch.setattr(device_mapper, "_CONTROL_DEVICE", os.makedev(10, 254))
    directory = tmp_path / "mapper"
    with pytest.raises(OSError, match="the kernel has no device mapper") as caught:
        DeviceMapper(str(directory))
    assert caught.value.errno in (errno.ENODEV, errno.ENXIO)
    assert not (directory / "control").exists()
