"""VMs that stay: processes and containers in one VM, and the commands that look at it."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import pty
import signal
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.support.kept_vms import await_no_containers, listing
from uvm.logs import decode_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.vm.conftest import KeptVm


@pytest.fixture
def container(vm: KeptVm) -> Iterator[str]:
    """A running container; ends with the test."""
    result = vm.run("sleep", "1000", options=["--detach"])
    assert result.returncode == 0, result.stderr.decode()
    container_id = result.stdout.decode().strip()
    yield container_id
    if any(entry["id"] == container_id for entry in listing(vm)["containers"]):
        vm.uvm("kill", "--name", vm.name, container_id, check=True)
        await_no_containers(vm)


def test_exit_codes_and_streams_of_processes_in_the_vm(vm: KeptVm) -> None:
    result = vm.exec("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.returncode, result.stdout, result.stderr) == (7, b"out\n", b"err\n")


def test_a_vm_that_stays_has_all_the_controllers_of_a_real_host(vm: KeptVm) -> None:
    script = "ls -d /sys/bus/virtio/drivers/virtio_scsi/virtio* | wc -l"
    assert vm.exec("sh", "-c", script).stdout.strip() == b"4"


def test_megabytes_through_a_process_in_the_vm(vm: KeptVm) -> None:
    data = os.urandom(3 << 20)
    result = vm.exec("cat", options=["-i"], stdin=data)
    assert result.returncode == 0, result.stderr.decode()
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


def test_without_i_there_is_no_input(vm: KeptVm) -> None:
    assert vm.exec("sh", "-c", "cat | wc -c", stdin=b"unread").stdout.strip() == b"0"


def test_processes_at_the_same_time_keep_their_streams_apart(vm: KeptVm) -> None:
    def run(number: int) -> subprocess.CompletedProcess[bytes]:
        return vm.exec("sh", "-c", f"cat; exit {number}", options=["-i"], stdin=b"%d" % number)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(8)))
    assert [(result.returncode, result.stdout) for result in results] == [
        (number, b"%d" % number) for number in range(8)
    ]


def test_containers_at_the_same_time(vm: KeptVm) -> None:
    def run(number: int) -> subprocess.CompletedProcess[bytes]:
        return vm.run("sh", "-c", f"hostname; exit {number}", options=["--hostname", f"h{number}"])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert [(result.returncode, result.stdout) for result in results] == [
        (number, b"h%d\n" % number) for number in range(4)
    ], [result.stderr for result in results]
    assert listing(vm)["containers"] == []


def test_a_program_that_is_not_there(vm: KeptVm) -> None:
    for result in (vm.exec("nosuchprogram"), vm.run("nosuchprogram")):
        assert result.returncode == 127
        assert b"nosuchprogram" in result.stderr
        assert result.stderr.count(b"\n") == 1
    assert listing(vm)["containers"] == []


def test_a_program_that_can_not_be_executed(vm: KeptVm) -> None:
    result = vm.run("/etc/passwd")
    assert result.returncode == 126
    assert b"permission denied" in result.stderr.lower()


def test_containers_come_and_go(vm: KeptVm) -> None:
    """Disks are plugged in and out, and nothing of a container stays in the VM."""
    mounts = vm.exec("cat", "/proc/mounts").stdout
    disks = vm.exec("ls", "/sys/class/block").stdout
    for number in range(3):
        result = vm.run("sh", "-c", f"echo $$ > /tmp/x; cat /tmp/x; exit {number}")
        assert (result.returncode, result.stdout) == (number, b"1\n"), result.stderr.decode()
    assert vm.exec("cat", "/proc/mounts").stdout == mounts
    assert vm.exec("ls", "/sys/class/block").stdout == disks
    assert vm.exec("ls", "/run/gcs/c").stdout == b""


def test_a_directory_and_an_archive_as_root_file_systems(
    vm: KeptVm, image: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xf", image / "busybox.tar", "-C", tree], check=True)
    (tree / "secret").write_text("of the owner\n")
    os.chown(tree / "secret", 12, 34)
    (tree / "secret").chmod(0o4640)
    with tarfile.open(tmp_path / "rootfs.tar.gz", "w:gz") as archive:
        archive.add(tree, ".")
    script = "cat /secret; stat -c '%u %g %a' /secret"
    for source in (tree, tmp_path / "rootfs.tar.gz"):
        result = vm.run("sh", "-c", script, rootfs=[source])
        assert result.stdout == b"of the owner\n12 34 4640\n", result.stderr.decode()
    # What changed is seen, although images are kept.
    (tree / "secret").write_text("of another\n")
    assert vm.run("head", "-n1", "/secret", rootfs=[tree]).stdout == b"of another\n"


def test_a_container_through_its_life(vm: KeptVm, container: str) -> None:
    (entry,) = listing(vm)["containers"]
    assert (entry["id"], entry["command"]) == (container, ["sleep", "1000"])
    (process,) = entry["processes"]
    result = vm.exec("sh", "-c", "ps; exit 9", options=["--container", container[:10]])
    assert result.returncode == 9
    assert b"sleep 1000" in result.stdout
    table = vm.uvm("ps", vm.name, check=True).stdout.decode()
    assert f"{container[:12]}  {process['pid']}" in " ".join(table.split(" ")).replace("   ", "  ")
    vm.uvm("kill", "--name", vm.name, container[:10], check=True)
    await_no_containers(vm)


def test_a_container_is_paused_and_measured(vm: KeptVm, container: str) -> None:
    options = ["--container", container[:10]]
    vm.uvm("pause", vm.name, *options, check=True)
    refused = vm.exec("true", options=options)
    assert refused.returncode == 125
    assert b"is paused" in refused.stderr
    heading, line = vm.uvm("stats", vm.name, check=True).stdout.decode().splitlines()
    assert heading.split()[:4] == ["CONTAINER", "CPU", "MEMORY", "PEAK"]
    assert line.startswith(container[:12])
    statistics = json.loads(vm.uvm("stats", "--json", vm.name, *options, check=True).stdout)
    assert statistics[container]["pids"]["current"] == 1
    assert statistics[container]["memory"]["usage"]["usage"] > 0
    vm.uvm("resume", vm.name, check=True)
    assert vm.exec("true", options=options).returncode == 0


def test_execs_in_a_container_have_users_and_signals(vm: KeptVm, container: str) -> None:
    options = ["--container", container, "-u", "1000:1000", "-w", "/tmp", "-e", "A=b"]
    result = vm.exec("sh", "-c", "id -u; id -g; pwd; echo $A", options=options)
    assert result.stdout == b"1000\n1000\n/tmp\nb\n"
    unknown = vm.exec("true", options=["--container", container, "-u", "nobody-here"])
    assert unknown.returncode == 125
    assert b"no user 'nobody-here'" in unknown.stderr
    command = vm.uvm.spawn(
        "exec",
        *("--container", container, vm.name, "--"),
        *("sh", "-c", "echo ready; exec sleep 1000"),
        stdout=subprocess.PIPE,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"ready\n"
    command.send_signal(signal.SIGTERM)
    assert command.wait(60) == 128 + signal.SIGTERM
    command.stdout.close()


def test_a_process_ends_with_the_command_that_started_it(vm: KeptVm, container: str) -> None:
    command = vm.uvm.spawn(
        *("exec", "--container", container, vm.name, "--"),
        *("sh", "-c", "echo ready; exec sleep 2000"),
        stdout=subprocess.PIPE,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"ready\n"
    command.kill()
    command.wait()
    command.stdout.close()
    while b"2000" in vm.exec("ps", options=["--container", container]).stdout:
        pass


def test_a_terminal_in_a_container(vm: KeptVm, container: str) -> None:
    controller, terminal = pty.openpty()
    command = vm.uvm.spawn(
        *("exec", "-it", "--container", container, vm.name, "--", "sh"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.write(controller, b"test -t 0 && echo terminal$((1))\r")
    text = b""
    while b"terminal1" not in text:
        text += os.read(controller, 65536)
    os.write(controller, b"exit 4\r")
    assert command.wait(60) == 4
    os.close(controller)
    os.close(terminal)


@pytest.mark.parametrize("where", ["VM", "container", "container of its own"])
def test_a_pipeline_ends_when_nobody_reads_its_output(
    vm: KeptVm, container: str, where: str
) -> None:
    arguments = {
        "VM": ("exec", vm.name),
        "container": ("exec", "--container", container, vm.name),
        "container of its own": ("run", "--name", vm.name),
    }
    command = vm.uvm.spawn(*arguments[where], "--", "yes", stdout=subprocess.PIPE)
    assert command.stdout is not None
    assert command.stdout.readline() == b"y\n"
    command.stdout.close()
    assert command.wait(60) in (128 + signal.SIGPIPE, 1, 255)
    while b"yes" in vm.exec("ps").stdout:
        pass


def test_a_signal_for_a_process_in_the_vm(vm: KeptVm) -> None:
    command = vm.uvm.spawn(
        *("exec", vm.name, "--", "sh", "-c", "echo ready; exec sleep 1000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"ready\n"
    command.send_signal(signal.SIGINT)
    assert command.wait(60) != 0
    while b"sleep 1000" in vm.exec("ps").stdout:
        pass


def test_a_container_or_process_nobody_knows(vm: KeptVm) -> None:
    result = vm.uvm("kill", "--name", vm.name, "999999")
    assert result.returncode == 125
    assert b"`uvm ps` lists them" in result.stderr
    assert vm.exec("true", options=["--container", "ff"]).returncode == 125


def test_who_ran_out_of_memory_is_told(vm: KeptVm) -> None:
    result = vm.run("tail", "/dev/zero", options=["--memory-limit", "16"])
    assert result.returncode == 128 + signal.SIGKILL
    assert b"the container ran out of memory" in result.stderr
    assert b"out of memory" not in vm.run("sh", "-c", "kill -9 $$; exit 9").stderr


def test_memory_limit_and_read_only_root(vm: KeptVm) -> None:
    script = "cat /sys/fs/cgroup/memory.max; touch /x"
    result = vm.run("sh", "-c", script, options=["--memory-limit", "64", "--read-only"])
    assert result.stdout == b"67108864\n"
    assert b"Read-only file system" in result.stderr


def test_stacks_of_the_agent(vm: KeptVm) -> None:
    text = vm.uvm("stacks", vm.name, check=True).stdout.decode()
    assert "dump_stacks" in text
    assert "thread" in text


def test_the_log_is_all_entries(vm: KeptVm) -> None:
    text = vm.uvm("logs", "--json", vm.name, check=True).stdout
    entries = decode_all([text])
    assert entries
    assert all(entry.message != "gcs terminated" for entry in entries)
    assert any(entry.message.startswith("GCS started") for entry in entries)
    lines = vm.uvm("logs", vm.name, check=True).stdout.decode().splitlines()
    assert len(lines) >= len(entries)


def test_the_log_can_be_followed(vm: KeptVm) -> None:
    follower = vm.uvm.spawn("logs", "-f", "--json", vm.name, stdout=subprocess.PIPE)
    assert follower.stdout is not None
    first = follower.stdout.readline()
    assert json.loads(first)
    vm.uvm("stacks", vm.name, check=True)
    while b"DumpStacks" not in follower.stdout.readline():
        pass
    follower.terminate()
    assert follower.wait(60) == 128 + signal.SIGTERM
    follower.stdout.close()


def test_names_are_not_given_twice(vm: KeptVm) -> None:
    result = vm.uvm("boot", "--name", vm.name)
    assert result.returncode == 125
    assert f"a VM named {vm.name} is running".encode() in result.stderr


def test_a_vm_ends_with_its_containers(vm: KeptVm) -> None:
    """Stop, by force too, and the end of a VM that crashes: nothing is left each time."""
    name = f"{vm.name}-2"
    vm.uvm("boot", "--name", name, check=True)
    started = vm.uvm("run", "--name", name, "-d", "--", "sleep", "1000", check=True)
    assert started.stdout.strip()
    vm.uvm("stop", "--force", name, check=True)
    assert vm.uvm("ps", name).returncode == 125
    assert not any(name in entry for entry in vm.uvm.leftovers())
    vm.uvm("boot", "--name", name, check=True)
    lost = vm.uvm("exec", name, "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000")
    assert lost.returncode == 125
    assert b"uvm: " in lost.stderr
    assert vm.uvm("ps", name).returncode == 125
