"""A recorded pod, from its sandbox to its deletion: the agent answers as the reference did."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcs.linux.mount import MNT_DETACH, mount, mounts_under, unmount
from tests.functional.test_golden import Replay, read_exchange
from tests.support.rootfs import build_rootfs
from tests.support.wires import NetworkNamespace, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.fakehost import HostConnection, Reply, Rig

DISKS = ("MappedVirtualDisk", "SCSIDevice")
LAYERS = (Path("/run/mounts/scsi/m5"), Path("/run/mounts/scsi/m6"))
CONTAINERS = Path("/run/gcs/c")
# The recording says what its containers and execs do.
PAUSE = "#!/bin/sh\ntrap 'exit 0' TERM\nsleep 100000 &\nwait\n"
ADAPTER = "00:15:5d:00:00:01"
READY_PORT = 1073742037


class PodReplay(Replay):
    """Replays the pod with directories in place of disks."""

    async def request(self, message: dict[str, Any]) -> None:
        if message["type"] == "Request/Create":
            body = message["body"]
            settings = json.loads(body["ContainerConfig"])
            spec = settings["OciSpecification"]
            for namespace in spec["linux"]["namespaces"]:
                if "path" in namespace:
                    namespace["path"] = re.sub(
                        r"\d+", lambda pid: str(self.pids[int(pid[0])]), namespace["path"]
                    )
            config = json.dumps(settings)
            message = {**message, "body": {**body, "ContainerConfig": config}}
        await super().request(message)

    def compare(self, message: dict[str, Any], reply: Reply) -> None:
        expected = message["body"]
        if expected["Result"]:
            assert reply.body["Result"] == expected["Result"], reply.body
            assert reply.body["ErrorRecords"][0]["Result"] == expected["Result"]
        elif "Properties" in expected:
            self._compare_properties(expected["Properties"], reply.body["Properties"])
        else:
            super().compare(message, reply)

    def _compare_properties(self, expected: str, actual: str) -> None:
        wanted, found = json.loads(expected), json.loads(actual)
        assert set(found) == set(wanted)
        if "ProcessList" in wanted:
            # The init, and what it may just be running.
            init = self.pids[wanted["ProcessList"][0]["ProcessId"]]
            assert {"ProcessId": init} in found["ProcessList"]
        else:
            # Huge pages are a matter of the kernel; the fields, of the version of control groups.
            metrics = wanted["LCOWMetrics"]
            metrics.pop("hugetlb")
            assert set(metrics) - {"rdma"} <= set(found["LCOWMetrics"])
            assert found["LCOWMetrics"]["memory"]["usage"].keys() >= {"usage", "limit"}
            assert found["LCOWMetrics"]["pids"]["current"] >= 1


async def test_a_pod_as_recorded(agent: Rig, connection: HostConnection) -> None:
    def leave_out(message: dict[str, Any]) -> bool:
        return message["body"].get("Request", {}).get("ResourceType") in DISKS

    messages = read_exchange("pod-sandbox-workload-exec.jsonl")
    creates = [m["body"]["ContainerId"] for m in messages if m["type"] == "Request/Create"]
    replay = PodReplay(agent.host, connection, leave_out)
    with disks(CONTAINERS / creates[0]), NetworkNamespace() as far:
        Wire(None, far, mac=ADAPTER)
        started, resized = position(messages, 270), position(messages, 288) + 2
        await replay.run(messages[:started])
        await replay.outputs[READY_PORT].says(b"ready\n")
        await replay.run(messages[started:resized])
        await replay.write(next(iter(replay.inputs)), b"x\n")
        await replay.run(messages[resized:])
        outputs = [await output for output in replay.outputs.values()]
    assert b"out\n" in outputs
    assert b"err\n" in outputs
    assert b"ready\nusr1\nterm\n" in outputs
    assert any(b"77 211" in output for output in outputs)


def position(messages: list[dict[str, Any]], sequence: int) -> int:
    """Where the request with an id is."""
    return next(n for n, m in enumerate(messages) if m["id"] == sequence)


@contextlib.contextmanager
def disks(scratch: Path) -> Iterator[None]:
    """Make what the disks of the recording bring, and leave nothing of it."""
    for layer in LAYERS:
        build_rootfs(layer)
        (layer / "pause").write_text(PAUSE)
        (layer / "pause").chmod(0o755)
    scratch.mkdir(parents=True)
    mount("tmpfs", str(scratch), "tmpfs")
    try:
        yield
    finally:
        for path in mounts_under(str(scratch)):
            unmount(path, MNT_DETACH)
        for directory in (scratch, *LAYERS):
            shutil.rmtree(directory)
