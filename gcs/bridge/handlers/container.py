"""Requests about containers and their resources (spec 1.5, 4.10)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gcs.bridge.message import MAX_BODY, encode_text
from gcs.protocol.decode import decode
from gcs.protocol.errors import InvalidJsonError
from gcs.protocol.message import UVM_ID, MessageBase
from gcs.protocol.requests import (
    ContainerCreate,
    ContainerGetProperties,
    ContainerModifySettings,
    ContainerSettings,
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
    from typing import Any

    from gcs.bridge.request import Request
    from gcs.bridge.services import Services
    from gcs.protocol.responses import Properties

logger = logging.getLogger(__name__)

#: Bytes of a GetProperties response that are not its properties, generously.
_FRAME_OF_PROPERTIES = 1024
#: Longest name of a resource type in a span, in characters; real ones are shorter.
_MAX_TYPE = 64
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
    request.attributes["graceful"] = graceful
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
    request.attributes["resourceType"] = body.request.resource_type[:_MAX_TYPE]
    request.attributes["requestType"] = body.request.request_type[:_MAX_TYPE]
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
    """Return the properties as JSON text, with as much of them as fits into a response.

    Processes go first, from the end of their list, then lists of metrics, the longest first.
    """
    room = MAX_BODY - _FRAME_OF_PROPERTIES
    text = encode(properties).decode()
    if (size := len(encode_text(text))) <= room:
        return text
    logger.warning("properties of %d bytes do not fit into a response and are cut", size)
    while (size := len(encode_text(text))) > room:
        processes = properties.process_list
        if processes:
            # One less than proportional, so that it ends.
            properties.process_list = processes[: max(len(processes) * room // size - 1, 0)]
        elif not _drop_longest_list(properties.metrics):
            break
        text = encode(properties).decode()
    return text


def _drop_longest_list(document: dict[str, Any] | None) -> bool:
    """Remove the longest list from a document; return whether there was one."""
    found: list[tuple[int, dict[str, Any], str]] = []
    objects = [document or {}]
    while objects:
        holder = objects.pop()
        for key, value in holder.items():
            if isinstance(value, dict):
                objects.append(value)
            elif isinstance(value, list):
                found.append((len(value), holder, key))
    if not found:
        return False
    _, holder, key = max(found, key=lambda entry: entry[0])
    del holder[key]
    return True
