"""Bodies as they are on the wire (spec 1.5, 1.6, 1.7, appendix A)."""

from __future__ import annotations

import json

import msgspec
import pytest

from gcs.protocol.decode import decode
from gcs.protocol.errors import InvalidJsonError
from gcs.protocol.message import MessageBase
from gcs.protocol.oci import read_process, read_specification
from gcs.protocol.requests import (
    ContainerCreate,
    ContainerExecuteProcess,
    ContainerModifySettings,
    ContainerSettings,
    ProcessParameters,
)
from gcs.protocol.responses import (
    ContainerCreateResponse,
    DumpStacksResponse,
    ExecuteProcessResponse,
    GetPropertiesResponse,
    NegotiateProtocolResponse,
    Notification,
    ProcessDetails,
    Properties,
    Response,
    WaitForProcessResponse,
    encode,
)
from gcs.protocol.settings import SETTINGS

SPECIFICATION: dict[str, object] = {"process": {}, "root": {}, "linux": {}}


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (Response(), {"Result": 0}),
        (Response(activity_id="a"), {"Result": 0, "ActivityId": "a"}),
        (ContainerCreateResponse(), {"Result": 0, "SelectedProtocolVersion": 0}),
        (ExecuteProcessResponse(process_id=3), {"Result": 0, "ProcessId": 3}),
        (WaitForProcessResponse(exit_code=0xFFFFFFFF), {"Result": 0, "ExitCode": 4294967295}),
        (GetPropertiesResponse(), {"Result": 0, "Properties": "{}"}),
        (DumpStacksResponse(guest_stacks="x"), {"Result": 0, "GuestStacks": "x"}),
        (
            NegotiateProtocolResponse(version=4),
            {
                "Result": 0,
                "Version": 4,
                "Capabilities": {
                    "SupportedSchemaVersions": [{"Major": 2, "Minor": 1}],
                    "RuntimeOsType": "Linux",
                    "GuestDefinedCapabilities": {
                        "NamespaceAddRequestSupported": True,
                        "SignalProcessSupported": True,
                        "DumpStacksSupported": True,
                        "DeleteContainerStateSupported": True,
                    },
                },
            },
        ),
    ],
)
def test_responses(response: Response, body: dict[str, object]) -> None:
    assert json.loads(encode(response)) == body


def test_a_notification_has_no_result_info() -> None:
    notification = Notification(container_id="c", activity_id="a", type="ForcedExit")
    assert json.loads(encode(notification)) == {
        "ContainerId": "c",
        "ActivityId": "a",
        "Type": "ForcedExit",
        "Operation": "None",
        "Result": 0,
    }


def test_properties() -> None:
    assert encode(Properties()) == b"{}"
    processes = Properties(process_list=[ProcessDetails(process_id=7)])
    assert encode(processes) == b'{"ProcessList":[{"ProcessId":7}]}'
    assert encode(Properties(metrics={})) == b'{"LCOWMetrics":{}}'


def test_requests_encode_to_what_they_decode_from() -> None:
    """As the host tool sends them; what has its default is left out."""
    body = {
        "ContainerId": "c",
        "ActivityId": "a",
        "Settings": {
            "ProcessParameters": '{"CreateInUtilityVM":true}',
            "VsockStdioRelaySettings": {"StdOut": 5},
        },
    }
    message = decode(json.dumps(body).encode(), ContainerExecuteProcess, "body")
    assert message.settings.vsock_stdio_relay_settings.std_out == 5
    assert json.loads(encode(message)) == body
    parameters = decode(message.settings.process_parameters, ProcessParameters, "parameters")
    assert parameters.create_in_utility_vm
    assert parameters.oci_process is None


def test_a_create_request_with_its_document() -> None:
    config = {
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciBundlePath": "/b",
        "OciSpecification": {"x": 1},
    }
    body = {
        "ContainerId": "c",
        "ContainerConfig": json.dumps(config),
        "SupportedVersions": {"MinimumProtocolVersion": 4, "MaximumVersion": None},
    }
    create = decode(json.dumps(body).encode(), ContainerCreate, "body")
    assert create.activity_id is None
    settings = decode(create.container_config, ContainerSettings, "configuration")
    assert (settings.schema_version.major, settings.schema_version.minor) == (2, 1)
    assert settings.oci_specification == {"x": 1}


def test_a_modification_keeps_its_settings_for_later() -> None:
    body = b'{"request":{"resourcetype":"SCSIDevice","settings":{"LUN":3}}}'
    request = decode(body, ContainerModifySettings, "body").request
    assert request is not None
    assert request.request_type == ""
    target = SETTINGS[request.resource_type]
    assert target is not None
    settings = decode(json.dumps(request.settings).encode(), target, "settings")
    assert settings == target(lun=3)


def test_every_resource_decodes_from_nothing() -> None:
    for name, target in SETTINGS.items():
        if target is not None:
            assert isinstance(decode(b"{}", target, name), msgspec.Struct)


def test_an_activity_id_is_kept_as_it_is() -> None:
    assert decode(b'{"ActivityId":"no guid"}', MessageBase, "body").activity_id == "no guid"
    assert decode(b"{}", MessageBase, "body").activity_id is None


@pytest.mark.parametrize("section", ["process", "root", "linux"])
@pytest.mark.parametrize("value", [None, "absent"])
def test_a_specification_without_a_section(section: str, value: object) -> None:
    document: dict[str, object] = {**SPECIFICATION, section: value}
    if value == "absent":
        del document[section]
    with pytest.raises(InvalidJsonError, match=section):
        read_specification(document)


@pytest.mark.parametrize("document", [None, [], "x", 5])
def test_what_is_no_specification(document: object) -> None:
    with pytest.raises(InvalidJsonError, match="OciSpecification"):
        read_specification(document)
    with pytest.raises(InvalidJsonError, match="OciProcess"):
        read_process(document)


def test_a_specification_is_checked_and_nothing_of_it_is_lost() -> None:
    document = {
        **SPECIFICATION,
        "process": {"Args": ["a"], "capabilities": {"bounding": []}},
        "mounts": [None, {"destination": "/x"}],
        "zos": {},
    }
    canonical, view = read_specification(document)
    assert canonical["process"] == {"args": ["a"], "capabilities": {"bounding": []}}
    assert canonical["zos"] == {}
    assert view.process is not None
    assert view.process.args == ["a"]
    assert [mount.destination for mount in view.mounts] == ["", "/x"]
