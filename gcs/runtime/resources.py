"""Resource type → driver, and the rules for requests that change resources (spec 3.1)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final

from gcs.protocol.decode import convert
from gcs.protocol.errors import GcsError, InvalidArgumentError, InvalidJsonError
from gcs.protocol.settings import (
    ADD,
    REMOVE,
    SETTINGS,
    UPDATE,
    ContainerConstraints,
    ContainerState,
)
from gcs.protocol.trace import span
from gcs.storage.driver import ResourceDriver, unsupported_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gcs.protocol.requests import ModificationRequest
    from gcs.runtime.container import Container

PAUSED: Final = "Paused"
RUNNING: Final = "Running"


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
        with span(f"gcs::Host::modify{resource_type}", requestType=request_type[:100]):
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


async def modify_container(
    container: Container, resource_type: str, request_type: str, settings: Any
) -> None:
    """Carry out a request for a container.

    Args:
        container: The container.
        resource_type: One for which there are settings.
        request_type: What to do with it.
        settings: As :func:`read_settings` returns them.

    Raises:
        GcsError: It is a resource of the VM, or this can't be done with it.
    """
    modify = CONTAINER_RESOURCES.get(resource_type)
    if modify is None:
        raise GcsError(f'the ResourceType "{resource_type}" is not supported for containers')
    await modify(container, request_type, settings)


async def _constrain(container: Container, _: str, settings: ContainerConstraints) -> None:
    """Set limits; the reference looks at no request type here."""
    await container.update(settings.linux or {})


async def _set_state(container: Container, request_type: str, settings: ContainerState) -> None:
    if request_type != UPDATE:
        raise unsupported_request(request_type[:100])
    if settings.state == PAUSED:
        await container.pause()
    elif settings.state == RUNNING:
        await container.resume()
    else:
        raise InvalidArgumentError(
            f"state {settings.state[:100]!r} of a container: expected {PAUSED} or {RUNNING}"
        )


#: Resources of a container; all others belong to the VM.
CONTAINER_RESOURCES: Final[dict[str, Callable[[Container, str, Any], Awaitable[None]]]] = {
    "ContainerConstraints": _constrain,
    "ContainerState": _set_state,
}
