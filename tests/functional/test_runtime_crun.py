"""A container's life with crun; `make test-crun` runs all tests of containers with it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError, SystemAlreadyExistsError
from gcs.runtime.runc import find_runtime
from tests.functional.runtime_support import Machine
from tests.support.leaks import footprint
from tests.support.runtimes import prepare_crun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def machine(
    tmp_path: Path, busybox_rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Machine]:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    prepare_crun()
    marks = (f"gcstest{os.getpid()}x", os.fspath(tmp_path))
    before = footprint(*marks)
    machine = Machine(tmp_path, busybox_rootfs, program="crun")
    yield machine
    await machine.close()
    assert footprint(*marks) == before


async def test_streams_and_exit_code(machine: Machine) -> None:
    container = await machine.create("sh", "-c", "cat; echo bad >&2; exit 7")
    streams = await machine.streams("stdin stdout stderr")
    pid = await machine.start(container, streams)
    await streams.stdin.send(b"through crun\n")
    await streams.stdin.end()
    assert await streams.stdout.read_all() == b"through crun\n"
    assert await streams.stderr.read_all() == b"bad\n"
    assert await machine.wait(container, pid) == 7
    await machine.host.delete_container_state(container)


async def test_terminal_exec_and_signal(machine: Machine) -> None:
    # Standard input stays open, or the shell would end at once.
    container = await machine.create("sh", terminal=True)
    streams = await machine.streams("stdin stdout")
    init = await machine.start(container, streams)
    await streams.stdin.send(b"test -t 0 && echo is-a-$((1))-terminal\n")
    await streams.stdout.read_until(b"is-a-1-terminal")
    output = await machine.streams("stdout")
    first = await machine.exec(container, "sh", "-c", "echo inside; exit 3", streams=output)
    assert await output.stdout.read_all() == b"inside\n"
    assert await machine.wait(container, first) == 3
    second = await machine.exec(container, "sleep", "1000")
    await machine.host.signal_process(container, second, signal.SIGTERM)
    assert await machine.wait(container, second) == 128 + signal.SIGTERM
    with pytest.raises(GcsError, match="no-such-program"):
        await machine.exec(container, "no-such-program")
    await machine.host.shutdown_container(container, graceful=False)
    assert await machine.wait(container, init) == 128 + signal.SIGKILL
    await machine.host.delete_container_state(container)


async def test_pause_update_statistics_and_delete(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    for state in ("Paused", "Running"):
        await machine.modify(container, "ContainerState", {"State": state}, "Update")
    limits = {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}
    await machine.modify(container, "ContainerConstraints", {"Linux": limits})
    with pytest.raises(GcsError, match="crun update: resources: Expected `int"):
        await machine.modify(
            container, "ContainerConstraints", {"Linux": {"memory": {"limit": "much"}}}
        )
    properties = await machine.properties(container, "Statistics", "ProcessList")
    assert properties.metrics is not None
    assert properties.process_list is not None
    assert len(properties.process_list) == 1
    with pytest.raises(SystemAlreadyExistsError):
        await machine.create("true", container_id=container)
    await machine.host.delete_container_state(container)  # kills it
    assert machine.notifications.get_nowait().type == "ForcedExit"


def test_which_runtime_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert find_runtime() == "runc"
    for name in ("crun", "runc"):
        (tmp_path / name).touch(0o755)
        assert find_runtime() == name
