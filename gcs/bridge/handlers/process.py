"""Requests about processes (spec 1.5, 4.10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.protocol.decode import decode
from gcs.protocol.message import UVM_ID
from gcs.protocol.requests import (
    ContainerExecuteProcess,
    ContainerResizeConsole,
    ContainerSignalProcess,
    ContainerWaitForProcess,
    ProcessParameters,
)
from gcs.protocol.responses import ExecuteProcessResponse, Response, WaitForProcessResponse

if TYPE_CHECKING:
    from gcs.bridge.request import Request
    from gcs.bridge.services import Services


async def execute(services: Services, request: Request) -> Response:
    """Start the init of a container, another process in it, or one in the VM."""
    body = request.read(ContainerExecuteProcess)
    settings = body.settings
    parameters = decode(settings.process_parameters, ProcessParameters, "ProcessParameters")
    if body.container_id == UVM_ID or parameters.create_in_utility_vm:
        services.policy.require("exec_external")
    elif parameters.oci_process is not None:
        services.policy.require("exec_in_container")
    pid = await services.host.execute_process(
        body.container_id, parameters, settings.vsock_stdio_relay_settings
    )
    request.attributes["pid"] = pid
    return ExecuteProcessResponse(process_id=pid)


async def wait(services: Services, request: Request) -> Response:
    """Wait for the exit of a process."""
    body = request.read(ContainerWaitForProcess)
    request.attributes["pid"] = body.process_id
    request.attributes["timeout-ms"] = body.timeout_in_ms
    result = await services.host.wait_for_process(
        body.container_id, body.process_id, body.timeout_in_ms
    )
    request.when_answered = result.answered
    return WaitForProcessResponse(exit_code=result.exit_code)


async def signal(services: Services, request: Request) -> Response:
    """Send a signal to a process."""
    body = request.read(ContainerSignalProcess)
    request.attributes["pid"] = body.process_id
    request.attributes["signal"] = body.options.signal
    services.policy.require("signal_container_process")
    await services.host.signal_process(body.container_id, body.process_id, body.options.signal)
    return Response()


async def resize_console(services: Services, request: Request) -> Response:
    """Change the size of a process's terminal."""
    body = request.read(ContainerResizeConsole)
    request.attributes["pid"] = body.process_id
    request.attributes["height"] = body.height
    request.attributes["width"] = body.width
    await services.host.resize_console(body.container_id, body.process_id, body.height, body.width)
    return Response()
