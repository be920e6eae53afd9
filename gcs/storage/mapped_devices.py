"""Mapped devices with their nodes: made with patience, removed for good (spec 5.7)."""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack
from errno import EBUSY, ENODEV, ENOENT, ENXIO
from logging import getLogger
from typing import TYPE_CHECKING, Final

from gcs.linux.device_mapper import DIRECTORY, DeviceMapper
from gcs.protocol.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from gcs.linux.device_mapper import Target

    class MapperSystem(Protocol):
        """What `MappedDevices` does, and what a recording double pretends to do."""

        def create(
            self, name: str, targets: Sequence[Target], *, read_only: bool, secret: bool = False
        ) -> str:
            """See `MappedDevices.create`."""

        def remove(self, name: str) -> None:
            """See `MappedDevices.remove`."""


logger = getLogger(__name__)

#: How long to try to make a device whose parts may not be ready yet, in seconds.
CREATE_LIMIT: Final = 5.0
#: How long to wait for the last users of a device that is to be removed, in seconds.
BUSY_LIMIT: Final = 1.0
_CREATE_PAUSE: Final = 0.1
_BUSY_PAUSE: Final = 0.01
_NOT_READY: Final = (EBUSY, ENOENT, ENXIO, ENODEV)


class MappedDevices:
    """The kernel's mapped devices.

    directory: that holds the control device and the nodes.
    open_mapper: opens the control device in a directory.
    create_limit, busy_limit: seconds to go on trying.
    """

    def __init__(
        self,
        directory: str = DIRECTORY,
        *,
        open_mapper: Callable[[str], DeviceMapper] = DeviceMapper,
        create_limit: float = CREATE_LIMIT,
        busy_limit: float = BUSY_LIMIT,
    ) -> None:
        self._directory = directory
        self._open = open_mapper
        self._create_limit = create_limit
        self._busy_limit = busy_limit

    def create(
        self, name: str, targets: Sequence[Target], *, read_only: bool, secret: bool = False
    ) -> str:
        """Make a device and return its node.

        The kernel answers some errors while what the device is made of is just coming; those are
        tried again.

        name: at most 127 bytes.
        secret: there is a key among the parameters.

        Raises OSError naming the device; then there is none.
        """
        deadline = time.monotonic() + self._create_limit
        with self._open(self._directory) as mapper:
            while True:
                try:
                    return self._create(mapper, name, targets, read_only=read_only, secret=secret)
                except OSError as error:
                    if error.errno not in _NOT_READY or time.monotonic() >= deadline:
                        raise
                    logger.debug("make mapped device again: %s", error_text(error))
                time.sleep(_CREATE_PAUSE)

    def remove(self, name: str) -> None:
        """Remove a device and its node; one that is not there is fine.

        Raises OSError naming the device: EBUSY when it is still in use after a while.
        """
        deadline = time.monotonic() + self._busy_limit
        with self._open(self._directory) as mapper:
            while True:
                try:
                    mapper.remove(name)
                except OSError as error:
                    if error.errno == EBUSY and time.monotonic() < deadline:
                        time.sleep(_BUSY_PAUSE)
                        continue
                    if error.errno == EBUSY:
                        text = f"remove mapped device: in use, open {_openers(mapper, name)} times"
                        raise OSError(EBUSY, text, name) from None
                    if error.errno != ENXIO:
                        raise
                break
        _unlink(f"{self._directory}/{name}")

    def _create(
        self,
        mapper: DeviceMapper,
        name: str,
        targets: Sequence[Target],
        *,
        read_only: bool,
        secret: bool,
    ) -> str:
        with ExitStack() as undo:
            device = mapper.create(name)
            undo.callback(_try_remove, mapper, name)
            mapper.load(name, targets, read_only=read_only, secret=secret)
            mapper.resume(name)
            node = f"{self._directory}/{name}"
            _unlink(node)
            os.mknod(node, stat.S_IFBLK | 0o600, device)
            undo.pop_all()
        return node


def try_remove(system: MapperSystem, name: str) -> None:
    """Remove a device as part of undoing; a failure is logged, so that the undoing goes on."""
    try:
        system.remove(name)
    except OSError as error:
        logger.warning("undo: %s", error_text(error))


def _try_remove(mapper: DeviceMapper, name: str) -> None:
    try:
        mapper.remove(name)
    except OSError as error:
        logger.warning("undo: %s", error_text(error))


def _openers(mapper: DeviceMapper, name: str) -> str:
    try:
        return str(mapper.status(name).openers)
    except OSError:
        return "an unknown number of"


def _unlink(node: str) -> None:
    try:
        os.unlink(node)
    except FileNotFoundError:
        return
