"""Containers to be, for tests of the runtime floor's edits; nothing here needs privileges."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcs.protocol.errors import GcsError
from gcs.protocol.oci import read_specification
from gcs.runtime.pods.annotations import read_annotations
from gcs.runtime.pods.edit import AssignedDevices, Edit, Guest
from gcs.runtime.pods.kind import identify
from gcs.runtime.pods.network_files import Dns
from gcs.runtime.pods.sandbox_root import SandboxRoot
from tests.support.storage import RecordingMounts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gcs.storage.mounts import MountSystem

GOLDEN = Path(
    os.environ.get("GCS_GOLDEN") or Path(__file__).parents[2].parent / "shared" / "golden"
)
TYPE = "io.kubernetes.cri.container-type"
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
VIRTUAL_POD = "io.microsoft.cri.virtual-pod-id"
SKIP_NETWORK = "io.microsoft.cri.skip-pod-networking"
LCOW = "io.microsoft.virtualmachine.lcow"

#: Annotations of a sandbox, of a workload of the pod `pod1`, and of a container of its own.
KINDS: dict[str, dict[str, str]] = {
    "sandbox": {TYPE: "sandbox"},
    "workload": {TYPE: "container", SANDBOX_ID: "pod1"},
    "standalone": {},
}


async def no_pci_device(device_id: str) -> str:
    raise GcsError(f"no PCI device {device_id}")


def guest(
    mounts: MountSystem | None = None,
    find_pci_device: Callable[[str], Awaitable[str]] = no_pci_device,
    **settings: Any,
) -> Guest:
    settings.setdefault("hostname", "the-vm")
    return Guest(
        mounts=RecordingMounts() if mounts is None else mounts,
        find_pci_device=find_pci_device,
        **settings,
    )


def specification(rootfs: str = "rootfs", **sections: Any) -> dict[str, Any]:
    """The least that a host may send, and what else a test wants."""
    return {"process": {"args": ["true"]}, "root": {"path": rootfs}, "linux": {}, **sections}


def edit_of(
    directory: Path,
    kind: str = "workload",
    *,
    container_id: str = "c1",
    dns: Dns | None = None,
    assigned: AssignedDevices | None = None,
    vm: Guest | None = None,
    annotations: dict[str, str] | None = None,
    host_network: bool = False,
    undo: ExitStack | None = None,
    **sections: Any,
) -> Edit:
    """An edit of a container whose pod has its root in a directory."""
    given = {**KINDS[kind], **(annotations or {})}
    spec = specification(annotations=given, **sections)
    document, view = read_specification(spec)
    values = read_annotations(view.annotations)
    return Edit(
        document,
        view,
        identity=identify(container_id, view, values),
        annotations=values,
        bundle=os.fspath(directory),
        root=SandboxRoot(os.fspath(directory)),
        host_network=host_network,
        guest=vm or guest(),
        dns=dns or Dns(),
        assigned=assigned or AssignedDevices(),
        undo=ExitStack() if undo is None else undo,
    )


def recorded_creates() -> list[tuple[str, dict[str, Any]]]:
    """Id and settings of each container of the recorded pod: its sandbox, then its workloads."""
    found = []
    with (GOLDEN / "pod-sandbox-workload-exec.jsonl").open() as lines:
        for line in lines:
            message = json.loads(line)
            if message["type"] == "Request/Create":
                body = message["body"]
                found.append((body["ContainerId"], json.loads(body["ContainerConfig"])))
    return found
