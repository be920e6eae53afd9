"""Which version is in use (spec 4.7, 10.4, 10.5)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gcs.cgroup import detect
from gcs.cgroup.v1 import V1Manager
from gcs.protocol.errors import GcsError, InvalidArgumentError
from tests.support.cgroup_trees import V1, V2, plant

if TYPE_CHECKING:
    from pathlib import Path


def test_unified(tmp_path: Path) -> None:
    manager = detect(plant(tmp_path, V2))
    assert (manager.version, manager.root) == ("v2", str(tmp_path))


def test_legacy(tmp_path: Path) -> None:
    manager = detect(plant(tmp_path, V1))
    assert isinstance(manager, V1Manager)
    assert (manager.version, manager.root) == ("v1", str(tmp_path))
    assert manager.hierarchies["cpuacct"] == f"{tmp_path}/cpu,cpuacct"
    assert set(manager.hierarchies) == {
        "memory",
        "pids",
        "cpu",
        "cpuacct",
        "blkio",
        "hugetlb",
        "rdma",
        "systemd",
    }


def test_links_of_joint_hierarchies_are_no_hierarchies(tmp_path: Path) -> None:
    plant(tmp_path, V1)
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    manager = V1Manager(str(tmp_path))
    assert manager.hierarchies["cpu"] == f"{tmp_path}/cpu,cpuacct"
    assert f"{tmp_path}/cpu/pods/c" not in manager.group("/pods/c").directories()


@pytest.mark.parametrize("controllers", ["", "hugetlb"])
def test_hybrid_with_memory_in_version_1(tmp_path: Path, controllers: str) -> None:
    files = {"unified/cgroup.procs": "1\n", "unified/cgroup.controllers": f"{controllers}\n"}
    manager = detect(plant(tmp_path, {**V1, **files}))
    assert isinstance(manager, V1Manager)
    # The runtime makes groups there, too, which have to be removed with the others.
    assert f"{tmp_path}/unified/c" in manager.group("/c").directories()


def test_hybrid_with_memory_in_version_2(tmp_path: Path) -> None:
    manager = detect(
        plant(
            tmp_path,
            {"unified/cgroup.controllers": "cpu memory\n", "systemd/cgroup.procs": "1\n"},
        )
    )
    assert (manager.version, manager.root) == ("v2", f"{tmp_path}/unified")


@pytest.mark.parametrize("name", ["", "none"])
def test_nothing_mounted(tmp_path: Path, name: str) -> None:
    with pytest.raises(GcsError, match=r"no control groups are mounted|cannot list"):
        detect(os.path.join(tmp_path, name))


@pytest.mark.parametrize("files", [V1, V2])
@pytest.mark.parametrize("path", ["", "/", "//", "pods", "/pods/", "/pods//c", "/pods/../..", "/."])
def test_paths_that_are_none(tmp_path: Path, files: dict[str, str], path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="can't be the path of a control group"):
        detect(plant(tmp_path, files)).group(path)


def test_version_1_needs_its_memory_controller(tmp_path: Path) -> None:
    with pytest.raises(GcsError, match="CONFIG_MEMCG_V1"):
        detect(plant(tmp_path, {"pids/cgroup.procs": "1\n"})).prepare()


def test_hierarchical_accounting_is_switched_on(tmp_path: Path) -> None:
    file = tmp_path / "memory/memory.use_hierarchy"
    manager = detect(plant(tmp_path, {**V1, "memory/memory.use_hierarchy": "0\n"}))
    manager.prepare()
    assert file.read_text().startswith("1")
