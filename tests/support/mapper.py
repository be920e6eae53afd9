"""Doubles of the device mapper: one that records what drivers ask for, one of the kernel's half."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcs.linux.device_mapper import Target

HEADER_BYTES = 312


class RecordingMapper:
    """Pretends to make mapped devices: the node of one is a link to what its first target names."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.calls: list[tuple[str, str]] = []
        #: Name → targets of the devices that are there, in the order in which they were made.
        self.devices: dict[str, list[Target]] = {}
        #: The same of all that were ever made.
        self.made: dict[str, list[Target]] = {}
        #: Name → number of the error of making it.
        self.failures: dict[str, int] = {}
        #: Names of devices that are in use.
        self.busy: set[str] = set()

    def create(
        self, name: str, targets: Sequence[Target], *, read_only: bool, secret: bool = False
    ) -> str:
        kind = targets[0].kind
        flags = " ro" * read_only + " secret" * secret
        self.calls.append(("create", f"{name} {kind}{flags}"))
        if name in self.failures:
            number = self.failures[name]
            raise OSError(number, f"device mapper: {os.strerror(number)}", name)
        assert name not in self.devices
        self.devices[name] = self.made[name] = list(targets)
        node = self.directory / name
        below = next(word for word in targets[0].parameters.split() if word.startswith("/"))
        node.symlink_to(below)
        if kind == "integrity" and Path(below).read_bytes()[:8] != b"integrt\0":
            # As the kernel does with a device that begins with zeroes.
            assert Path(below).read_bytes()[:4096] == bytes(4096)
            sectors = os.path.getsize(below) // 512 // 2
            with open(below, "r+b") as file:
                file.write(struct.pack("<8sBBHIQ", b"integrt\0", 1, 15, 32, 1, sectors))
        return str(node)

    def remove(self, name: str) -> None:
        self.calls.append(("remove", name))
        if name in self.busy:
            raise OSError(errno.EBUSY, "remove mapped device: in use, open 1 times", name)
        if self.devices.pop(name, None) is not None:
            (self.directory / name).unlink()


class FakeKernel:
    """Answers ioctls as the kernel does, from a table of devices."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "control").touch()
        self.operations: list[int] = []
        #: Name → table that is in use.
        self.tables: dict[str, bytes] = {}
        self._loaded: dict[str, bytes] = {}
        #: Numbers of errors that the next calls of an operation end with.
        self.failures: dict[int, list[int]] = {}
        self.flags: list[int] = []

    def __call__(self, descriptor: int, code: int, buffer: bytearray) -> int:
        os.fstat(descriptor)
        assert code >> 8 == 0xC138FD
        operation = code & 0xFF
        self.operations.append(operation)
        assert struct.unpack_from("=3I", buffer) == (4, 0, 0)
        size, start, _, _, flags = struct.unpack_from("=3IiI", buffer, 12)
        assert size == len(buffer)
        self.flags.append(flags)
        name = bytes(buffer[48:176]).partition(b"\0")[0].decode()
        if self.failures.get(operation):
            number = self.failures[operation].pop(0)
            raise OSError(number, os.strerror(number))
        self._answer(operation, name, buffer, start, flags)
        return 0

    def _answer(self, operation: int, name: str, buffer: bytearray, start: int, flags: int) -> None:
        if operation == 0:
            struct.pack_into("=3I", buffer, 0, 4, 47, 0)
        elif operation == 3:
            if name in self.tables:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self.tables[name] = b""
            struct.pack_into("=Q", buffer, 40, os.makedev(253, 7))
        elif name not in self.tables:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        elif operation in (7, 12):
            table = self.tables[name] if operation == 12 else b""
            buffer[start : start + len(table)] = table
            struct.pack_into("=Ii", buffer, 20, 1, 3)
        else:
            self._change(operation, name, bytes(buffer[start:]), flags)

    def _change(self, operation: int, name: str, table: bytes, flags: int) -> None:
        if operation == 4:
            del self.tables[name]
        elif operation == 6 and not flags & 2:
            self.tables[name] = self._loaded[name]
        elif operation == 9:
            self._loaded[name] = table
