"""Attestation reports: what the kernel is asked, and what is made of its answer."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

import pytest

from gcs.linux.sev import REPORT_SIZE, ReportError, describe_report, fetch_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPORT = bytes(index % 251 for index in range(REPORT_SIZE))


def firmware(
    request_at: int, response_at: int, *, status: int = 0, asked: list[bytes]
) -> Callable[[int, int, bytearray], int]:
    """Answer an ioctl with REPORT; the offsets are those of the addresses in its argument."""

    def answer(_descriptor: int, code: int, argument: bytearray) -> int:
        (request,) = struct.unpack_from("<Q", argument, request_at)
        (response,) = struct.unpack_from("<Q", argument, response_at)
        asked.append(code.to_bytes(4, "little") + ctypes.string_at(request, 96))
        assert len(argument) == code >> 16 & 0x3FFF
        data = struct.pack("<II24x", status, REPORT_SIZE) + REPORT
        ctypes.memmove(response, data, len(data))
        return 0

    return answer


@pytest.mark.parametrize(
    ("device", "code", "request_at", "response_at"),
    [("sev-guest", 3223343872, 8, 16), ("sev", 3223868161, 8, 24)],
)
def test_a_report(
    tmp_path: Path, device: str, code: int, request_at: int, response_at: int
) -> None:
    (tmp_path / device).touch()
    asked: list[bytes] = []
    ioctl = firmware(request_at, response_at, asked=asked)
    assert fetch_report(b"mine", directory=str(tmp_path), ioctl=ioctl) == REPORT
    assert asked == [code.to_bytes(4, "little") + b"mine".ljust(96, b"\0")]


def test_a_report_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sev-guest").touch()
    with pytest.raises(ReportError, match="status 0x16"):
        fetch_report(directory=str(tmp_path), ioctl=firmware(8, 16, status=0x16, asked=[]))

    def fail(_descriptor: int, _code: int, argument: bytearray) -> int:
        struct.pack_into("<Q", argument, 24, 0x1B)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(ReportError, match="Input/output error; firmware error 0x1b"):
        fetch_report(directory=str(tmp_path), ioctl=fail)


def test_a_machine_without_the_device(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="not protected"):
        fetch_report(directory=str(tmp_path))
    with pytest.raises(ReportError, match="65 bytes: at most 64"):
        fetch_report(bytes(65), directory=str(tmp_path))


def test_the_fields_of_a_report() -> None:
    fields = describe_report(REPORT)
    assert fields["Version"] == "03020100"
    assert fields["FamilyID"] == REPORT[16:32][::-1].hex()
    assert fields["ReportData"] == REPORT[80:144].hex()
    assert fields["Measurement"] == REPORT[144:192].hex()
    assert fields["HostData"] == REPORT[192:224].hex()
    assert fields["ChipID"] == REPORT[416:480].hex()
    assert fields["Signature"] == REPORT[672:].hex()
    with pytest.raises(ReportError, match="1184"):
        describe_report(b"")
