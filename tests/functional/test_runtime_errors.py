"""Whatever is wrong with a request or a runtime: a clear error, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import (
    GcsError,
    InvalidArgumentError,
    InvalidJsonError,
    InvalidStateError,
    SystemAlreadyExistsError,
    SystemNotFoundError,
)
from gcs.protocol.hresult import HResult
from gcs.protocol.message import UVM_ID
from gcs.protocol.requests import ContainerSettings, PropertyQuery
from tests.functional.runtime_support import Machine
from tests.support.leaks import footprint
from tests.support.runtimes import RUNTIME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    NewMachine = Callable[..., Machine]

CRI_TYPE = "io.kubernetes.cri.container-type"
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"


@pytest.fixture
async def new_machine(tmp_path: Path, busybox_rootfs: Path) -> AsyncIterator[NewMachine]:
    marks = (f"gcstest{os.getpid()}x", os.fspath(tmp_path))
    before = footprint(*marks)
    machines = []

    def make(**options: Any) -> Machine:
        machine = Machine(tmp_path, busybox_rootfs, **options)
        machines.append(machine)
        return machine

    yield make
    for machine in machines:
        await machine.close()
    assert footprint(*marks) == before


@pytest.fixture
async def machine(new_machine: NewMachine) -> Machine:
    return new_machine()


@pytest.fixture
def fake_runc(tmp_path: Path) -> Callable[[str], str]:
    """Writes a script that is run as if it were the runtime; `$runtime` is the real one."""

    def write(script: str) -> str:
        path = tmp_path / f"fake-{RUNTIME}"
        path.write_text(f"#!/bin/sh\nruntime={RUNTIME}\n{script}\n")
        path.chmod(0o755)
        return os.fspath(path)

    return write


def without(spec: dict[str, Any], section: str) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != section}


async def refused(machine: Machine, spec: dict[str, Any]) -> GcsError:
    """Expect that a create fails and leaves nothing, neither file nor notification."""
    container_id = machine.new_id()
    with pytest.raises(GcsError) as caught:
        await machine.create(container_id=container_id, spec=spec)
    assert not machine.bundle(container_id).exists()
    with pytest.raises(SystemNotFoundError):
        machine.host.require_container(container_id)
    assert machine.notifications.empty()
    return caught.value


@pytest.mark.parametrize("section", ["process", "root", "linux"])
@pytest.mark.parametrize("null", [False, True])
async def test_create_without_a_section(machine: Machine, section: str, null: bool) -> None:
    spec = without(machine.specification("true"), section)
    if null:
        spec[section] = None
    error = await refused(machine, spec)
    assert isinstance(error, InvalidJsonError)
    assert section in error.message


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("process", []),
        ("mounts", {}),
        ("mounts", [5]),
        ("annotations", {"a": 1}),
        ("linux", {"namespaces": "all"}),
        ("hostname", 7),
    ],
)
async def test_create_with_a_section_of_another_type(
    machine: Machine, section: str, value: Any
) -> None:
    spec = {**machine.specification("true"), section: value}
    assert isinstance(await refused(machine, spec), InvalidJsonError)


@pytest.mark.parametrize(
    ("section", "value", "hresult", "text"),
    [
        ("hostname", "bad host!", HResult.FAIL, "bad host!"),
        ("hostname", "x\n10.0.0.1 evil", HResult.FAIL, "hostname"),
        ("hostname", "x" * 256, HResult.FAIL, "hostname"),
        ("root", {"path": "/nope"}, HResult.FAIL, "/nope"),
        ("root", {}, HResult.INVALID_JSON, "root.path"),
        ("annotations", {CRI_TYPE: "bogus"}, HResult.FAIL, f"unsupported '{CRI_TYPE}': 'bogus'"),
        ("annotations", {CRI_TYPE: "container"}, HResult.FAIL, SANDBOX_ID),
        ("annotations", {CRI_TYPE: "container", SANDBOX_ID: "nope"}, HResult.FAIL, "pod nope"),
        ("annotations", {CRI_TYPE: "sandbox"}, HResult.NOT_FOUND, "network namespace"),
        ("process", {"args": ["no-such-program"], "cwd": "/"}, HResult.FAIL, "no-such-program"),
        ("process", {"args": [], "cwd": "/"}, HResult.FAIL, "args"),
        ("process", {"args": ["true", "a\0b"], "cwd": "/"}, HResult.INVALID_ARGUMENT, "NUL"),
        ("process", {"args": ["true"], "cwd": "relative"}, HResult.FAIL, "absolute"),
        (
            "process",
            {"args": ["no-such-program"], "cwd": "/", "terminal": True},
            HResult.FAIL,
            "no-such-program",
        ),
    ],
)
async def test_create_with_a_value_that_cannot_be(
    machine: Machine, section: str, value: Any, hresult: int, text: str
) -> None:
    error = await refused(machine, {**machine.specification("true"), section: value})
    assert error.hresult == hresult
    assert text in error.message


async def test_null_mounts_are_harmless(machine: Machine) -> None:
    spec = machine.specification("true")
    spec["mounts"].append(None)
    assert (await machine.run(spec=spec))[0] == 0


@pytest.mark.parametrize("container_id", ["", ".", "..", "../../x", "a/b", "a b", "a\0", "x" * 256])
async def test_id_that_is_no_name(machine: Machine, container_id: str) -> None:
    settings = ContainerSettings(
        oci_bundle_path="/run/gcs/c/x", oci_specification=machine.specification("true")
    )
    with pytest.raises(InvalidArgumentError):
        await machine.host.create_container(container_id, None, settings)


@pytest.mark.parametrize("path", ["", "relative", "/", "//", "/..", "/a\0"])
async def test_bundle_path_that_is_none(machine: Machine, path: str) -> None:
    settings = ContainerSettings(
        oci_bundle_path=path, oci_specification=machine.specification("true")
    )
    with pytest.raises(InvalidArgumentError):
        await machine.host.create_container(machine.new_id(), None, settings)


async def test_bundle_that_cannot_be_made(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    with pytest.raises(GcsError, match=str(tmp_path / "c")):
        await machine.create("true")


async def test_failed_create_leaves_what_the_host_made(machine: Machine) -> None:
    container_id = machine.new_id()
    (machine.bundle(container_id) / "rootfs").mkdir(parents=True)
    with pytest.raises(GcsError):
        await machine.create("no-such-program", container_id=container_id)
    assert os.listdir(machine.bundle(container_id)) == ["rootfs"]


async def test_id_that_is_taken(machine: Machine) -> None:
    container_id = await machine.create("true")
    with pytest.raises(SystemAlreadyExistsError):
        await machine.create("true", container_id=container_id)
    pid = await machine.start(container_id)
    assert await machine.wait(container_id, pid) == 0
    await machine.host.delete_container_state(container_id)
    await machine.create("true", container_id=container_id)


async def test_id_that_somebody_else_has_taken_in_runc(new_machine: NewMachine) -> None:
    machine = new_machine()
    other = new_machine(children=machine.children)
    container_id = await machine.create("true")
    with pytest.raises(SystemAlreadyExistsError):
        await other.create("true", container_id=container_id)
    # Not killed in passing.
    pid = await machine.start(container_id)
    assert await machine.wait(container_id, pid) == 0


async def test_everything_is_refused_while_a_container_is_created(
    new_machine: NewMachine, fake_runc: Callable[[str], str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    gate = shlex.quote(os.fspath(tmp_path / "gate"))
    script = f'case "$*" in *" create "*) read x <{gate};; esac; exec $runtime "$@"'
    machine = new_machine(program=fake_runc(script))
    container_id = machine.new_id()
    creating = asyncio.create_task(machine.create("true", container_id=container_id))
    opened = await asyncio.to_thread(open, tmp_path / "gate", "w")
    host = machine.host
    attempts = (
        machine.start(container_id),
        machine.exec(container_id, "true"),
        machine.wait(container_id, 1),
        host.signal_process(container_id, 1, 9),
        host.resize_console(container_id, 1, 1, 1),
        host.shutdown_container(container_id, graceful=True),
        host.properties(container_id, PropertyQuery()),
        machine.modify(container_id, "ContainerConstraints", {}),
        host.delete_container_state(container_id),
    )
    for attempt in attempts:
        with pytest.raises(InvalidStateError, match="still being created"):
            await attempt
    with pytest.raises(SystemAlreadyExistsError):
        await machine.create("true", container_id=container_id)
    opened.write("go\n")
    opened.close()
    await creating
    assert await machine.wait(container_id, await machine.start(container_id)) == 0


async def test_unknown_container(machine: Machine) -> None:
    host = machine.host
    for container_id in ("deadbeef", "", "../x"):
        attempts = (
            machine.start(container_id),
            machine.exec(container_id, "true"),
            machine.wait(container_id, 1),
            host.signal_process(container_id, 1, 9),
            host.resize_console(container_id, 1, 1, 1),
            host.shutdown_container(container_id, graceful=False),
            host.properties(container_id, PropertyQuery()),
            machine.modify(container_id, "ContainerConstraints", {}),
            host.delete_container_state(container_id),
        )
        for attempt in attempts:
            with pytest.raises(SystemNotFoundError):
                await attempt


async def test_unknown_process(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    host = machine.host
    attempts = (
        machine.wait(container, 99999),
        host.signal_process(container, 99999, 9),
        host.resize_console(container, 99999, 1, 1),
    )
    for attempt in attempts:
        with pytest.raises(GcsError) as caught:
            await attempt
        assert caught.value.hresult == HResult.NOT_FOUND


async def test_no_terminal_no_resize(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    pid = await machine.start(container)
    with pytest.raises(GcsError, match=f"pid: {pid}, is not a tty and cannot be resized"):
        await machine.host.resize_console(container, pid, 1, 1)


@pytest.mark.parametrize("names", ["stdin", "stdout", "stderr"])
async def test_start_without_a_listener_can_be_repeated(machine: Machine, names: str) -> None:
    container = await machine.create("sh", "-c", "echo out; exit 3")
    streams = await machine.streams("stdin stdout stderr")
    await streams.all[names].close()
    with pytest.raises(GcsError, match=str(streams.all[names].port)):
        await machine.start(container, streams)
    order = list(streams.all)
    for name in order[: order.index(names)]:
        assert await streams.all[name].read_all() == b""
    again = await machine.streams()
    pid = await machine.start(container, again)
    assert await again.stdout.read_all() == b"out\n"
    assert await machine.wait(container, pid) == 3


async def test_exec_without_a_listener(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    streams = await machine.streams("stdin stdout stderr")
    await streams.stderr.close()
    with pytest.raises(GcsError, match=str(streams.stderr.port)):
        await machine.exec(container, "sleep", "1000", streams=streams)
    assert await streams.stdout.read_all() == b""
    assert len((await machine.properties(container, "ProcessList")).process_list) == 1


@pytest.mark.parametrize(
    ("process", "hresult", "text"),
    [
        ([], HResult.INVALID_JSON, "OciProcess"),
        ("sh", HResult.INVALID_JSON, "OciProcess"),
        ({"args": "true"}, HResult.INVALID_JSON, "args"),
        ({"args": ["true", "\0"], "cwd": "/"}, HResult.INVALID_ARGUMENT, "NUL"),
        ({"args": [], "cwd": "/"}, HResult.FAIL, "args"),
        ({}, HResult.FAIL, "no args"),
        ({"args": ["no-such-program"], "cwd": "/"}, HResult.FAIL, "no-such-program"),
        (
            {"args": ["no-such-program"], "cwd": "/", "terminal": True},
            HResult.FAIL,
            "no-such-program",
        ),
        ({"args": ["true"], "cwd": "relative"}, HResult.FAIL, "absolute"),
    ],
)
async def test_exec_of_what_cannot_be_run(
    machine: Machine, process: Any, hresult: int, text: str
) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    with pytest.raises(GcsError, match=text) as caught:
        await machine.execute(container, oci_process=process)
    assert caught.value.hresult == hresult
    assert len((await machine.properties(container, "ProcessList")).process_list) == 1


async def test_links_in_a_working_directory_do_not_lead_out(
    machine: Machine, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    container = await machine.create("sh", "-c", f"ln -sfn {outside} /leads-out; sleep 1000")
    streams = await machine.streams()
    await machine.start(container)
    ready = await machine.exec(
        container, "sh", "-c", "until test -L /leads-out; do :; done", streams=streams
    )
    assert await machine.wait(container, ready) == 0
    with pytest.raises(GcsError):
        await machine.exec(container, "true", cwd="/leads-out/x")
    assert os.listdir(outside) == []


async def test_properties_of_the_vm(machine: Machine) -> None:
    with pytest.raises(GcsError) as caught:
        await machine.host.properties(UVM_ID, PropertyQuery())
    assert caught.value.hresult == HResult.FAIL


async def test_runtime_that_does_not_exist(new_machine: NewMachine) -> None:
    machine = new_machine(program="/nope/runc")
    error = await refused(machine, machine.specification("true"))
    assert "/nope/runc" in error.message
    assert "PATH" in error.message


async def test_runtime_that_hangs_is_killed(
    new_machine: NewMachine, fake_runc: Callable[[str], str]
) -> None:
    script = 'case "$*" in *" create "*) sleep 1000;; *) exec $runtime "$@";; esac'
    machine = new_machine(program=fake_runc(script), time_limit=0.3)
    error = await refused(machine, machine.specification("true"))
    assert "not done after 0.3 s" in error.message


async def test_runtime_that_is_killed_at_any_moment_leaves_nothing(
    new_machine: NewMachine,
) -> None:
    machine = new_machine()
    for milliseconds in range(2, 42, 4):
        other = new_machine(children=machine.children, time_limit=milliseconds / 1000)
        container = machine.new_id()
        try:
            await other.create("true", container_id=container)
        except GcsError as error:
            assert "was killed" in error.message  # noqa: PT017 - it may also be fast enough
            assert not machine.bundle(container).exists()
        else:
            # Now, since the first machine to be closed takes the children of all with it.
            await other.host.delete_container_state(container)


async def test_runtime_that_dies(new_machine: NewMachine, fake_runc: Callable[[str], str]) -> None:
    machine = new_machine(program=fake_runc("kill -9 $$"))
    error = await refused(machine, machine.specification("true"))
    assert "killed by signal 9" in error.message


async def test_runtime_that_says_nothing(
    new_machine: NewMachine, fake_runc: Callable[[str], str]
) -> None:
    machine = new_machine(program=fake_runc("exit 3"))
    error = await refused(machine, machine.specification("true"))
    assert "exit status 3, no message" in error.message


@pytest.mark.parametrize("terminal", [False, True])
async def test_runtime_that_succeeds_and_has_done_nothing(
    new_machine: NewMachine, fake_runc: Callable[[str], str], terminal: bool
) -> None:
    machine = new_machine(program=fake_runc("exit 0"))
    error = await refused(machine, machine.specification("true", terminal=terminal))
    assert "wrote no process id" in error.message


async def test_runtime_that_names_a_process_that_is_not_there(
    new_machine: NewMachine, fake_runc: Callable[[str], str]
) -> None:
    script = "while test $# -gt 0; do case $1 in --pid-file) echo 1 >$2;; esac; shift; done"
    machine = new_machine(program=fake_runc(script))
    error = await refused(machine, machine.specification("true"))
    assert "process 1 is no child of the agent" in error.message


async def test_errors_of_one_call_are_not_reported_by_another(
    new_machine: NewMachine, fake_runc: Callable[[str], str]
) -> None:
    # Fails the same way twice, but the second time with nothing in its log.
    script = 'case "$*" in *" exec "*silent) exit 5;; *) exec $runtime "$@";; esac'
    machine = new_machine(program=fake_runc(script))
    container = await machine.create("sleep", "1000", container_id=machine.new_id() + "silent")
    await machine.start(container)
    with pytest.raises(GcsError, match="exit status 5, no message"):
        await machine.exec(container, "no-such-program")


async def test_delete_that_fails_forgets_the_container(
    new_machine: NewMachine, fake_runc: Callable[[str], str]
) -> None:
    script = 'case "$*" in *" delete "*) echo broken >&2; exit 1;; *) exec $runtime "$@";; esac'
    machine = new_machine(program=fake_runc(script))
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    with pytest.raises(GcsError, match="broken"):
        await machine.host.delete_container_state(container)
    assert machine.notifications.get_nowait().type == "ForcedExit"
    with pytest.raises(SystemNotFoundError):
        await machine.host.delete_container_state(container)
    tidy = [RUNTIME, "delete", "--force", container]
    assert (await asyncio.to_thread(subprocess.run, tidy, check=True)).returncode == 0
