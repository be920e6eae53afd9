"""Forwards the kernel's log to the host: what PID 1, drivers and the OOM killer say (spec 4.12).

A record of ``/dev/kmsg`` is ``prio,seq,usec,flags[,…];text``, followed by lines that begin with a
space and name the device it is about; see ``Documentation/ABI/testing/dev-kmsg`` of the kernel.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)

DEVICE: Final = "/dev/kmsg"
#: Names of priorities, as the reference writes them.
PRIORITIES: Final = ("Emerg", "Alert", "Crit", "Err", "Warning", "Notice", "Info", "Debug")

# CONSOLE_EXT_LOG_MAX of the kernel; a read with less room than a record needs fails with EINVAL.
_RECORD_BYTES: Final = 8192
# Records forwarded in one go; more wait for the next turn of the loop.
_BATCH: Final = 64
# Device number of /dev/kmsg, of the "mem" family.
_KMSG_DEVICE: Final = os.makedev(1, 11)


class KernelRecord:
    """One record of the kernel's log.

    Attributes:
        priority: 0 (emergency) to 7 (debug).
        facility: 0 for the kernel itself, otherwise as in syslog(3).
        sequence: Number of the record; each has the next one.
        microseconds: Time since the boot.
        flags: ``-``, or ``c`` or ``+`` for the continuation of the line before.
        message: The text.
        about: Device the record is about, by the kernel's keys ``SUBSYSTEM`` and ``DEVICE``.
    """

    __slots__ = ("about", "facility", "flags", "message", "microseconds", "priority", "sequence")

    def __init__(self, record: bytes) -> None:
        """Parse a record as read from the device.

        Raises:
            ValueError: It has not the documented form.
        """
        prefix, separator, text = record.decode("utf-8", "backslashreplace").partition(";")
        fields = prefix.split(",")
        if not separator or len(fields) < 4:
            raise ValueError("no record of the kernel's log")
        number = int(fields[0])
        self.priority = number & 7
        self.facility = number >> 3
        self.sequence = int(fields[1])
        self.microseconds = int(fields[2])
        self.flags = fields[3]
        line, *dictionary = text.split("\n")
        self.message = _unescape(line).strip()
        self.about: dict[str, str] = {}
        for entry in dictionary:
            key, equals, value = entry.strip().partition("=")
            if equals:
                self.about[key] = _unescape(value)

    @property
    def continues(self) -> bool:
        """Whether this is a fragment, and belongs to the line before."""
        return self.flags in ("c", "+")


class KernelLog:
    """Forwards records on the running loop, from the first that the kernel still has.

    Args:
        priority: Least important priority to forward, 0 to 7.
        path: The device.
    """

    def __init__(self, priority: int, path: str = DEVICE) -> None:
        self._priority = priority
        self._path = path
        self._descriptor = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = -1
        # Held back until the next record, or until there is none, for fragments may follow.
        self._held: KernelRecord | None = None

    def start(self, loop: asyncio.AbstractEventLoop, log_descriptor: int) -> None:
        """Begin to forward; a device that can't be opened is logged, and that is all.

        Args:
            loop: The running loop.
            log_descriptor: Where log entries go.
        """
        if writes_to_kernel_log(log_descriptor):
            logger.warning("the kernel's log is not forwarded: the agent's own log goes there")
            return
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            logger.error("failed to open %s", self._path, extra={"error": error.strerror})
            return
        self._loop = loop
        loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Stop; what is held back is forwarded."""
        if self._loop is not None:
            self._flush()
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._loop = None

    def _read(self) -> None:
        if self._loop is None:
            return  # closed since this was called for
        for _ in range(_BATCH):
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                self._flush()
                return
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue  # overwritten before it was read: the next number shows how many
                logger.error("failed to read %s", self._path, extra={"error": error.strerror})
                self.close()
                return
            if not record:  # no device, but a file
                self.close()
                return
            self._take(record)
        # The device says only that there is more, and the last record may be held back.
        self._loop.call_soon(self._read)

    def _take(self, data: bytes) -> None:
        try:
            record = KernelRecord(data)
        except ValueError as error:
            line = data.decode("utf-8", "backslashreplace")
            logger.error("failed to parse kmsg entry", extra={"error": str(error), "line": line})
            return
        missing = record.sequence - self._next
        self._next, first = record.sequence + 1, self._next < 0
        if missing > 0 and not first:
            self._flush()
            logger.warning("%d kmsg entries were overwritten before they were read", missing)
        elif record.continues and self._held is not None:
            self._held.message += f" {record.message}"
            self._held.priority = min(self._held.priority, record.priority)
            return
        self._flush()
        self._held = record

    def _flush(self) -> None:
        record, self._held = self._held, None
        if record is None or record.priority > self._priority:
            return
        fields = {
            "priority": PRIORITIES[record.priority],
            "facility": record.facility,
            "seq": record.sequence,
            "timesincebootmicro": record.microseconds,
            "flags": record.flags,
            "message": record.message,
            **record.about,
        }
        logger.info("kmsg read", extra={"fields": fields})


def writes_to_kernel_log(descriptor: int) -> bool:
    """Tell whether what is written to a descriptor comes back as a record: a loop without end."""
    status = os.fstat(descriptor)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _KMSG_DEVICE


def _unescape(text: str) -> str:
    """Replace ``\\xNN``, by which the kernel writes bytes that are not printable ASCII."""
    if "\\x" not in text:
        return text
    head, *pieces = text.split("\\x")
    data = bytearray(head.encode())
    for piece in pieces:
        try:
            data += bytes.fromhex(piece[:2]) if len(piece) > 1 else b"\\x" + piece.encode()
            data += piece[2:].encode()
        except ValueError:
            data += b"\\x" + piece.encode()
    return data.decode("utf-8", "backslashreplace")
