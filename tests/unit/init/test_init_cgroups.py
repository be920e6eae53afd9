"""Which version of control groups is mounted, on a double of the kernel."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from gcs.init import kmsg
from gcs.init.cgroups import AGENT_GROUP, CgroupMounter, enter
from gcs.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID
from gcs.runtime.memory import AGENT_CGROUP
from tests.support.recording import RecordingSyscalls

if TYPE_CHECKING:
    from pathlib import Path

SAFE = MS_NODEV | MS_NOSUID | MS_NOEXEC
CGROUPS = """#subsys_name\thierarchy\tnum_cgroups\tenabled
cpuset\t3\t1\t1
memory\t4\t17\t1
net_cls\t0\t1\t0
pids\t8\t1\t1
"""


class Machine:
    """What the kernel shows in files, under a temporary directory."""

    def __init__(self, directory: Path) -> None:
        self.mount_point = directory / "cgroup"
        self.mount_point.mkdir()
        self.controllers = self.mount_point / "cgroup.controllers"
        self.controllers.write_text("cpuset cpu memory\n")
        self.subtree_control = self.mount_point / "cgroup.subtree_control"
        self.subtree_control.write_text("")
        self.command_line = directory / "cmdline"
        self.command_line.write_text("xhcsshim.cgroup=v1 hcsshim.cgroup=v11 -- -e 1\n")
        self.cgroups = directory / "cgroups"
        self.cgroups.write_text(CGROUPS)

    def mounter(self, kernel: RecordingSyscalls, *, bpf: bool = True) -> CgroupMounter:
        return CgroupMounter(
            kernel,
            probe=lambda _: bpf,
            mount_point=str(self.mount_point),
            command_line=str(self.command_line),
            cgroups=str(self.cgroups),
        )

    def v1_calls(self) -> list[tuple[object, ...]]:
        root = str(self.mount_point)
        calls: list[tuple[object, ...]] = [
            ("mount", root, "cgroup_root", "tmpfs", SAFE, "mode=0755")
        ]
        for name in ("cpuset", "memory", "pids"):
            calls.append(("make_directory", f"{root}/{name}", 0o755))
            calls.append(("mount", f"{root}/{name}", name, "cgroup", SAFE, name))
        return calls


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(kmsg, "DEVICE", str(tmp_path / "kmsg"))
    (tmp_path / "kmsg").touch()
    return Machine(tmp_path)


def test_version_2_with_all_its_controllers(machine: Machine) -> None:
    kernel = RecordingSyscalls()
    assert machine.mounter(kernel).mount() == 2
    assert kernel.calls == [
        ("mount", str(machine.mount_point), "cgroup2", "cgroup2", SAFE, ""),
    ]
    assert machine.subtree_control.read_text() == "+cpuset +cpu +memory"


def test_more_controllers_than_fit_a_small_buffer(machine: Machine) -> None:
    names = [f"controller{number}" for number in range(100)]
    machine.controllers.write_text(" ".join(names) + "\n")
    machine.mounter(RecordingSyscalls()).mount()
    assert machine.subtree_control.read_text() == " ".join("+" + name for name in names)


def test_word_on_the_kernel_command_line_forces_version_1(machine: Machine) -> None:
    machine.command_line.write_text(f"{'x' * 5000} hcsshim.cgroup=v1 quiet\n")
    kernel = RecordingSyscalls()
    assert machine.mounter(kernel).mount() == 1
    assert kernel.calls == machine.v1_calls()


def test_kernel_without_version_2(machine: Machine) -> None:
    missing = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    kernel = RecordingSyscalls({("mount", str(machine.mount_point)): [missing]})
    assert machine.mounter(kernel).mount() == 1
    assert kernel.calls[1:] == machine.v1_calls()


def test_version_2_without_device_programs_is_unmounted_again(machine: Machine) -> None:
    kernel = RecordingSyscalls()
    assert machine.mounter(kernel, bpf=False).mount() == 1
    assert kernel.calls[1] == ("unmount", str(machine.mount_point), 0)
    assert kernel.calls[2:] == machine.v1_calls()


def test_version_2_without_controllers_file_is_unmounted_again(machine: Machine) -> None:
    machine.controllers.unlink()
    kernel = RecordingSyscalls()
    assert machine.mounter(kernel).mount() == 1
    assert kernel.calls[1] == ("unmount", str(machine.mount_point), 0)


def test_one_missing_controller_of_version_1_is_left_out(machine: Machine, tmp_path: Path) -> None:
    machine.command_line.write_text("hcsshim.cgroup=v1")
    busy = OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    kernel = RecordingSyscalls({("mount", f"{machine.mount_point}/memory"): [busy]})
    assert machine.mounter(kernel).mount() == 1
    assert kernel.calls == machine.v1_calls()
    assert "<4>init: cgroup controller memory not mounted" in (tmp_path / "kmsg").read_text()


def test_no_controller_at_all_ends_it(machine: Machine) -> None:
    machine.command_line.write_text("hcsshim.cgroup=v1")
    machine.cgroups.write_text(CGROUPS.replace("\t1\n", "\t0\n"))
    with pytest.raises(OSError, match="no v1 controller") as caught:
        machine.mounter(RecordingSyscalls()).mount()
    assert caught.value.errno == errno.ENODEV


def test_controller_that_cannot_be_enabled_is_named(machine: Machine, tmp_path: Path) -> None:
    machine.controllers.write_text("cpu\n")
    machine.subtree_control.unlink()
    assert machine.mounter(RecordingSyscalls()).mount() == 2
    assert "<4>init: cgroup controller cpu not enabled" in (tmp_path / "kmsg").read_text()


def test_a_command_line_that_cannot_be_read_asks_for_nothing(machine: Machine) -> None:
    machine.command_line.unlink()
    assert machine.mounter(RecordingSyscalls()).mount() == 2


def test_the_agents_group_is_the_same_for_init_and_agent() -> None:
    assert AGENT_GROUP == AGENT_CGROUP


def test_entering_a_group_of_version_1_is_left_to_the_agent(machine: Machine) -> None:
    assert not enter("/gcs", str(machine.mount_point))
    assert not (machine.mount_point / "gcs").exists()


def test_a_group_that_can_not_be_entered_is_a_warning(machine: Machine, tmp_path: Path) -> None:
    (machine.mount_point / "cgroup.procs").touch()
    (machine.mount_point / "gcs").touch()
    assert not enter("/gcs", str(machine.mount_point))
    assert "<4>init: cgroup /gcs not entered: " in (tmp_path / "kmsg").read_text()
