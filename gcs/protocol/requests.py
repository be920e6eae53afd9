"""Bodies of the requests (spec 1.5).

Annotations are evaluated here on purpose: the decoder reads them.
"""

from typing import Any, Final

import msgspec

from gcs.protocol.message import Int32, Message, MessageBase, SchemaVersion, Uint16, Uint32

#: ``TimeoutInMs`` of a wait without a time limit.
INFINITE: Final = 0xFFFF_FFFF


class SupportedVersions(Message):
    """Versions the host claims in a create request; the agent has no use for them."""

    minimum_version: str = ""
    maximum_version: str = ""
    minimum_protocol_version: Uint32 = 0
    maximum_protocol_version: Uint32 = 0


class ContainerCreate(MessageBase):
    """Create a container.

    Attributes:
        container_config: A :class:`ContainerSettings` document as text.
    """

    container_config: str = ""
    supported_versions: SupportedVersions = msgspec.field(default_factory=SupportedVersions)


class ContainerSettings(Message):
    """*VMHostedContainerSettingsV2*, the document inside :class:`ContainerCreate`.

    Attributes:
        schema_version: Must be 2.1 or above.
        oci_bundle_path: The container's directory in the guest.
        oci_specification: OCI runtime spec, passed on to the runtime after edits.
        scratch_dir_path: Where temporary state of the container lives; removed on delete.
    """

    schema_version: SchemaVersion = msgspec.field(default_factory=SchemaVersion)
    oci_bundle_path: str = ""
    oci_specification: dict[str, Any] | None = None
    scratch_dir_path: str = ""


class VsockStdioRelaySettings(Message):
    """Ports on which the host waits for the streams of a process."""

    std_in: Uint32 = 0
    std_out: Uint32 = 0
    std_err: Uint32 = 0


class ExecuteProcessSettings(Message):
    """Settings of an execute request; ``process_parameters`` is JSON as text."""

    process_parameters: str = ""
    vsock_stdio_relay_settings: VsockStdioRelaySettings = msgspec.field(
        default_factory=VsockStdioRelaySettings
    )


class ContainerExecuteProcess(MessageBase):
    """Start a container's init, run a process in a container, or run one in the VM."""

    settings: ExecuteProcessSettings = msgspec.field(default_factory=ExecuteProcessSettings)


class ProcessParameters(Message):
    """The document inside :class:`ExecuteProcessSettings`.

    Attributes:
        command_line: Split by shell word rules when ``command_args`` is empty; VM processes only.
        command_args: The argument vector; VM processes only.
        working_directory: VM processes only.
        environment: The complete environment; VM processes only.
        emulate_console: Give a VM process a terminal.
        create_std_in_pipe: Whether the host listens for this stream; likewise the next two.
        create_in_utility_vm: Run in the VM whatever the container id says.
        oci_specification: Legacy, ignored.
        oci_process: OCI process to run in a container; ``None`` starts the container's init.
    """

    command_line: str = ""
    command_args: list[str] = msgspec.field(default_factory=list)
    working_directory: str = ""
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    emulate_console: bool = False
    create_std_in_pipe: bool = False
    create_std_out_pipe: bool = False
    create_std_err_pipe: bool = False
    create_in_utility_vm: bool = msgspec.field(name="CreateInUtilityVM", default=False)
    oci_specification: dict[str, Any] | None = None
    oci_process: dict[str, Any] | None = None


class ContainerWaitForProcess(MessageBase):
    """Wait for the exit of a process; ``INFINITE`` milliseconds wait without limit."""

    process_id: Uint32 = 0
    timeout_in_ms: Uint32 = 0


class SignalProcessOptions(Message):
    """The signal to send; 0 stands for SIGKILL."""

    signal: Int32 = 0


class ContainerSignalProcess(MessageBase):
    """Send a signal to a process."""

    process_id: Uint32 = 0
    options: SignalProcessOptions = msgspec.field(default_factory=SignalProcessOptions)


class ContainerResizeConsole(MessageBase):
    """Change the size of a process's terminal, in character cells."""

    process_id: Uint32 = 0
    height: Uint16 = 0
    width: Uint16 = 0


class ContainerGetProperties(MessageBase):
    """Ask for properties; ``query`` is a :class:`PropertyQuery` as text, or empty."""

    query: str = ""


class PropertyQuery(Message):
    """The document inside :class:`ContainerGetProperties`."""

    property_types: list[str] = msgspec.field(default_factory=list)


class ModificationRequest(Message):
    """Which resource to change and how; see :mod:`gcs.protocol.settings` (spec 3.1).

    Attributes:
        request_type: ``Add``, ``Remove``, ``PreAdd`` or ``Update``; empty means ``Add``.
        resource_type: Key into :data:`gcs.protocol.settings.SETTINGS`.
        settings: The document of that resource, not yet checked.
    """

    request_type: str = ""
    resource_type: str = ""
    settings: Any = None


class ContainerModifySettings(MessageBase):
    """Add, remove or update a resource of the VM or of a container."""

    request: ModificationRequest | None = None
