"""Nothing secret of a request gets into the log, however the request is spelt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol import scrub
from gcs.protocol.frame import MessageType

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hunter2"
GONE = {"<scrubbed>": "<scrubbed>"}
SPECIFICATION = {
    "ociVersion": "1.0.2",
    "process": {"args": ["sh"], "env": [f"PASSWORD={SECRET}"]},
    "annotations": {"key": SECRET},
}


@pytest.fixture
def unscrubbed() -> Iterator[None]:
    scrub.set_enabled(False)
    yield
    scrub.set_enabled(True)


def create(config: object) -> bytes:
    text = config if isinstance(config, str) else json.dumps(config)
    return json.dumps({"ContainerId": "c", "ContainerConfig": text}).encode()


def execute(parameters: object) -> bytes:
    settings = {"ProcessParameters": json.dumps(parameters), "VsockStdioRelaySettings": {}}
    return json.dumps({"ContainerId": "c", "Settings": settings}).encode()


def test_create() -> None:
    body = create({"OciBundlePath": "/b", "OciSpecification": SPECIFICATION})
    shown = json.loads(scrub.request_text(MessageType.CREATE, body))
    assert shown["ContainerId"] == "c"
    config = json.loads(shown["ContainerConfig"])
    assert config["OciBundlePath"] == "/b"
    assert config["OciSpecification"] == {
        "ociVersion": "1.0.2",
        "process": {"args": ["sh"], "env": ["<scrubbed>"]},
        "annotations": GONE,
    }


def test_execute() -> None:
    body = execute(
        {
            "CommandArgs": ["sh"],
            "Environment": {"PASSWORD": SECRET},
            "OCIProcess": {"args": ["sh"], "env": [SECRET]},
            "OciSpecification": SPECIFICATION,
        }
    )
    text = scrub.request_text(MessageType.EXECUTE_PROCESS, body)
    assert SECRET not in text
    parameters = json.loads(json.loads(text)["Settings"]["ProcessParameters"])
    assert parameters["CommandArgs"] == ["sh"]
    assert parameters["Environment"] == GONE
    assert parameters["OCIProcess"] == {"args": ["sh"], "env": ["<scrubbed>"]}


def test_the_specification_for_the_runtime() -> None:
    shown = json.loads(scrub.specification_text(json.dumps(SPECIFICATION).encode()))
    assert shown["annotations"] == GONE
    assert shown["process"]["env"] == ["<scrubbed>"]


@pytest.mark.parametrize(
    ("message_type", "body"),
    [
        (MessageType.CREATE, create(f'{{"annotations": "{SECRET}')),
        (MessageType.CREATE, create(f'["{SECRET}"]')),
        (MessageType.CREATE, b'{"ContainerConfig": {"env": "hunter2"}}'),
        (MessageType.CREATE, b'{"ContainerConfig": "hunter2'),
        (MessageType.CREATE, b'"hunter2"'),
        (MessageType.CREATE, b'\xff{"hunter2": 1}'),
        (MessageType.CREATE, b"[" * 100_000 + b'"hunter2"'),
        (
            MessageType.CREATE,
            json.dumps(
                {"CONTAINERCONFIG": json.dumps({"ociSPECIFICATION": {"Annotations": SECRET}})}
            ).encode(),
        ),
        (
            MessageType.EXECUTE_PROCESS,
            json.dumps(
                {
                    "settings": {"processParameters": json.dumps({"environment": [SECRET]})},
                    "Settings": {"ProcessParameters": json.dumps({"Environment": SECRET})},
                }
            ).encode(),
        ),
    ],
)
def test_what_is_malformed_or_spelt_another_way(message_type: int, body: bytes) -> None:
    assert SECRET not in scrub.request_text(message_type, body)


@pytest.mark.usefixtures("unscrubbed")
def test_switched_off() -> None:
    body = create({"OciSpecification": SPECIFICATION})
    assert SECRET in scrub.request_text(MessageType.CREATE, body)
    assert SECRET in scrub.specification_text(json.dumps(SPECIFICATION).encode())


def test_other_requests_are_shown_as_they_are() -> None:
    document: dict[str, Any] = {"ContainerId": "c", "ProcessId": 1}
    body = json.dumps(document).encode()
    assert scrub.request_text(MessageType.WAIT_FOR_PROCESS, body) == body.decode()
    assert scrub.request_text(MessageType.START, b"\xff") == "\\xff"
