"""Requests about containers and their resources (spec 1.5, 4.10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.bridge.message import MAX_BODY, encode_text
from gcs.protocol.decode import decode
from gcs.protocol.errors import InvalidJsonError
from gcs.protocol.requests import (
    UVM_ID,
    ContainerCreate,
    ContainerGetProperties,
    ContainerModifySettings,
    ContainerSettings,
    MessageBase,
    PropertyQuery,
)
from gcs.protocol.responses import (
    ContainerCreateResponse,
    GetPropertiesResponse,
    Response,
    encode,
)
from gcs.protocol.settings import REMOVE

if TYPE_CHECKING:
    from gcs.bridge.request import Request
    from gcs.bridge.services import Services
    from gcs.protocol.responses import Properties

#: Bytes of a GetProperties response that are not its properties, generously.
_FRAME_OF_PROPERTIES = 1024
#: Of container settings (spec 1.5).
_LOWEST_SCHEMA = (2, 1)
#: Resource types whose changes a policy decides on, as far as they are mounts.
_MOUNTS = frozenset({"MappedVirtualDisk", "MappedDirectory", "VPMemDevice", "CombinedLayers"})


async def create(services: Services, request: Request) -> Response:
    """Create a container."""
    body = request.read(ContainerCreate)
    settings = decode(body.container_config, ContainerSettings, "ContainerConfig")
    services.policy.require("create_container")
    version = (settings.schema_version.major, settings.schema_version.minor)
    if version < _LOWEST_SCHEMA:
        raise InvalidJsonError("invalid schema version {}.{}: 2.1 is needed".format(*version))
    await services.host.create_container(body.container_id, request.activity_id, settings)
    return ContainerCreateResponse()


async def start(services: Services, request: Request) -> Response:
    """Do nothing: a container starts with its first process (spec 1.3)."""
    request.read(MessageBase)
    return Response()


async def shutdown_graceful(services: Services, request: Request) -> Response | None:
    """Ask the init of a container to end; or end the VM."""
    return await _shutdown(services, request, graceful=True)


async def shutdown_forced(services: Services, request: Request) -> Response | None:
    """Kill the init of a container; or end the VM."""
    return await _shutdown(services, request, graceful=False)


async def _shutdown(services: Services, request: Request, *, graceful: bool) -> Response | None:
    container_id = request.read(MessageBase).container_id
    if container_id == UVM_ID:
        services.shut_down()
        return None
    services.policy.require("shutdown_container")
    await services.host.shutdown_container(container_id, graceful=graceful)
    return Response()


async def get_properties(services: Services, request: Request) -> Response:
    """Report processes and statistics of a container."""
    body = request.read(ContainerGetProperties)
    query = decode(body.query, PropertyQuery, "Query") if body.query else PropertyQuery()
    services.policy.require("get_properties")
    properties = await services.host.properties(body.container_id, query)
    return GetPropertiesResponse(properties=_encode_properties(properties))


async def modify_settings(services: Services, request: Request) -> Response:
    """Add, remove or update a resource."""
    body = request.read(ContainerModifySettings)
    if body.request is None:
        raise InvalidJsonError("Request is missing from the body of ModifySettings")
    if body.request.resource_type in _MOUNTS:
        removal = body.request.request_type == REMOVE
        services.policy.require("unmount" if removal else "mount")
    elif body.request.resource_type == "SecurityPolicyFragment":
        services.policy.require("load_fragment")
    await services.host.modify_settings(body.container_id, body.request)
    return Response()


async def delete_state(services: Services, request: Request) -> Response:
    """Remove what is left of a container."""
    container_id = request.read(MessageBase).container_id
    await services.host.delete_container_state(container_id)
    return Response()


def _encode_properties(properties: Properties) -> str:
    """Return the properties as JSON text, with as many processes as fit into a response."""
    text = encode(properties).decode()
    while len(encode_text(text)) > MAX_BODY - _FRAME_OF_PROPERTIES and properties.process_list:
        properties.process_list = properties.process_list[: len(properties.process_list) // 2]
        text = encode(properties).decode()
    return text
