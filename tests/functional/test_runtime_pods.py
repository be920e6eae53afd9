"""Pods with real mounts, and containers that see what their specifications were edited to."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import glob
import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gcs.linux.mount import MS_BIND, mount, unmount
from gcs.linux.mountinfo import read_mounts
from gcs.protocol.errors import GcsError
from gcs.protocol.oci import read_specification
from gcs.runtime.bundle import remove_tree
from gcs.runtime.crun import adapt_bundle
from gcs.runtime.pods.network_files import Dns
from gcs.runtime.pods.pipeline import edit_specification
from gcs.runtime.pods.plan import ContainerPlan, plan_container
from gcs.runtime.pods.pod import Pods
from gcs.runtime.pods.sandbox_directories import remove_pod_directory, remove_sandbox_directories
from gcs.storage.mounts import KernelMounts
from tests.support.leaks import footprint
from tests.support.loop_disks import process_in, run
from tests.support.pods import LCOW, SANDBOX_ID, TYPE, VIRTUAL_POD, guest, recorded_creates
from tests.support.rootfs import build_rootfs, specification
from tests.support.runtimes import RUNTIME

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
MARK = f"gcspods{os.getpid()}x"
POD = f"{MARK}-pod"


class Machine:
    """A VM as far as specifications go: makes pods, runs containers with runc, deletes them."""

    def __init__(self, directory: Path, rootfs: Path) -> None:
        self.directory = directory
        self.rootfs = rootfs
        self.pods = Pods()
        self.mounts = KernelMounts()
        self.vm = guest(self.mounts)
        self.plans: list[ContainerPlan] = []

    def bundle(self, container_id: str) -> str:
        return f"{self.directory}/c/{container_id}"

    async def plan(
        self, container_id: str, spec: dict[str, Any], bundle: str = ""
    ) -> ContainerPlan:
        """Do what a Create does before the runtime is called."""
        document, view = read_specification(spec)
        plan = plan_container(container_id, view, bundle or self.bundle(container_id), self.pods)
        with ExitStack() as undo:
            undo.callback(self.pods.leave, plan.identity, plan.pod)
            await edit_specification(
                plan, document, view, guest=self.vm, dns=Dns((), ("1.1.1.1",)), undo=undo
            )
            undo.pop_all()
        os.makedirs(plan.bundle, exist_ok=True)
        write(f"{plan.bundle}/config.json", json.dumps(document))
        self.plans.append(plan)
        return plan

    async def sandbox(self, pod: str = POD, **annotations: str) -> ContainerPlan:
        given = {TYPE: "sandbox", **annotations}
        return await self.plan(pod, {**specification(self.rootfs, "true"), "annotations": given})

    async def run(
        self,
        script: str,
        *,
        kind: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        mounts: list[dict[str, Any]] | None = None,
        linux: dict[str, Any] | None = None,
        name: str = "w",
        **process: Any,
    ) -> str:
        """Run a script in a container, by default a workload of the pod; return its output."""
        spec = specification(self.rootfs, "sh", "-ec", script, **process)
        spec["annotations"] = {
            **({TYPE: "container", SANDBOX_ID: POD} if kind is None else kind),
            **(annotations or {}),
        }
        if kind is None:
            del spec["hostname"]
        spec["mounts"] += mounts or []
        spec["linux"].update(linux or {})
        plan = await self.plan(f"{MARK}-{name}", spec)
        return await asyncio.to_thread(self._run, plan)

    def _run(self, plan: ContainerPlan) -> str:
        if RUNTIME == "crun":
            adapt_bundle(plan.bundle)
        command = [RUNTIME, "--root", f"{self.directory}/runtime", "run", "--no-pivot"]
        done = subprocess.run(
            [*command, "-b", plan.bundle, plan.identity.container_id],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def delete(self, plan: ContainerPlan) -> None:
        self.plans.remove(plan)
        assert remove_sandbox_directories(plan.identity, plan.root, self.mounts) == []
        assert remove_tree(plan.bundle) == []
        self.pods.leave(plan.identity, plan.pod)

    def close(self) -> None:
        for plan in reversed(self.plans[:]):
            self.delete(plan)
        for path in glob.glob(f"/sys/fs/cgroup/*/pods/{MARK}*"):
            os.rmdir(path)


@pytest.fixture
def machine(tmp_path: Path, busybox_rootfs: Path) -> Iterator[Machine]:
    before = footprint(MARK, os.fspath(tmp_path))
    made = Machine(tmp_path, busybox_rootfs)
    yield made
    made.close()
    assert footprint(MARK, os.fspath(tmp_path)) == before
    assert not list((tmp_path / "c").iterdir())


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


def mounted(path: str) -> list[tuple[str, bool]]:
    """File system and whether it is shared, of each mount at a path."""
    entries = [entry for entry in read_mounts() if entry.target == path]
    return [(entry.filesystem, "shared" in entry.propagation) for entry in entries]


async def test_a_sandbox_has_its_directories(machine: Machine) -> None:
    plan = await machine.sandbox()
    assert mounted(plan.root.tmpfs_mounts) == [("tmpfs", True)]
    for path in (plan.root.mounts, plan.root.hugepages):
        ((_, shared),) = mounted(path)
        assert shared
    assert os.stat(plan.root.logs).st_mode & 0o777 == 0o777
    machine.delete(plan)
    assert not os.listdir(machine.directory / "c")


async def test_recorded_pod(machine: Machine) -> None:
    for container_id, settings in recorded_creates():
        spec = settings["OciSpecification"]
        spec["root"]["path"] = os.fspath(machine.rootfs)
        await machine.plan(container_id, copy.deepcopy(spec))
    sandbox, *workloads = machine.plans
    assert len(workloads) == 2
    assert {workload.root for workload in workloads} == {sandbox.root}


async def test_containers_of_a_pod_share_directories_and_files(machine: Machine) -> None:
    await machine.sandbox()
    mounts = [
        {"destination": "/disk", "type": "bind", "source": "sandbox://a/b", "options": ["rbind"]},
        {"destination": "/ram", "type": "bind", "source": "sandbox-tmp://a", "options": ["rbind"]},
    ]
    await machine.run("echo one >/disk/file; echo two >/ram/file", name="w1", mounts=mounts)
    script = (
        "cat /disk/file /ram/file; grep ' /ram ' /proc/mounts | cut -d' ' -f3; "
        "cat /etc/hosts /etc/resolv.conf"
    )
    output = (await machine.run(script, name="w2", mounts=mounts)).splitlines()
    assert output[:3] == ["one", "two", "tmpfs"]
    assert output[3:5] == ["127.0.0.1 localhost", "127.0.0.1 test.example test"]
    assert output[-1] == "nameserver 1.1.1.1"


async def test_users_write_to_what_is_shared(machine: Machine, tmp_path: Path) -> None:
    machine.rootfs = build_rootfs(tmp_path / "rootfs")
    (machine.rootfs / "etc/passwd").write_text("root:x:0:0::/:\nalice:x:1000:1001::/:\n")
    (machine.rootfs / "etc/group").write_text("staff:x:1001:\nwheel:x:10:alice\nother:x:11:bob\n")
    await machine.sandbox()
    output = await machine.run(
        "id -u; id -g; id -G; touch /disk/file",
        mounts=[
            {"destination": "/disk", "type": "bind", "source": "sandbox://d", "options": ["bind"]}
        ],
        user={"username": "alice", "additionalGids": [5]},
    )
    assert output.splitlines() == ["1000", "1001", "1001 5 10"]
    status = os.stat(f"{machine.bundle(POD)}/sandboxMounts/d/file")
    assert (status.st_uid, status.st_gid) == (1000, 1001)


async def test_hugepages_are_a_mount_of_their_own(machine: Machine) -> None:
    await machine.sandbox()
    mounts = [
        {"destination": "/huge", "type": "bind", "source": "hugepages://2M/h", "options": ["rbind"]}
    ]
    # The size of a file's blocks is that of the pages.
    script = "grep ' /huge ' /proc/mounts | cut -d' ' -f3; stat -f -c %S /huge"
    for name in ("w1", "w2"):
        output = await machine.run(script, name=name, mounts=mounts)
        assert output.splitlines() == ["hugetlbfs", str(2 * MIB)]
    assert len(mounted(f"{machine.bundle(POD)}/hugepages/2M/h")) == 1


async def test_a_size_of_pages_that_the_kernel_does_not_have(machine: Machine) -> None:
    plan = await machine.sandbox()
    mounts = [{"destination": "/huge", "source": "hugepages://3M/h"}]
    with pytest.raises(GcsError, match="hugepages://3M/h"):
        await machine.run("true", mounts=mounts)
    assert os.listdir(plan.root.hugepages) == []


async def test_a_disk_as_a_block_device(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"content of the disk\n".ljust(MIB, b"\0"))
    device = run("losetup", "--find", "--show", f"{tmp_path}/image").strip()
    try:
        (tmp_path / "m0").symlink_to(device)
        await machine.sandbox()
        script = "head -n1 /dev/disk; test -b /dev/disk; { echo over >/dev/disk; } 2>/dev/null"
        script += " || echo refused"
        outputs = {}
        for access in ("ro", "rw"):
            outputs[access] = await machine.run(
                script,
                name=access,
                mounts=[
                    {
                        "destination": "blockdev:///dev/disk",
                        "type": "bind",
                        "source": f"{tmp_path}/m0",
                        "options": ["bind", access],
                    }
                ],
            )
    finally:
        run("losetup", "--detach", device)
    assert outputs["ro"].startswith("content of the disk\n")
    assert outputs["ro"].endswith("refused\n")
    assert outputs["rw"] == "content of the disk\n"
    assert (tmp_path / "image").read_bytes().startswith(b"over\n")


async def test_devices_of_a_privileged_container(machine: Machine) -> None:
    await machine.sandbox()
    script = "test -c /dev/loop-control && head -c0 /dev/loop-control && echo has it || echo no"
    assert await machine.run(script, name="w1") == "no\n"
    privileged = {f"{LCOW}.privileged": "true"}
    assert await machine.run(script, name="w2", annotations=privileged) == "has it\n"
    listed = {"devices": [{"path": "/dev/loop-control"}]}
    assert await machine.run(script, name="w3", linux=listed) == "has it\n"


async def test_limits(machine: Machine) -> None:
    await machine.sandbox()
    shm = {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    }
    output = await machine.run(
        "df -k /dev/shm | tail -n1 | awk '{print $2}'; grep core /proc/self/limits",
        annotations={
            "io.microsoft.lcow.shm.size-kb": "128",
            "io.microsoft.lcow.rlimitcore": "1024;2048",
        },
        mounts=[shm],
    )
    assert output.split() == ["128", "Max", "core", "file", "size", "1024", "2048", "bytes"]


async def test_the_network_of_the_vm(machine: Machine) -> None:
    await machine.sandbox(**{f"{LCOW}.hostnetwork": "true"})
    assert (
        await machine.run("readlink /proc/self/ns/net") == os.readlink("/proc/self/ns/net") + "\n"
    )


async def test_logs_are_mounted(machine: Machine) -> None:
    plan = await machine.sandbox()
    write(f"{plan.root.logs}/other.log", "said before\n")
    annotations = {"io.microsoft.container.lcow.tee-log-dir-mount": "/var/log/pod"}
    assert (
        await machine.run("cat /var/log/pod/other.log", annotations=annotations) == "said before\n"
    )


async def test_a_standalone_container_shares_with_nobody(machine: Machine) -> None:
    mounts = [
        {"destination": "/ram", "type": "bind", "source": "sandbox-tmp://a", "options": ["rbind"]},
        {
            "destination": "/vm",
            "type": "bind",
            "source": "uvm:///proc/version",
            "options": ["bind"],
        },
    ]
    script = "touch /ram/file; cat /vm; cat /etc/hostname"
    output = await machine.run(script, kind={}, mounts=mounts, name="alone")
    version, hostname = output.splitlines()
    assert version.startswith("Linux version")
    assert hostname == "test.example"
    (plan,) = machine.plans
    assert mounted(plan.root.tmpfs_mounts) == [("tmpfs", True)]


async def test_root_of_a_virtual_pod_goes_with_its_sandbox(machine: Machine) -> None:
    virtual = {VIRTUAL_POD: POD}
    plan = await machine.sandbox(**virtual)
    root = f"{machine.directory}/c/virtual-pods/{POD}"
    assert plan.root.path == root
    mounts = [{"destination": "/a", "type": "bind", "source": "sandbox://a", "options": ["bind"]}]
    workload = {TYPE: "container", **virtual}
    spec = {**specification(machine.rootfs, "true"), "annotations": workload, "mounts": mounts}
    del spec["hostname"]
    await machine.plan(f"{MARK}-w", spec)
    assert os.listdir(f"{root}/sandboxMounts") == ["a"]
    machine.close()
    assert os.listdir(f"{machine.directory}/c") == []


async def test_directory_of_a_pod_of_the_second_generation(machine: Machine) -> None:
    prefix = f"{machine.directory}/pods"
    spec = {**specification(machine.rootfs, "true"), "annotations": {TYPE: "sandbox"}}
    plan = await machine.plan(POD, spec, f"{prefix}/{POD}/{POD}")
    (machine.directory / "c").mkdir()
    machine.delete(plan)
    remove_pod_directory(plan.bundle, prefix)
    assert os.listdir(prefix) == []


async def test_two_pods_share_nothing(machine: Machine) -> None:
    other = f"{MARK}-other"
    one, two = await machine.sandbox(), await machine.sandbox(other)
    mounts = [{"destination": "/a", "type": "bind", "source": "sandbox://a", "options": ["bind"]}]
    await machine.run("touch /a/file", name="w1", mounts=mounts)
    in_other = {TYPE: "container", SANDBOX_ID: other}
    spec = {**specification(machine.rootfs, "true"), "annotations": in_other, "mounts": mounts}
    del spec["hostname"]
    await machine.plan(f"{MARK}-w2", spec)
    assert os.listdir(f"{one.root.mounts}/a") == ["file"]
    assert os.listdir(f"{two.root.mounts}/a") == []
    machine.delete(one)
    assert mounted(two.root.tmpfs_mounts) == [("tmpfs", True)]


async def test_what_is_in_use_is_named_and_the_rest_goes(machine: Machine) -> None:
    plan = await machine.sandbox()
    with process_in(plan.root.tmpfs_mounts):
        failures = remove_sandbox_directories(plan.identity, plan.root, machine.mounts)
    assert len(failures) == 1
    assert f"{plan.root.tmpfs_mounts}" in failures[0]
    assert mounted(plan.root.mounts) == []


async def test_a_failure_leaves_no_mount(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    spec = specification(machine.rootfs, "true")
    mounts = [
        {"destination": "/h", "source": "hugepages://2M/h"},
        {"destination": "/a", "source": "sandbox-tmp://a"},
        {"destination": "/x", "source": "uvm:///missing"},
    ]
    spec.update(annotations={TYPE: "sandbox"}, mounts=mounts)
    with pytest.raises(GcsError, match="/missing"):
        await machine.plan(POD, spec)
    assert machine.pods.find(POD) is None
    assert os.listdir(tmp_path / "c") == []


async def test_a_root_below_a_mount_and_a_link(machine: Machine, tmp_path: Path) -> None:
    """The first generation's scratch disk is mounted at the bundle itself."""
    place = machine.bundle(POD)
    (tmp_path / "disk").mkdir()
    os.makedirs(place)
    mount(os.fspath(tmp_path / "disk"), place, "", MS_BIND)
    try:
        (tmp_path / "link").symlink_to("c")
        spec = {**specification(machine.rootfs, "true"), "annotations": {TYPE: "sandbox"}}
        plan = await machine.plan(POD, spec, f"{tmp_path}/link/{POD}")
        assert mounted(f"{place}/sandboxTmpfsMounts") == [("tmpfs", True)]
        machine.plans.remove(plan)
        assert remove_sandbox_directories(plan.identity, plan.root, machine.mounts) == []
    finally:
        with contextlib.suppress(OSError):
            unmount(place)
    shutil.rmtree(place)
