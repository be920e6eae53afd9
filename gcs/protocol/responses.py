"""Bodies of responses and notifications, and the capabilities (spec 1.6, 1.7)."""

from typing import Any, Final

import msgspec

from gcs.protocol.errors import error_text, hresult_of
from gcs.protocol.hresult import to_wire
from gcs.protocol.message import Int32, Message, SchemaVersion, Uint32

#: ``Line`` of an error record whose place is not known.
UNKNOWN_LINE: Final = 0xFFFF_FFFF
PROTOCOL_VERSION: Final = 4


class ErrorRecord(msgspec.Struct, rename="pascal", kw_only=True):
    """One entry of the error chain; a host logs each of them."""

    result: Int32 = 0
    message: str = ""
    stack_trace: str | msgspec.UnsetType = msgspec.UNSET
    module_name: str = "gcs"
    file_name: str = ""
    line: Uint32 = UNKNOWN_LINE
    function_name: str | msgspec.UnsetType = msgspec.UNSET


class Response(msgspec.Struct, rename="pascal", kw_only=True):
    """What every response carries.

    Attributes:
        result: Signed HRESULT; 0 is success.
        activity_id: The request's, unmodified; left out when the request had none (a host reads
            a present one as a GUID, and drops the connection when it can't).
        error_message: Text of the whole error chain.
        error_records: One record per error.
    """

    result: Int32 = 0
    activity_id: str | msgspec.UnsetType = msgspec.UNSET
    error_message: str | msgspec.UnsetType = msgspec.UNSET
    error_records: list[ErrorRecord] | msgspec.UnsetType = msgspec.UNSET


class GuestDefinedCapabilities(msgspec.Struct, rename="pascal", kw_only=True):
    """Abilities a host looks at before it sends a request (spec 1.7)."""

    namespace_add_request_supported: bool = True
    signal_process_supported: bool = True
    dump_stacks_supported: bool = True
    delete_container_state_supported: bool = True


class Capabilities(msgspec.Struct, rename="pascal", kw_only=True):
    """What the agent can do, as a host is told at negotiation (spec 1.7)."""

    supported_schema_versions: list[SchemaVersion] = msgspec.field(
        default_factory=lambda: [SchemaVersion(major=2, minor=1)]
    )
    runtime_os_type: str = "Linux"
    guest_defined_capabilities: GuestDefinedCapabilities = msgspec.field(
        default_factory=GuestDefinedCapabilities
    )


class NegotiateProtocolResponse(Response):
    """The version chosen, and the capabilities."""

    version: Uint32 = 0
    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)


class ContainerCreateResponse(Response):
    """A container was created; the version fields are a relic."""

    selected_version: str | msgspec.UnsetType = msgspec.UNSET
    selected_protocol_version: Uint32 = 0


class ExecuteProcessResponse(Response):
    """A process was started; its id in the VM's pid namespace."""

    process_id: Uint32 = 0


class WaitForProcessResponse(Response):
    """A process ended."""

    exit_code: Uint32 = 0


class GetPropertiesResponse(Response):
    """Properties: a :class:`Properties` document as text."""

    properties: str = "{}"


class DumpStacksResponse(Response):
    """Stacks of every task and thread of the agent, as text."""

    guest_stacks: str = ""


class ProcessDetails(msgspec.Struct, rename="pascal", kw_only=True):
    """A process of a container, by its id in the VM's pid namespace."""

    process_id: Uint32 = 0


class Properties(msgspec.Struct, rename="pascal", kw_only=True, omit_defaults=True):
    """The document inside :class:`GetPropertiesResponse` (PropertiesV2).

    Attributes:
        process_list: Processes of the container.
        metrics: cgroup v1 metrics (spec 1.8); an empty object when there are none.
    """

    process_list: list[ProcessDetails] = msgspec.field(default_factory=list)
    metrics: dict[str, Any] | None = msgspec.field(name="LCOWMetrics", default=None)


class Notification(msgspec.Struct, rename="pascal", kw_only=True):
    """The exit of a container, the only thing an agent reports unasked.

    ``ResultInfo`` of the reference is left out on purpose: a host takes a present value for JSON
    in a string, and drops the connection when it is empty (spec 1.6).

    Attributes:
        type: ``GracefulExit``, ``ForcedExit`` or ``UnexpectedExit``.
        activity_id: The one of the create request.
        out_of_memory_kills: How many processes of the container the kernel killed for want of
            memory, when there were any: an addition of this agent's, which other hosts skip.
    """

    container_id: str = ""
    activity_id: str | msgspec.UnsetType = msgspec.UNSET
    type: str = "None"
    operation: str = "None"
    result: Int32 = 0
    out_of_memory_kills: Uint32 | msgspec.UnsetType = msgspec.UNSET


def error_response(error: BaseException) -> Response:
    """Return the response that reports an error (spec 1.6)."""
    result = to_wire(hresult_of(error))
    message = error_text(error)
    module = getattr(error, "module", "gcs")
    record = ErrorRecord(result=result, message=message, module_name=module)
    return Response(result=result, error_message=message, error_records=[record])


def encode(body: Message | Response | Notification | Properties) -> bytes:
    """Return a body as JSON."""
    return msgspec.json.encode(body)
