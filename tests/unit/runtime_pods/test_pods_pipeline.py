"""The edits of specifications as a whole, for every kind of container."""

from __future__ import annotations

import copy
import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from gcs.linux.mount import MS_BIND, MS_REC, MS_SHARED
from gcs.protocol.errors import GcsError, InvalidJsonError
from gcs.protocol.oci import Specification, read_specification
from gcs.runtime.pods.network_files import Dns
from gcs.runtime.pods.pipeline import edit_specification
from gcs.runtime.pods.plan import ContainerPlan, plan_container
from gcs.runtime.pods.pod import Pods
from tests.support.pods import KINDS, LCOW, guest, recorded_creates, specification
from tests.support.storage import RecordingMounts

if TYPE_CHECKING:
    from pathlib import Path

SHARED = ["hugepages", "sandboxMounts", "sandboxTmpfsMounts"]


class Creation:
    """Creates containers as far as their specifications go, in a directory of the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pods = Pods()
        self.mounts = RecordingMounts()
        self.vm = guest(self.mounts)
        self.undo = ExitStack()

    def bundle(self, container_id: str) -> str:
        return f"{self.directory}/c/{container_id}"

    async def edit(
        self, container_id: str, spec: dict[str, Any]
    ) -> tuple[ContainerPlan, dict[str, Any], Specification]:
        document, view = read_specification(spec)
        plan = plan_container(container_id, view, self.bundle(container_id), self.pods)
        self.undo.callback(self.pods.leave, plan.identity, plan.pod)
        edited = await edit_specification(
            plan, document, view, guest=self.vm, dns=Dns((), ("1.1.1.1",)), undo=self.undo
        )
        return plan, document, edited

    def existing(self) -> list[str]:
        return sorted(os.listdir(self.directory / "c")) if (self.directory / "c").exists() else []


class FailingMounts(RecordingMounts):
    """The n-th mount fails."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self._failing = failing

    def mount(
        self, source: str, target: str, filesystem: str, flags: int = 0, data: str = ""
    ) -> None:
        if len(self.mount_calls()) == self._failing:
            raise OSError(errno.ENOMEM, "mount: no memory", target)
        super().mount(source, target, filesystem, flags, data)


async def test_recorded_pod(tmp_path: Path) -> None:
    creation = Creation(tmp_path)
    (pod, request), *workloads = recorded_creates()
    original = copy.deepcopy(request["OciSpecification"])
    plan, document, view = await creation.edit(pod, request["OciSpecification"])
    assert document == {
        **{key: value for key, value in original.items() if key != "windows"},
        "linux": {**original["linux"], "cgroupsPath": f"/pods/{pod}/{pod}"},
    }
    assert view.linux is not None
    assert view.linux.cgroups_path == f"/pods/{pod}/{pod}"
    root = tmp_path / "c" / pod
    assert sorted(os.listdir(root)) == sorted([*SHARED, "logs", "hostname", "hosts", "resolv.conf"])
    assert (root / "hostname").read_text() == "pod-host.example.com\n"
    assert (root / "resolv.conf").read_text() == "nameserver 1.1.1.1\n"
    for container_id, settings_ in workloads:
        spec = settings_["OciSpecification"]
        original = copy.deepcopy(spec)
        workload, document, _ = await creation.edit(container_id, spec)
        assert workload.root == plan.root
        mounts = [
            {
                "destination": f"/etc/{name}",
                "type": "bind",
                "source": f"{root}/{name}",
                "options": ["bind"],
            }
            for name in ("hostname", "hosts", "resolv.conf")
        ]
        assert document == {
            **{key: value for key, value in original.items() if key != "windows"},
            "mounts": [*original["mounts"], *mounts],
            "linux": {**original["linux"], "cgroupsPath": f"/pods/{pod}/{container_id}"},
        }
    assert creation.existing() == [pod]
    creation.undo.close()
    assert creation.existing() == []
    assert creation.mounts.table == []


async def test_directories_of_a_sandbox(tmp_path: Path) -> None:
    creation = Creation(tmp_path)
    await creation.edit("p", specification(annotations=KINDS["sandbox"]))
    root = creation.bundle("p")
    propagation = MS_SHARED | MS_REC
    assert creation.mounts.mount_calls() == [
        (f"{root}/sandboxMounts", f"{root}/sandboxMounts", "", MS_BIND, ""),
        ("", f"{root}/sandboxMounts", "", propagation, ""),
        ("tmpfs", f"{root}/sandboxTmpfsMounts", "tmpfs", 0, ""),
        ("", f"{root}/sandboxTmpfsMounts", "", propagation, ""),
        (f"{root}/hugepages", f"{root}/hugepages", "", MS_BIND, ""),
        ("", f"{root}/hugepages", "", propagation, ""),
    ]
    for name in SHARED:
        assert os.stat(f"{root}/{name}").st_mode & 0o777 == 0o755
    assert os.stat(f"{root}/logs").st_mode & 0o777 == 0o777


async def test_a_standalone_container_has_the_directories_it_asks_for(tmp_path: Path) -> None:
    creation = Creation(tmp_path)
    mounts = [{"destination": "/x", "source": "sandbox-tmp://x", "type": "bind"}]
    _, document, _ = await creation.edit("c1", specification(mounts=mounts))
    root = creation.bundle("c1")
    assert document["mounts"][0]["source"] == f"{root}/sandboxTmpfsMounts/x"
    assert creation.mounts.table == [f"{root}/sandboxTmpfsMounts"]
    assert sorted(os.listdir(root)) == ["hostname", "hosts", "resolv.conf", "sandboxTmpfsMounts"]


@pytest.mark.parametrize("kind", ["sandbox", "workload", "standalone"])
async def test_every_kind_has_every_feature(tmp_path: Path, kind: str) -> None:
    creation = Creation(tmp_path)
    pod = "c1"
    if kind == "workload":
        pod = "pod1"
        await creation.edit(pod, specification(annotations=KINDS["sandbox"]))
    (tmp_path / "rootfs/etc").mkdir(parents=True)
    (tmp_path / "rootfs/etc/passwd").write_text("alice:x:5:6::/:\n")
    spec = {
        "process": {"user": {"username": "alice"}, "rlimits": [{"type": "RLIMIT_CORE", "soft": 9}]},
        "root": {"path": f"{tmp_path}/rootfs"},
        "linux": {"namespaces": [{"type": "network"}, {"type": "pid"}]},
        "mounts": [
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": []},
            {"destination": "/shared", "source": "sandbox://s"},
            {"destination": "/huge", "source": "hugepages://2M/h"},
            {"destination": "/vm", "source": f"uvm://{tmp_path}"},
            {"destination": "blockdev:///disk", "source": "/dev/null", "options": ["ro"]},
        ],
        "annotations": {
            **KINDS[kind],
            "io.microsoft.lcow.shm.size-kb": "128",
            "io.microsoft.lcow.rlimitcore": "1;2",
            f"{LCOW}.hostnetwork": "true",
            "io.microsoft.container.lcow.tee-log-dir-mount": "/logs",
        },
        "windows": {},
    }
    _, document, view = await creation.edit("c1", spec)
    sources = {mount["destination"]: mount["source"] for mount in document["mounts"]}
    root = creation.bundle(pod)
    assert sources["/shared"] == f"{root}/sandboxMounts/s"
    assert sources["/huge"] == f"{root}/hugepages/2M/h"
    assert sources["/vm"] == os.fspath(tmp_path)
    assert sources["/disk"] == "/dev/null"
    assert sources["/logs"] == f"{root}/logs"
    (shm,) = [mount for mount in document["mounts"] if mount["destination"] == "/dev/shm"]
    assert shm["options"] == ["nosuid", "noexec", "nodev", "mode=1777", "size=128k"]
    assert document["process"]["rlimits"] == [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]
    assert view.process is not None
    assert (view.process.user.uid, view.process.user.gid) == (5, 6)
    expected = ["network", "pid"] if kind == "workload" else ["pid"]
    assert [entry["type"] for entry in document["linux"]["namespaces"]] == expected
    assert "windows" not in document


async def test_second_generation_layout(tmp_path: Path) -> None:
    creation = Creation(tmp_path)
    bundle = f"{tmp_path}/pods/p/p"
    document, view = read_specification(specification(annotations=KINDS["sandbox"]))
    plan = plan_container("p", view, bundle, creation.pods)
    await edit_specification(plan, document, view, guest=creation.vm, dns=Dns(), undo=creation.undo)
    assert sorted(os.listdir(bundle)) == sorted(
        [*SHARED, "logs", "hostname", "hosts", "resolv.conf"]
    )
    creation.undo.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failing", range(6))
async def test_a_mount_that_fails_leaves_nothing(tmp_path: Path, failing: int) -> None:
    creation = Creation(tmp_path)
    creation.vm.mounts = creation.mounts = FailingMounts(failing)
    with pytest.raises(GcsError, match="container p: sandbox directories: mount: no memory"):
        await creation.edit("p", specification(annotations=KINDS["sandbox"]))
    assert creation.mounts.table == []
    assert os.listdir(tmp_path) == []


async def test_a_step_that_fails_late_leaves_nothing(tmp_path: Path) -> None:
    creation = Creation(tmp_path)
    mounts = [
        {"destination": "/a", "source": "sandbox://a/b"},
        {"destination": "/h", "source": "hugepages://2M/h"},
        {"destination": "/x", "source": "uvm:///missing/entirely"},
    ]
    with pytest.raises(GcsError, match="/missing/entirely"):
        await creation.edit("c1", specification(mounts=mounts))
    assert creation.mounts.table == []
    assert creation.existing() == []


@pytest.mark.parametrize("kind", ["sandbox", "workload", "standalone"])
async def test_a_root_without_a_path(tmp_path: Path, kind: str) -> None:
    creation = Creation(tmp_path)
    await creation.edit("pod1", specification(annotations=KINDS["sandbox"]))
    with pytest.raises(InvalidJsonError, match=r"root\.path"):
        await creation.edit("c1", specification("", annotations=KINDS[kind]))


#: What could stand where the schema says nothing.
_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
_EMPTY: st.SearchStrategy[Any] = st.none() | st.just({})


def _object(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object any of whose members may be missing."""
    return st.fixed_dictionaries({}, optional=members)


_MOUNT = _object(
    destination=st.sampled_from(["", "/x", "blockdev:///x", "/dev/shm", None]),
    source=st.sampled_from(["", "/dev/null", "sandbox://x", "uvm:///", "hugepages://", None]),
    options=st.sampled_from([None, [], ["ro", None]]),
)
_DEVICE = _object(path=st.just("/dev/null") | _JUNK, major=_JUNK) | st.none()
_SECTIONS = _object(
    process=_object(user=_EMPTY | st.just({"username": "5"}), rlimits=_JUNK),
    root=st.just({"path": "rootfs", "readonly": True}) | _EMPTY,
    linux=_object(
        resources=_JUNK | _object(devices=_JUNK),
        devices=st.none() | st.lists(_DEVICE, max_size=2),
        namespaces=st.none() | st.lists(_object(type=st.just("network")) | st.none(), max_size=2),
    ),
    mounts=st.none() | st.lists(_MOUNT | st.none(), max_size=3),
    hooks=_JUNK,
    windows=_EMPTY | _object(network=_EMPTY, devices=st.sampled_from([None, [], [None]])),
    hostname=st.sampled_from(["", "h", None]),
)
_ANNOTATIONS = st.dictionaries(
    st.sampled_from(
        [
            "io.microsoft.lcow.rlimitcore",
            f"{LCOW}.hostnetwork",
            "io.microsoft.lcow.shm.size-kb",
            "io.microsoft.container.lcow.tee-log-path",
        ]
    ),
    st.sampled_from(["", "1", "1;1", "true", "a/b"]),
    max_size=3,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(kind=st.sampled_from(sorted(KINDS)), sections=_SECTIONS, annotations=_ANNOTATIONS)
async def test_no_missing_or_odd_section_crashes_anything(
    tmp_path: Path, kind: str, sections: dict[str, Any], annotations: dict[str, str]
) -> None:
    creation = Creation(tmp_path)
    spec = {**specification(), **sections, "annotations": {**KINDS[kind], **annotations}}
    with creation.undo:
        if kind == "workload":
            await creation.edit("pod1", specification(annotations=KINDS["sandbox"]))
        try:
            _, document, view = await creation.edit("c1", spec)
        except GcsError:
            assert creation.existing() == (["pod1"] if kind == "workload" else [])
        else:
            assert view.linux is not None
            assert document["linux"]["cgroupsPath"] == view.linux.cgroups_path != ""
    assert creation.existing() == []
    assert creation.mounts.table == []
