"""The security context directory in a container of runc, and the policy that allows everything."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from gcs.linux.mount import MS_BIND, MS_RDONLY, MS_REMOUNT, mount, unmount
from gcs.protocol.errors import GcsError
from gcs.protocol.frame import MessageType
from gcs.protocol.hresult import HResult
from gcs.protocol.message import UVM_ID
from gcs.protocol.requests import ModificationRequest
from tests.functional.runtime_support import Machine
from tests.support.fakehost import UVM, FakeHost
from tests.support.leaks import footprint
from tests.support.rootfs import build_rootfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.fakehost import Launcher

CERTIFICATE = {"io.microsoft.virtualmachine.lcow.amd-certificate": "Y2VydA=="}
SHOW = 'cd "$UVM_SECURITY_CONTEXT_DIR" && for f in *; do echo "$f $(cat $f)"; done; ls -d $PWD'
POLICY = {"EncodedUVMReference": "cmVm", "EncodedUVMHashEnvelopeReference": "ZW52"}


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """With a root file system of its own: containers write to it."""
    before = footprint(f"gcstest{os.getpid()}x", os.fspath(tmp_path))
    machine = Machine(tmp_path, build_rootfs(tmp_path / "rootfs"))
    yield machine
    await machine.close()
    assert footprint(machine.mark, os.fspath(tmp_path)) == before


def directories(machine: Machine) -> list[str]:
    return [name for name in os.listdir(machine.rootfs) if name.startswith("security-context")]


def with_annotations(machine: Machine, **annotations: str) -> dict[str, Any]:
    return {**machine.specification("sh", "-c", SHOW), "annotations": annotations}


async def test_a_container_finds_what_the_host_has_set(machine: Machine) -> None:
    request = ModificationRequest(resource_type="SecurityPolicy", settings=POLICY)
    await machine.host.modify_settings(UVM_ID, request)
    code, output = await machine.run(spec=with_annotations(machine, **CERTIFICATE))
    assert code == 0
    *files, directory = output.decode().splitlines()
    assert files == [
        "host-amd-cert-base64 Y2VydA==",
        "reference-info-base64 cmVm",
        "transparent-reference-info-base64 ZW52",
    ]
    assert [directory] == [f"/{name}" for name in directories(machine)]
    with pytest.raises(GcsError, match="security policy has already been set"):
        await machine.host.modify_settings(UVM_ID, request)


async def test_a_root_that_can_not_be_written_to(machine: Machine) -> None:
    rootfs = os.fspath(machine.rootfs)
    mount(rootfs, rootfs, "", MS_BIND)
    try:
        mount("", rootfs, "", MS_BIND | MS_REMOUNT | MS_RDONLY)
        with pytest.raises(GcsError, match=f"{rootfs} is read-only; its layers need a scratch"):
            await machine.create(spec=with_annotations(machine, **CERTIFICATE))
    finally:
        unmount(rootfs)
    assert directories(machine) == []


async def test_a_creation_that_fails_leaves_no_directory(machine: Machine) -> None:
    spec = with_annotations(machine, **CERTIFICATE)
    spec["process"]["args"] = ["/nonexistent"]
    with pytest.raises(GcsError, match="/nonexistent"):
        await machine.create(spec=spec)
    assert directories(machine) == []


async def test_an_agent_that_denied_everything_is_opened(launch: Launcher, tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path / "h"))
    await host.listen()
    arguments = ("-log-format", "json", "-initial-policy-stance", "deny")
    agent = await launch("-v4", *arguments, "-transport", f"unix:{host.prefix}")
    connection = await host.negotiated()

    async def modify(**settings: str) -> tuple[int, dict[str, Any]]:
        request = {"ResourceType": "SecurityPolicy", "RequestType": "Add", "Settings": settings}
        body = {"ContainerId": UVM, "Request": request}
        reply = await connection.rpc(MessageType.MODIFY_SETTINGS, body)
        return reply.result, reply.body

    result, body = await modify(EncodedSecurityPolicy="cGFja2FnZSBwb2xpY3k=")
    assert result == HResult.FAIL
    assert "can't enforce a security policy" in body["ErrorMessage"]
    assert (await connection.rpc(MessageType.DUMP_STACKS, {})).result == HResult.FAIL
    assert (await modify(EnforcerType="open_door"))[0] == 0
    assert (await connection.rpc(MessageType.DUMP_STACKS, {})).result == 0
    parameters = json.dumps({"CommandArgs": ["/bin/true"]})
    execute = {"ContainerId": UVM, "Settings": {"ProcessParameters": parameters}}
    assert (await connection.rpc(MessageType.EXECUTE_PROCESS, execute)).result == 0
    await agent.logged(lambda entry: entry.message == "the security policy is set")
    assert await agent.stop() == 0
    await host.close()
