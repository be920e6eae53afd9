"""Resource type → driver, and the rules for requests that change resources (spec 3.1)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final

from gcs.protocol.decode import convert
from gcs.protocol.errors import GcsError, InvalidJsonError
from gcs.protocol.settings import ADD, REMOVE, SETTINGS, UPDATE
from gcs.storage.driver import ResourceDriver, unsupported_request

if TYPE_CHECKING:
    from gcs.protocol.requests import ModificationRequest

#: The one resource of a container; all others belong to the VM.
CONTAINER_CONSTRAINTS: Final = "ContainerConstraints"


class UnavailableDriver(ResourceDriver[Any]):
    """Answers for a resource that this agent can't bring in.

    Args:
        resource_type: Its name on the wire.
    """

    def __init__(self, resource_type: str) -> None:
        self._resource_type = resource_type

    async def add(self, settings: Any) -> None:
        """Refuse.

        Raises:
            GcsError: Always.
        """
        raise GcsError(f"this agent has no support for the resource {self._resource_type}")

    async def remove(self, settings: Any) -> None:
        """Succeed when there is nothing at the mount path, as it must be.

        Raises:
            GcsError: There is something, which this agent has not put there.
        """
        path = getattr(settings, "mount_path", "")
        if path and not await asyncio.to_thread(os.path.lexists, path):
            return
        await self.add(settings)


class ResourceTable:
    """Drivers of the VM's resources.

    Args:
        drivers: Resource type on the wire → its driver.
    """

    __slots__ = ("_drivers",)

    def __init__(self, drivers: dict[str, ResourceDriver[Any]]) -> None:
        self._drivers = drivers

    async def modify(self, resource_type: str, request_type: str, settings: Any) -> None:
        """Carry out a request for the VM.

        Args:
            resource_type: One for which there are settings.
            request_type: ``Add``, ``Remove`` or ``Update``; others are refused.
            settings: As :func:`read_settings` returns them.

        Raises:
            GcsError: The driver fails, or doesn't support this.
        """
        driver = self._drivers.get(resource_type) or UnavailableDriver(resource_type)
        if request_type == ADD:
            await driver.add(settings)
        elif request_type == REMOVE:
            await driver.remove(settings)
        elif request_type == UPDATE:
            await driver.update(settings)
        else:
            raise unsupported_request(request_type[:100])


def read_settings(request: ModificationRequest) -> Any:
    """Check the settings of a request; ``None`` for a resource that has none.

    Raises:
        GcsError: The resource type is not known.
        InvalidJsonError: The settings are missing, or have another form.
    """
    resource_type = request.resource_type
    if resource_type not in SETTINGS:
        raise GcsError(f"invalid ResourceType '{resource_type[:100]}'")
    target = SETTINGS[resource_type]
    if target is None:
        return None
    if request.settings is None:
        raise InvalidJsonError(f"the settings of {resource_type} are missing")
    return convert(request.settings, target, f"the settings of {resource_type}")
