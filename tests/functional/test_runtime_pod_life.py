"""Pods from the first request to the last: sandboxes, workloads, what runs in them (spec 2.6)."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import (
    GcsError,
    InvalidArgumentError,
    InvalidStateError,
    NotFoundError,
    SystemAlreadyExistsError,
    SystemNotFoundError,
)
from gcs.protocol.message import UVM_ID
from tests.functional.runtime_support import Machine
from tests.support.leaks import footprint
from tests.support.pods import LCOW, SKIP_NETWORK, TYPE, VIRTUAL_POD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SIGTERM, SIGKILL, SIGUSR1 = 15, 9, 10
MIB = 1 << 20
DIRECTORIES = "/run/gcs/pods"
TEE_LOG = "io.microsoft.container.lcow.tee-log-path"


@pytest.fixture
async def machine(tmp_path: Path, busybox_rootfs: Path) -> AsyncIterator[Machine]:
    marks = f"gcstest{os.getpid()}x", os.fspath(tmp_path)
    before = footprint(*marks)
    machine = Machine(tmp_path, busybox_rootfs)
    yield machine
    await machine.close()
    assert footprint(*marks) == before
    bundles = tmp_path / "c"
    assert not bundles.exists() or not list(bundles.iterdir())


def pod_cgroups(pod: str) -> list[str]:
    """Directories of a pod's control group, in all hierarchies."""
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(f"/pods/{pod}")]


def cpu_shares(pod: str) -> list[str]:
    """CPU shares of a pod's control group, or its weight on cgroup v2."""
    names = ("cpu.shares", "cpu.weight")
    files = [Path(path, name) for path in pod_cgroups(pod) for name in names]
    return [file.read_text() for file in files if file.exists()]


async def run(machine: Machine, container: str) -> tuple[int, bytes]:
    """Start a container; return its exit code and output."""
    streams = await machine.streams()
    pid = await machine.start(container, streams)
    output, code = await asyncio.gather(streams.stdout.read_all(), machine.wait(container, pid))
    return code, output


async def test_workloads_share_the_namespaces_and_files_of_their_sandbox(machine: Machine) -> None:
    pod = await machine.create_sandbox()
    pid = await machine.start(pod)
    shared = [
        {"destination": "/shared", "type": "bind", "source": "sandbox://x", "options": ["rbind"]}
    ]
    script = "hostname; cat /etc/hostname; echo here >>/shared/file; wc -l </shared/file"
    for lines in (1, 2):
        workload = await machine.create_workload(
            pod, "sh", "-c", script, sandbox_pid=pid, mounts=shared
        )
        code, output = await run(machine, workload)
        assert (code, output.decode().split()) == (0, ["test.example"] * 2 + [str(lines)])
        assert machine.notifications.get_nowait().container_id == workload
        await machine.host.delete_container_state(workload)
    assert pod_cgroups(pod)
    await machine.host.delete_container_state(pod)
    assert pod_cgroups(pod) == []
    assert machine.notifications.get_nowait().type == "ForcedExit"
    assert machine.notifications.empty()


async def test_exec_signals_and_terminal_in_a_workload(machine: Machine) -> None:
    pod = await machine.create_sandbox()
    await machine.start(pod)
    workload = await machine.create_workload(
        pod,
        "sleep",
        "1000",
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}],
        user={"username": "root"},
    )
    init = await machine.start(workload)
    streams = await machine.streams()
    pid = await machine.exec(workload, "sh", "-c", "ulimit -n; exit 3", streams=streams)
    assert await streams.stdout.read_all() == b"512\n"
    assert await machine.wait(workload, pid) == 3
    streams = await machine.streams("stdin stdout")
    pid = await machine.exec(
        workload, "sh", "-c", "read x; stty size", streams=streams, terminal=True
    )
    await machine.host.resize_console(workload, pid, 12, 34)
    await streams.stdin.send(b"go\n")
    assert b"12 34\r\n" in await streams.stdout.read_all()
    pid = await machine.exec(workload, "sleep", "1000")
    await machine.host.signal_process(workload, pid, SIGUSR1)
    assert await machine.wait(workload, pid) == 128 + SIGUSR1
    await machine.host.signal_process(workload, init, SIGKILL)
    assert await machine.wait(workload, init) == 128 + SIGKILL
    assert machine.notifications.get_nowait().type == "ForcedExit"


async def test_statistics_and_limits(machine: Machine) -> None:
    pod = await machine.create_sandbox()
    await machine.start(pod)
    limited = {"resources": {"memory": {"limit": 64 * MIB}, "cpu": {"shares": 512}}}
    script = "echo ready; exec sleep 1000"
    workload = await machine.create_workload(pod, "sh", "-c", script, linux=limited)
    streams = await machine.streams()
    pid = await machine.start(workload, streams)
    await streams.stdout.read_until(b"ready\n")  # before, it is the runtime, with its threads
    properties = await machine.properties(workload, "Statistics", "ProcessList")
    assert [entry.process_id for entry in properties.process_list] == [pid]
    metrics = properties.metrics
    assert metrics is not None
    assert metrics["memory"]["usage"]["limit"] == 64 * MIB
    assert metrics["memory"]["hierarchical_memory_limit"] == 64 * MIB
    assert metrics["memory"]["usage"]["usage"] > 0
    assert metrics["cpu"]["usage"]["total"] > 0
    assert metrics["pids"]["current"] == 1
    assert {"blkio", "memory_oom_control"} <= set(metrics)
    settings = {"Linux": {"memory": {"limit": 32 * MIB}, "cpu": {"shares": 256}}}
    await machine.modify(workload, "ContainerConstraints", settings, "Update")
    metrics = (await machine.properties(workload, "Statistics")).metrics
    assert metrics is not None
    assert metrics["memory"]["usage"]["limit"] == 32 * MIB


async def test_the_sandbox_s_limits_are_those_of_the_pod(machine: Machine) -> None:
    spec = machine.specification("sleep", "1000")
    spec["annotations"] = {TYPE: "sandbox", SKIP_NETWORK: "true"}
    spec["linux"]["resources"] = {"cpu": {"shares": 2, "quota": -1, "period": 100_000}}
    pod = await machine.create(spec=spec)
    assert cpu_shares(pod) in (["2\n"], ["1\n"])


async def test_who_ran_out_of_memory_is_in_the_log(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    limited = {"resources": {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}}}
    pod = await machine.create_sandbox()
    workload = await machine.create_workload(pod, "tail", "/dev/zero", linux=limited)
    with caplog.at_level(logging.WARNING):
        assert await machine.wait(workload, await machine.start(workload)) == 137
    (entry,) = [record for record in caplog.records if "out of memory" in record.message]
    assert vars(entry)["cid"] == workload
    assert vars(entry)["oom-kills"] == 1
    notification = machine.notifications.get_nowait()
    assert notification.type == "UnexpectedExit"
    assert notification.out_of_memory_kills == 1


async def test_the_sandbox_goes_before_its_workloads(machine: Machine) -> None:
    """Workloads stay, and the last one takes the control group along."""
    pod = await machine.create_sandbox()
    await machine.start(pod)
    first = await machine.create_workload(pod, "sleep", "1000")
    second = await machine.create_workload(pod, "true")
    await machine.start(first)
    await machine.host.delete_container_state(pod)
    with pytest.raises(GcsError, match=f"pod {pod} does not exist"):
        await machine.create_workload(pod, "true")
    assert await machine.wait(second, await machine.start(second)) == 0
    assert len((await machine.properties(first, "ProcessList")).process_list) == 1
    await machine.host.delete_container_state(first)
    assert pod_cgroups(pod)
    await machine.host.delete_container_state(second)
    assert pod_cgroups(pod) == []


async def test_a_pod_can_be_made_again(machine: Machine) -> None:
    pod = machine.new_id()
    for _ in range(2):
        await machine.create_sandbox(pod=pod)
        with pytest.raises(SystemAlreadyExistsError):
            await machine.create_sandbox(pod=pod)
        await machine.host.delete_container_state(pod)


async def test_a_create_that_fails_leaves_its_pod_as_it_was(machine: Machine) -> None:
    pod = machine.new_id()
    with pytest.raises(GcsError, match="nothing-there"):
        await machine.create_sandbox("nothing-there", pod=pod)
    assert pod_cgroups(pod) == []
    with pytest.raises(GcsError, match="does not exist"):
        await machine.create_workload(pod, "true")
    await machine.create_sandbox(pod=pod)
    with pytest.raises(GcsError, match="nothing-there"):
        await machine.create_workload(pod, "nothing-there")
    workload = await machine.create_workload(pod, "true")
    await machine.host.delete_container_state(workload)


async def test_sandbox_without_a_network(machine: Machine) -> None:
    """Namespaces come with their adapters."""
    spec = machine.specification("true")
    spec["annotations"] = {TYPE: "sandbox"}
    with pytest.raises(NotFoundError, match="network namespace"):
        await machine.create(spec=spec)


async def test_virtual_pod(machine: Machine, tmp_path: Path) -> None:
    """Two pods in one VM, as hosts of the first generation have them."""
    first = await machine.create_sandbox()
    virtual = machine.new_id()
    pod = await machine.create_sandbox(pod=virtual, **{VIRTUAL_POD: virtual})
    root = tmp_path / "c/virtual-pods" / virtual
    assert (root / "hostname").read_text() == "test.example\n"
    workload = await machine.create_workload(
        first, "cat", "/etc/hostname", annotations={VIRTUAL_POD: virtual}
    )
    assert await run(machine, workload) == (0, b"test.example\n")
    assert pod_cgroups(virtual)
    await machine.host.delete_container_state(workload)
    await machine.host.delete_container_state(pod)
    assert not root.parent.exists()
    assert pod_cgroups(virtual) == []
    assert pod_cgroups(first)


@pytest.mark.parametrize("sandbox_first", [False, True])
async def test_paths_of_the_second_generation(machine: Machine, sandbox_first: bool) -> None:
    pod = machine.new_id()
    directory = f"{DIRECTORIES}/{pod}"
    await machine.create_sandbox(pod=pod, bundle=f"{directory}/{pod}")
    workload = await machine.create_workload(
        pod, "cat", "/etc/hostname", bundle=f"{directory}/{machine.new_id()}"
    )
    assert await run(machine, workload) == (0, b"test.example\n")
    order = (pod, workload) if sandbox_first else (workload, pod)
    for container in order:
        assert pod in os.listdir(DIRECTORIES)
        await machine.host.delete_container_state(container)
    assert pod not in os.listdir(DIRECTORIES)


async def test_network_of_the_vm_reaches_the_workloads(machine: Machine) -> None:
    pod = await machine.create_sandbox(**{f"{LCOW}.hostnetwork": "true"})
    workload = await machine.create_workload(pod, "readlink", "/proc/self/ns/net")
    assert await run(machine, workload) == (0, os.readlink("/proc/self/ns/net").encode() + b"\n")


async def test_output_is_copied_to_the_log_of_the_pod(machine: Machine) -> None:
    pod = await machine.create_sandbox()
    workload = await machine.create_workload(
        pod, "sh", "-c", "echo out; echo err >&2", annotations={TEE_LOG: "a/b.log"}
    )
    assert await run(machine, workload) == (0, b"out\n")
    log = machine.bundle(pod) / "logs/a/b.log"
    assert sorted(log.read_text().split()) == ["err", "out"]


async def test_start_with_a_log_that_cannot_be_opened(machine: Machine) -> None:
    pod = await machine.create_sandbox()
    workload = await machine.create_workload(pod, "true", annotations={TEE_LOG: "b.log"})
    log = machine.bundle(pod) / "logs/b.log"
    log.symlink_to("/etc/passwd")
    with pytest.raises(GcsError, match=r"b\.log"):
        await machine.start(workload)
    log.unlink()
    assert await machine.wait(workload, await machine.start(workload)) == 0


async def test_pause_and_resume(machine: Machine) -> None:
    pod = await machine.create_sandbox()
    workload = await machine.create_workload(pod, "sh", "-c", "while read x; do echo $x; done")
    streams = await machine.streams("stdin stdout")
    with pytest.raises(InvalidStateError):
        await set_state(machine, workload, "Paused")
    pid = await machine.start(workload, streams)
    for _ in range(2):
        await set_state(machine, workload, "Paused")
    assert frozen(pid)
    with pytest.raises(InvalidStateError, match="paused"):
        await machine.exec(workload, "true")
    await streams.stdin.send(b"hello\n")
    for _ in range(2):
        await set_state(machine, workload, "Running")
    assert await streams.stdout.read_until(b"\n") == b"hello\n"
    await streams.stdin.end()
    assert await machine.wait(workload, pid) == 0
    with pytest.raises(InvalidStateError):
        await set_state(machine, workload, "Running")


async def test_requests_for_a_state_that_there_is_not(machine: Machine) -> None:
    container = await machine.create("true")
    with pytest.raises(InvalidArgumentError, match="Frozen"):
        await set_state(machine, container, "Frozen")
    with pytest.raises(GcsError, match='"Add" is not supported'):
        await machine.modify(container, "ContainerState", {"State": "Paused"})
    with pytest.raises(SystemNotFoundError):
        await set_state(machine, UVM_ID, "Paused")


@pytest.mark.parametrize("way", ["signal", "shutdown", "delete"])
async def test_a_paused_container_can_be_killed(machine: Machine, way: str) -> None:
    container = await machine.create("sleep", "1000")
    pid = await machine.start(container)
    await set_state(machine, container, "Paused")
    waiting = asyncio.create_task(machine.wait(container, pid))
    await asyncio.sleep(0)
    if way == "signal":
        await machine.host.signal_process(container, pid, SIGKILL)
    elif way == "shutdown":
        await machine.host.shutdown_container(container, graceful=False)
    else:
        await machine.host.delete_container_state(container)
    assert await waiting == 137
    assert machine.notifications.get_nowait().type == "ForcedExit"


async def test_a_signal_waits_for_the_end_of_a_pause(machine: Machine) -> None:
    script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done"
    container = await machine.create("sh", "-c", script)
    streams = await machine.streams()
    pid = await machine.start(container, streams)
    await streams.stdout.read_until(b"ready\n")
    await set_state(machine, container, "Paused")
    await machine.host.signal_process(container, pid, SIGTERM)
    assert frozen(pid)
    await set_state(machine, container, "Running")
    assert await machine.wait(container, pid) == 42
    assert machine.notifications.get_nowait().type == "GracefulExit"


async def test_streams_come_back_with_the_host(machine: Machine) -> None:
    container = await machine.create("sh", "-c", "while read x; do echo $x; done; exit 5")
    streams = await machine.streams("stdin stdout")
    pid = await machine.start(container, streams)
    await streams.stdin.send(b"one\n")
    assert await streams.stdout.read_until(b"\n") == b"one\n"
    machine.host.bridge_lost()
    again = {name: await machine.listen_again(stream) for name, stream in streams.all.items()}
    machine.host.bridge_connected()
    await again["stdin"].send(b"two\n")
    assert (await again["stdout"].read_until(b"two\n")) in (b"one\ntwo\n", b"two\n")
    await again["stdin"].end()
    assert await again["stdout"].read_all() == b""
    assert await machine.wait(container, pid) == 5


async def test_many_pods_at_once(machine: Machine) -> None:
    """Five pods of ten containers: everything happens once, and nothing is left of it."""

    async def workload(pod: str, number: int) -> None:
        script = f"echo {pod} {number}; exit {number}"
        container = await machine.create_workload(pod, "sh", "-c", script)
        assert await run(machine, container) == (number, f"{pod} {number}\n".encode())
        await machine.host.delete_container_state(container)

    async def life(_: int) -> None:
        pod = await machine.create_sandbox()
        await machine.start(pod)
        await asyncio.gather(*(workload(pod, number) for number in range(9)))
        await machine.host.delete_container_state(pod)
        assert pod_cgroups(pod) == []

    await asyncio.gather(*map(life, range(5)))
    names = [machine.notifications.get_nowait().container_id for _ in range(50)]
    assert len(set(names)) == 50
    assert machine.notifications.empty()


async def set_state(machine: Machine, container: str, state: str) -> None:
    await machine.modify(container, "ContainerState", {"State": state}, "Update")


def frozen(pid: int) -> bool:
    """Whether the kernel keeps a process from running."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "freezer":
            return Path(f"/sys/fs/cgroup/freezer{path}/freezer.state").read_text() == "FROZEN\n"
        if not controllers and Path(f"/sys/fs/cgroup{path}/cgroup.events").exists():
            return "frozen 1" in Path(f"/sys/fs/cgroup{path}/cgroup.events").read_text()
    raise AssertionError(pid)
