"""`generichook` as real runc runs it, by itself and for a graphics processor (spec 7.6)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.decode import convert
from gcs.protocol.errors import GcsError
from gcs.protocol.oci import Specification
from gcs.runtime.pods.edit import AssignedDevices
from gcs.runtime.pods.gpu import edit_gpus
from tests.functional.runtime_support import Machine
from tests.support.leaks import footprint
from tests.support.pods import edit_of, guest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REPOSITORY = Path(__file__).resolve().parents[2]

#: The image's program, with the interpreter and the sources of the tests.
PROGRAM = f"""#!{sys.executable} -IS
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from gcs.tools.multicall import main
raise SystemExit(main())
"""


@pytest.fixture
async def machine(tmp_path: Path, busybox_rootfs: Path) -> AsyncIterator[Machine]:
    before = footprint(f"gcstest{os.getpid()}x", os.fspath(tmp_path))
    machine = Machine(tmp_path, busybox_rootfs)
    yield machine
    await machine.close()
    assert footprint(machine.mark, os.fspath(tmp_path)) == before


def install(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(exist_ok=True)
    program = directory / name
    program.write_text(text)
    program.chmod(0o755)
    return program


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    return install(tmp_path / "bin", "generichook", PROGRAM)


def with_hook(machine: Machine, hook: dict[str, Any], **annotations: str) -> dict[str, Any]:
    spec = machine.specification("sleep", "1000")
    spec["hooks"] = {"createRuntime": [hook]}
    spec["annotations"] = annotations
    return spec


async def test_what_the_runtime_knows_is_filled_in(
    machine: Machine, hook: Path, tmp_path: Path
) -> None:
    script = 'echo "$@" > "$OUT"; readlink /proc/$1/ns/mnt /proc/self/ns/mnt >> "$OUT"'
    arguments = ["{{pid}}", "id={{id}}", '{{annotation "color"}}{{annotation "none"}}']
    document = {
        "path": os.fspath(hook),
        "args": ["generichook", "/bin/sh", "-c", script, "sh", *arguments],
        "env": [f"OUT={tmp_path}/out-{{{{id}}}}", "PATH=/bin:/usr/bin"],
    }
    spec = with_hook(machine, document, color="dark blue")
    container = await machine.create(spec=spec)
    said, its_mounts, own_mounts = (tmp_path / f"out-{container}").read_text().splitlines()
    pid = await machine.start(container)
    assert said == f"{pid} id={container} dark blue"
    # The hook runs in the VM, before the container has changed its root.
    assert its_mounts != own_mounts
    assert own_mounts == os.readlink("/proc/self/ns/mnt")
    await machine.host.delete_container_state(container)


async def test_why_a_hook_failed_is_told(machine: Machine, hook: Path, tmp_path: Path) -> None:
    log = tmp_path / "tool.log"
    log.write_text("the tool knows more\n")
    document = {
        "path": os.fspath(hook),
        "args": ["generichook", "/bin/sh", "-c", "echo no such thing as {{id}}; exit 3"],
        "env": [f"GENERIC_HOOK_LOG_DEBUG_FILE={log}", "PATH=/bin:/usr/bin"],
    }
    container = machine.new_id()
    with pytest.raises(GcsError) as failed:
        await machine.create(spec=with_hook(machine, document), container_id=container)
    text = str(failed.value)
    assert f"no such thing as {container}" in text
    assert "exit status 3" in text
    assert "the tool knows more" in text


async def test_the_hook_of_a_graphics_processor_reaches_its_tool(
    machine: Machine, hook: Path, tmp_path: Path
) -> None:
    """As the agent makes it; the tool is the test's own, a processor there is none."""
    install(hook.parent, "nvidia-container-cli", f'#!/bin/sh\n(echo "$@"; env) > {tmp_path}/tool\n')
    path = f"{hook.parent}:/bin:/usr/bin"
    edit = edit_of(
        tmp_path,
        assigned=AssignedDevices((), ("0001:00:00.0",)),
        vm=guest(path=path),
        annotations={"io.microsoft.container.gpu.capabilities": "utility"},
    )
    edit_gpus(edit)
    (document,) = edit.document["hooks"]["createRuntime"]
    spec = with_hook(machine, document)
    spec["linux"]["resources"] = {"devices": edit.document["linux"]["resources"]["devices"]}
    convert(spec, Specification, "spec")
    container = await machine.create(spec=spec)
    arguments, *environment = (tmp_path / "tool").read_text().splitlines()
    pid = await machine.start(container)
    log = f"{tmp_path}/nvidia-container.log"
    assert arguments == (
        f"--debug={log} --no-pivot configure --ldconfig=@/sbin/ldconfig --utility "
        f"--device=0001:00:00.0 --pid={pid} {tmp_path}/rootfs"
    )
    assert {f"PATH={path}", "NVC_INSECURE_MODE=1"} <= set(environment)
    await machine.host.delete_container_state(container)
