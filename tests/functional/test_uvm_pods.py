"""Pods by the host library: each sequence of a host, against the real agent and the real runc."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import RemoteError
from gcs.protocol.hresult import HResult
from tests.support.uvm_agent import connected_agent, directories, nothing_left
from uvm.errors import UvmError
from uvm.pod import Pod
from uvm.process import Completed
from uvm.spec import ContainerOptions, ProcessOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from uvm.guest import Guest
    from uvm.pod import Layout

#: Begins the ids of all containers: others use this machine, too.
MARK = f"uvmpod{os.getpid():x}n"
ID = f"{MARK:0<63}"


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    with nothing_left(MARK):
        async with connected_agent() as (guest, _), asyncio.timeout(100):
            yield guest


def shell(script: str) -> ContainerOptions:
    return ContainerOptions(ProcessOptions(("/bin/sh", "-c", script)))


@pytest.fixture
def scratch(tmp_path: Path) -> str:
    return os.fspath(tmp_path)


@pytest.fixture(params=["v1", "v2"])
def layout(request: pytest.FixtureRequest) -> Layout:
    chosen: Layout = request.param
    return chosen


async def test_a_pod_from_its_sandbox_to_the_end(
    guest: Guest, busybox_rootfs: Path, scratch: str, layout: Layout
) -> None:
    pod = Pod(guest, [os.fspath(busybox_rootfs)], layout=layout, scratch=scratch, pod_id=f"{ID}1")
    await pod.start(hostname="the-pod")
    workload = await pod.create(shell("hostname; cat; exit 3"), f"{ID}2")
    process = await workload.start(stdin=True)
    assert await process.communicate(b"in\n") == Completed(3, b"the-pod\nin\n", b"")
    assert (await workload.wait_exit()).container_id == workload.id
    assert workload.id in os.listdir(os.path.dirname(workload.root))
    await pod.remove_workload(workload)
    assert workload.id not in os.listdir(os.path.dirname(workload.place.scratch_path))
    assert workload.id not in os.listdir(os.path.dirname(workload.root))
    with pytest.raises(RemoteError) as failure:
        await workload.process_ids()
    assert failure.value.hresult == HResult.SYSTEM_NOT_FOUND
    await pod.remove()
    assert directories(MARK) == []


async def test_workloads_share_what_is_the_pods(
    guest: Guest, busybox_rootfs: Path, scratch: str, layout: Layout
) -> None:
    pod = Pod(guest, [os.fspath(busybox_rootfs)], layout=layout, scratch=scratch, pod_id=f"{ID}1")
    await pod.start()
    assert pod.sandbox.init is not None
    script = "for n in ipc net uts pid mnt; do readlink /proc/self/ns/$n; done"
    workloads = [await pod.create(shell(script), f"{ID}{number}") for number in (2, 3)]
    outputs = []
    for workload in workloads:
        completed = await (await workload.start()).communicate()
        assert completed.exit_code == 0
        outputs.append(completed.stdout.decode().split())
    names = ("ipc", "net", "uts")
    expected = [os.readlink(f"/proc/{pod.sandbox.init.pid}/ns/{name}") for name in names]
    assert outputs[0][:3] == outputs[1][:3] == expected
    assert set(outputs[0][3:]).isdisjoint(outputs[1][3:])
    await pod.remove()


async def test_an_exec_an_update_statistics_and_a_kill(
    guest: Guest, busybox_rootfs: Path, scratch: str, layout: Layout
) -> None:
    pod = Pod(guest, [os.fspath(busybox_rootfs)], layout=layout, scratch=scratch, pod_id=f"{ID}1")
    await pod.start()
    workload = await pod.create(shell("exec sleep 1000"), f"{ID}2")
    init = await workload.start(output=False)
    executed = await workload.execute(ProcessOptions(("sh", "-c", "cat; exit 4")), stdin=True)
    assert await executed.communicate(b"data") == Completed(4, b"data", b"")
    await workload.update({"memory": {"limit": 64 << 20}})
    statistics = await workload.statistics()
    assert statistics["memory"]["usage"]["limit"] == 64 << 20
    assert statistics["pids"]["current"] == 1
    assert await workload.process_ids() == [init.pid]
    assert await workload.kill() == 128 + signal.SIGKILL
    await pod.remove()


async def test_a_paused_container_does_nothing_until_it_is_resumed(
    guest: Guest, busybox_rootfs: Path
) -> None:
    pod = Pod(guest, [os.fspath(busybox_rootfs)], pod_id=f"{ID}1")
    await pod.start()
    workload = await pod.create(shell("while read line; do echo $line; done"), f"{ID}2")
    process = await workload.start(stdin=True)
    await workload.pause()
    with pytest.raises(RemoteError, match="paused") as failure:
        await workload.execute(ProcessOptions(("true",)), output=False)
    assert failure.value.hresult == HResult.INVALID_STATE
    await workload.resume()
    assert await process.communicate(b"a\nb\n") == Completed(0, b"a\nb\n", b"")
    await pod.remove()


async def test_a_pod_that_was_not_started(guest: Guest, busybox_rootfs: Path) -> None:
    pod = Pod(guest, [os.fspath(busybox_rootfs)], pod_id=f"{ID}1")
    with pytest.raises(UvmError, match="has not been started"):
        await pod.create(shell("true"))
    with pytest.raises(RemoteError):
        await Pod(guest, [f"/{ID}nothing"], pod_id=f"{ID}1").start()


async def test_after_a_workload_that_failed_another_one_of_its_id(
    guest: Guest, busybox_rootfs: Path, scratch: str, layout: Layout
) -> None:
    pod = Pod(guest, [os.fspath(busybox_rootfs)], layout=layout, scratch=scratch, pod_id=f"{ID}1")
    await pod.start()
    with pytest.raises(RemoteError, match="nosuchprogram"):
        await pod.create(ContainerOptions(ProcessOptions(("nosuchprogram",))), f"{ID}2")
    assert pod.workloads == []
    workload = await pod.create(shell("exit 7"), f"{ID}2")
    assert (await (await workload.start()).communicate()).exit_code == 7
    await pod.remove()
