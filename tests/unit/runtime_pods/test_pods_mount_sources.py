"""Mounts with prefixes: where they lead, and where they don't (spec 4.5, no. 2)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import GcsError
from gcs.runtime.pods.mount_sources import edit_block_devices, edit_mount_sources
from gcs.runtime.pods.sandbox_directories import make_sandbox_directories
from tests.support.pods import edit_of, guest
from tests.support.storage import RecordingMounts

if TYPE_CHECKING:
    from pathlib import Path

PREFIXES = [("sandbox://", "sandboxMounts"), ("sandbox-tmp://", "sandboxTmpfsMounts")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root directory of a pod, with what its sandbox has made."""
    directory = tmp_path / "pod"
    make_sandbox_directories(edit_of(directory, "sandbox"))
    return directory


def sources(root: Path, *given: str, kind: str = "workload", **more: Any) -> list[str]:
    mounts = [
        {"destination": f"/m{number}", "source": source} for number, source in enumerate(given)
    ]
    edit = edit_of(root, kind, mounts=mounts, **more)
    edit_mount_sources(edit)
    return [mount["source"] for mount in edit.document["mounts"]]


@pytest.mark.parametrize("kind", ["sandbox", "workload", "standalone"])
@pytest.mark.parametrize(("prefix", "directory"), PREFIXES)
def test_a_missing_source_is_made_for_everybody(
    root: Path, prefix: str, directory: str, kind: str
) -> None:
    before = os.umask(0o077)
    try:
        assert sources(root, f"{prefix}a/b", kind=kind) == [f"{root}/{directory}/a/b"]
        # Not changed, however short: others create files at the same time.
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    for made in ("a", "a/b"):
        assert (root / directory / made).stat().st_mode & 0o777 == 0o777


def test_an_existing_source_stays_as_it_is(root: Path) -> None:
    (root / "sandboxMounts/dir").mkdir(mode=0o700)
    (root / "sandboxMounts/file").write_text("x")
    assert sources(root, "sandbox://dir", "sandbox:///dir/../file") == [
        f"{root}/sandboxMounts/dir",
        f"{root}/sandboxMounts/file",
    ]
    assert (root / "sandboxMounts/dir").stat().st_mode & 0o777 == 0o700
    assert (root / "sandboxMounts/file").read_text() == "x"


def test_the_whole_directory(root: Path) -> None:
    assert sources(root, "sandbox://", "sandbox://.") == [f"{root}/sandboxMounts"] * 2


@pytest.mark.parametrize("prefix", ["sandbox://", "sandbox-tmp://", "hugepages://"])
@pytest.mark.parametrize(
    "path",
    ["..", "../sandboxMounts-evil", "a/../../x", "/../../etc", "../sandboxMounts/x", "2M/../.."],
)
def test_no_way_up(root: Path, prefix: str, path: str) -> None:
    with pytest.raises(GcsError, match="leads out of"):
        sources(root, prefix + path)


@pytest.mark.parametrize("target", ["/etc", "../../..", "/proc/self/cwd"])
@pytest.mark.parametrize("path", ["link", "link/deeper", "dir/link/x"])
def test_no_way_out_by_a_link(root: Path, target: str, path: str) -> None:
    shared = root / "sandboxMounts"
    (shared / "dir").mkdir()
    (shared / "link").symlink_to(target)
    (shared / "dir/link").symlink_to("../link")
    with pytest.raises(GcsError, match="leads out of"):
        sources(root, f"sandbox://{path}")


def test_a_link_inside_is_resolved_for_the_runtime(root: Path) -> None:
    shared = root / "sandboxMounts"
    (shared / "real").mkdir()
    (shared / "link").symlink_to("real")
    assert sources(root, "sandbox://link/x") == [f"{shared}/real/x"]


def test_a_dangling_link(root: Path) -> None:
    (root / "sandboxMounts/link").symlink_to("nowhere")
    with pytest.raises(GcsError, match="link"):
        sources(root, "sandbox://link")
    assert not (root / "sandboxMounts/nowhere").exists()


def test_a_shared_directory_that_was_replaced_by_a_link(root: Path) -> None:
    (root / "sandboxMounts").rmdir()
    (root / "sandboxMounts").symlink_to("/etc")
    with pytest.raises(GcsError, match="sandboxMounts"):
        sources(root, "sandbox://x")


def test_undoing_removes_exactly_what_was_made(root: Path) -> None:
    (root / "sandboxMounts/a").mkdir()
    with ExitStack() as undo:
        sources(root, "sandbox://a/b/c", "sandbox://d", undo=undo)
        assert (root / "sandboxMounts/a/b/c").is_dir()
    assert os.listdir(root / "sandboxMounts") == ["a"]
    assert os.listdir(root / "sandboxMounts/a") == []


def test_hugepages_are_mounted(root: Path) -> None:
    mounts = RecordingMounts()
    place = f"{root}/hugepages/2M/a"
    with ExitStack() as undo:
        vm = guest(mounts)
        assert sources(root, "hugepages://2M/a", vm=vm, undo=undo) == [place]
        assert mounts.mount_calls() == [("none", place, "hugetlbfs", 0, "pagesize=2M")]
        assert os.stat(place).st_mode & 0o777 == 0o777
        # Another container of the pod with the same pages.
        assert sources(root, "hugepages://2M/a", vm=vm, undo=undo) == [place]
        assert len(mounts.mount_calls()) == 1
    assert mounts.table == []
    assert os.listdir(root / "hugepages") == []


def test_a_directory_is_not_taken_for_a_mount(root: Path) -> None:
    (root / "hugepages/2M/a").mkdir(parents=True)
    mounts = RecordingMounts()
    sources(root, "hugepages://2M/a", vm=guest(mounts))
    assert mounts.table == [f"{root}/hugepages/2M/a"]


def test_a_size_the_kernel_does_not_have(root: Path) -> None:
    mounts = RecordingMounts()
    mounts.failures[f"{root}/hugepages/3M/a"] = 22
    with ExitStack() as undo, pytest.raises(GcsError, match=r"hugepages://3M/a.*Invalid argument"):
        sources(root, "hugepages://3M/a", vm=guest(mounts), undo=undo)
    assert os.listdir(root / "hugepages") == []


@pytest.mark.parametrize("path", ["", "2M", "2M/", "/2M/..", "M/a", "2M,uid=0/a", "2X/a", "a/2M"])
def test_bad_hugepages(root: Path, path: str) -> None:
    with pytest.raises(GcsError, match="expected hugepages://"):
        sources(root, f"hugepages://{path}")
    assert os.listdir(root / "hugepages") == []


def test_paths_of_the_vm(root: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert sources(root, f"uvm://{tmp_path}/there") == [f"{tmp_path}/there"]
    with pytest.raises(GcsError, match=r"uvm://.*missing.*No such file"):
        sources(root, f"uvm://{tmp_path}/missing")
    with pytest.raises(GcsError, match="absolute"):
        sources(root, "uvm://etc")


def test_other_sources_are_left_alone(root: Path) -> None:
    others = ["proc", "/run/mounts/scsi/m1", "", "sandbox:/x", "/sandbox://x"]
    assert sources(root, *others) == others


class TestBlockDevices:
    """A disk as a device node in the container."""

    def edited(self, root: Path, mount: dict[str, Any], **sections: Any) -> dict[str, Any]:
        edit = edit_of(root, mounts=[mount], **sections)
        edit_block_devices(edit)
        return edit.document

    @pytest.mark.parametrize(("options", "access"), [(["ro"], "r"), (["rw"], "rwm"), (None, "rwm")])
    def test_the_container_may_use_it(self, tmp_path: Path, options: Any, access: str) -> None:
        link = tmp_path / "m0"
        link.symlink_to("/dev/null")
        mount = {
            "destination": "blockdev:///dev/disk",
            "source": os.fspath(link),
            "type": "bind",
            "options": options,
        }
        document = self.edited(tmp_path, mount)
        assert document["mounts"][0]["destination"] == "/dev/disk"
        assert document["mounts"][0]["source"] == os.fspath(link)
        assert document["linux"]["resources"]["devices"] == [
            {"allow": True, "type": "c", "major": 1, "minor": 3, "access": access}
        ]

    @pytest.mark.parametrize("resources", [None, {}, {"devices": None}, {"memory": {"limit": 1}}])
    def test_missing_sections_are_made(self, tmp_path: Path, resources: Any) -> None:
        mount = {"destination": "blockdev:///d", "source": "/dev/null"}
        document = self.edited(tmp_path, mount, linux={"resources": resources})
        assert len(document["linux"]["resources"]["devices"]) == 1

    @pytest.mark.parametrize("source", ["missing", "file", "dangling", ""])
    def test_what_is_no_device(self, tmp_path: Path, source: str) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "dangling").symlink_to("missing")
        mount = {"destination": "blockdev:///d", "source": source and f"{tmp_path}/{source}"}
        with pytest.raises(GcsError, match="block device"):
            self.edited(tmp_path, mount)

    def test_a_destination_that_is_no_path(self, tmp_path: Path) -> None:
        mount = {"destination": "blockdev://d", "source": "/dev/null"}
        with pytest.raises(GcsError, match="absolute path"):
            self.edited(tmp_path, mount)
