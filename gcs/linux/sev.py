"""Attestation reports of a machine protected by SEV-SNP, by the ioctls of its device (spec 9.8).

Reports have the form of "SEV Secure Nested Paging Firmware ABI Specification", AMD document 56860,
ATTESTATION_REPORT. Kernels of series 5 have `/dev/sev`, later ones `/dev/sev-guest`
(linux/sev-guest.h).
"""

from __future__ import annotations

import ctypes
import os
from fcntl import ioctl as kernel_ioctl
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Most bytes that a report can carry for who asks.
REPORT_DATA_SIZE: Final = 64
#: Bytes of a report.
REPORT_SIZE: Final = 1184

_DEVICE: Final = "/dev/sev-guest"
_OLD_DEVICE: Final = "/dev/sev"
_GET_REPORT: Final = 0xC0205300
_OLD_GET_REPORT: Final = 0xC0285301
_REPORT_REQUEST, _REPORT_RESPONSE = 5, 6
_VERSION: Final = 1

# data, privilege level of the virtual machine, reserved
_REQUEST: Final = Struct("<64sI28x")
# status, size, reserved; the report follows
_RESPONSE: Final = Struct("<II24x")
_RESPONSE_ROOM: Final = 4000
_OLD_RESPONSE_ROOM: Final = 1280
# version, and addresses of request and response; the firmware's error
_ARGUMENT: Final = Struct("@BQQQ")
# types of request and response, version; length and address of each; the firmware's error
_OLD_ARGUMENT: Final = Struct("@BBBHQHQI4x")


class ReportError(Exception):
    """There is no report to be had; the text says why."""


def fetch_report(
    data: bytes = b"",
    *,
    directory: str = "/dev",
    ioctl: Callable[[int, int, bytearray], int] = kernel_ioctl,
) -> bytes:
    """Return a report, 1184 bytes, signed by the processor.

    data: at most 64 bytes that become part of it, filled up with zeros.
    directory: of the devices.
    ioctl: `fcntl.ioctl`, or what stands for it.

    Raises ReportError: data is too long, the machine is not protected, or the firmware refuses.
    """
    if len(data) > REPORT_DATA_SIZE:
        raise ReportError(f"report data of {len(data)} bytes: at most {REPORT_DATA_SIZE} fit")
    old = f"{directory}/{os.path.basename(_OLD_DEVICE)}"
    path = old if os.path.exists(old) else f"{directory}/{os.path.basename(_DEVICE)}"
    request = ctypes.create_string_buffer(_REQUEST.pack(data, 0), _REQUEST.size)
    room = _OLD_RESPONSE_ROOM if path == old else _RESPONSE_ROOM
    response = ctypes.create_string_buffer(room)
    addresses = ctypes.addressof(request), ctypes.addressof(response)
    if path == old:
        code = _OLD_GET_REPORT
        argument = _OLD_ARGUMENT.pack(
            *(_REPORT_REQUEST, _REPORT_RESPONSE, _VERSION),
            *(_REQUEST.size, addresses[0], room, addresses[1], 0),
        )
    else:
        code = _GET_REPORT
        argument = _ARGUMENT.pack(_VERSION, *addresses, 0)
    buffer = bytearray(argument)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ReportError(
            f"neither {old} nor {path} exists: the machine is not protected by SEV-SNP"
        ) from None
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from error
    try:
        ioctl(descriptor, code, buffer)
    except OSError as error:
        firmware = _OLD_ARGUMENT.unpack(buffer)[-1] if path == old else _ARGUMENT.unpack(buffer)[-1]
        raise ReportError(f"{path}: {error.strerror}; firmware error {firmware:#x}") from error
    finally:
        os.close(descriptor)
    status, size = _RESPONSE.unpack_from(response)
    if status or size < REPORT_SIZE:
        raise ReportError(f"{path}: report refused: status {status:#x}, {size} bytes")
    return response.raw[_RESPONSE.size : _RESPONSE.size + REPORT_SIZE]


# Name, where it begins, how long it is, and how it is read: a number, bytes, or bytes of which the
# last comes first.
_FIELDS: Final = (
    ("Version", 0, 4, "number"),
    ("GuestSVN", 4, 4, "number"),
    ("Policy", 8, 8, "number"),
    ("FamilyID", 16, 16, "mirrored"),
    ("ImageID", 32, 16, "mirrored"),
    ("VMPL", 48, 4, "number"),
    ("SignatureAlgo", 52, 4, "number"),
    ("PlatformVersion", 56, 8, "number"),
    ("PlatformInfo", 64, 8, "number"),
    ("AuthorKeyEn", 72, 4, "number"),
    ("ReportData", 80, 64, "bytes"),
    ("Measurement", 144, 48, "bytes"),
    ("HostData", 192, 32, "bytes"),
    ("IDKeyDigest", 224, 48, "bytes"),
    ("AuthorKeyDigest", 272, 48, "bytes"),
    ("ReportID", 320, 32, "bytes"),
    ("ReportIDMA", 352, 32, "bytes"),
    ("ReportTCB", 384, 8, "number"),
    ("ChipID", 416, 64, "bytes"),
    ("CommittedSVN", 480, 8, "bytes"),
    ("CommittedVersion", 488, 8, "bytes"),
    ("LaunchSVN", 496, 8, "bytes"),
    ("Signature", 672, 512, "bytes"),
)


def describe_report(report: bytes) -> dict[str, str]:
    """Return the fields of a report by name, in their order, hexadecimal.

    Raises ReportError when it is too short.
    """
    if len(report) < REPORT_SIZE:
        raise ReportError(f"a report has {REPORT_SIZE} bytes, not {len(report)}")
    texts = {}
    for name, start, length, kind in _FIELDS:
        value = report[start : start + length]
        # Numbers are little endian.
        texts[name] = (value if kind == "bytes" else value[::-1]).hex()
    return texts
