"""Directories and files of the host in containers: `-v`, the library, with a real 9p client."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.kept_vms import await_no_containers
from uvm.boot import BootOptions, build_machine
from uvm.spec import ContainerOptions, ProcessOptions, Volume
from uvm.utility_vm import RootDisks, UtilityVm
from uvm.vm.disks import layer_image, scratch_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.vm.conftest import KeptVm, Uvm

BIG = 5 << 20
PORT = 564


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that containers may only read, and below it one that they may write to."""
    directory = tmp_path_factory.mktemp("place")
    (directory / "a share: odd").mkdir()
    (directory / "outside").write_text("read-only\n")
    (directory / "one").write_text("one\n")
    return directory


@pytest.fixture(scope="module")
def share(place: Path) -> Path:
    return place / "a share: odd"


@pytest.fixture(scope="module")
def container(vm: KeptVm, place: Path, share: Path) -> str:
    """A running container with the share at /data, the one above at /data/inside/up, and a file."""
    volumes = (f"{share}:/data", f"{place}:/data/inside/up:ro", f"{place}/one:/etc/one.conf")
    options = [option for volume in volumes for option in ("-v", volume)]
    result = vm.run("sleep", "100000", options=["--detach", *options])
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode().strip()


def run(vm: KeptVm, container: str, script: str) -> str:
    result = vm.exec("sh", "-ec", script, options=["--container", container])
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def port(vm: KeptVm) -> Path:
    return vm.uvm.runtime / "uvm" / vm.name / f"vsock_{PORT}"


def test_files_of_the_host_in_a_container(
    vm: KeptVm, container: str, place: Path, share: Path
) -> None:
    data = os.urandom(BIG)
    (share / "big").write_bytes(data)
    (share / "given").write_text("by the host\n")
    assert port(vm).exists()
    script = r"""
    cd /data
    cat given
    sha256sum < big
    cp big copy; sync; sha256sum < copy
    echo line >> given
    mkdir -p d/e; mv given d/e/moved; ln -s e/moved d/link; cat d/link
    ln d/e/moved hard; stat -c %h hard
    umask 077; echo x > private; chown 12:34 copy; chmod 4751 copy
    touch -d @1000000000 private; stat -c '%a %Y' private
    : > big; stat -c %s big
    mkfifo pipe; (echo through > pipe &); cat pipe
    mkdir gone; rmdir gone; rm pipe
    cat "inside/up/outside"
    touch inside/up/new 2>&1 || true
    df -P /data | tail -n 1 | cut -d/ -f1-4
    """
    digest = hashlib.sha256(data).hexdigest()
    lines = run(vm, container, script).splitlines()
    expected = [
        *("by the host", f"{digest}  -", f"{digest}  -", "by the host", "line", "2"),
        *("600 1000000000", "0", "through", "read-only"),
        "touch: inside/up/new: Read-only file system",
    ]
    assert lines[:-1] == expected
    copy = (share / "copy").stat()
    assert (copy.st_uid, copy.st_gid, stat.S_IMODE(copy.st_mode)) == (12, 34, 0o4751)
    assert (share / "copy").read_bytes() == data
    assert os.readlink(share / "d" / "link") == "e/moved"
    assert (share / "d" / "e" / "moved").read_text() == "by the host\nline\n"
    assert sorted(path.name for path in share.iterdir()) == [
        *("big", "copy", "d", "hard", "inside", "private")
    ]
    assert not (place / "new").exists()


def test_one_file_of_the_host(vm: KeptVm, container: str, place: Path) -> None:
    script = "cat /etc/one.conf; echo two >> /etc/one.conf; cat /data/inside/up/one"
    assert run(vm, container, script).split() == ["one", "one", "two"]
    assert (place / "one").read_text() == "one\ntwo\n"
    # The VM has nothing else of its directory.
    assert vm.exec("ls", f"/run/gcs/c/{container}/mounts/m1").stdout == b"one\n"


def test_two_thousand_files(vm: KeptVm, container: str, share: Path) -> None:
    """What the host does is seen at once, and the other way round."""
    directory = share / "many"
    directory.mkdir()
    names = [f"file-{number}" for number in range(2000)]
    for name in names:
        (directory / name).write_text("")
    # Not by ls, which asks for each file: an emulated machine takes minutes for that.
    script = r"cd /data/many; printf '%s\n' *; rm file-19??; set -- *; echo $#"
    listed = run(vm, container, script).split()
    assert sorted(listed[:-1]) == sorted(names)
    assert listed[-1] == "1900"
    assert len(os.listdir(directory)) == 1900


def test_locks(vm: KeptVm, container: str, share: Path) -> None:
    """Of a process in the VM, since the containers' busybox has no tool for it."""
    script = f"""
import fcntl, os
file = open("/run/gcs/c/{container}/mounts/m0/lock", "w")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("locked", flush=True)
os.read(0, 1)
fcntl.lockf(file, fcntl.LOCK_UN)
print("unlocked", flush=True)
os.read(0, 1)
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
    command = ["exec", "-i", vm.name, "--", "/usr/lib/gcs/bin/python3", "-c", script]
    process = vm.uvm.spawn(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    with (share / "lock").open("r+") as file:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(process.stdin.fileno(), b"x")
        assert process.stdout.readline() == b"unlocked\n"
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Now the host's is in the way of the VM's.
        os.write(process.stdin.fileno(), b"x")
        assert process.wait(60) == 1
    process.stdin.close()
    process.stdout.close()


def test_nothing_stays_of_a_container(vm: KeptVm, container: str) -> None:
    """The mounts in the guest and the port go with it."""
    assert vm.exec("cat", "/proc/mounts").stdout.count(b" 9p ") == 3
    vm.uvm("kill", "--name", vm.name, container, check=True)
    await_no_containers(vm)
    assert_nothing_stays(vm)


def test_a_container_that_does_not_start_leaves_no_share(vm: KeptVm, share: Path) -> None:
    result = vm.run("nosuchprogram", options=["-v", f"{share}:/data"])
    assert result.returncode == 127
    assert_nothing_stays(vm)


def assert_nothing_stays(vm: KeptVm) -> None:
    assert not port(vm).exists()
    assert b" 9p " not in vm.exec("cat", "/proc/mounts").stdout
    assert vm.exec("ls", "/run/gcs/c").stdout == b""


@pytest.mark.parametrize(
    ("volume", "text"),
    [
        ("/nonexistent/directory:/data", "/nonexistent/directory does not exist"),
        ("/dev/null:/data", "/dev/null is neither a directory nor a regular file"),
        ("/tmp", "is not in the form HOSTPATH:/PATH"),
        ("/tmp:/data:rx", "is not in the form HOSTPATH:/PATH"),
    ],
)
def test_what_is_no_volume_is_said_before_the_boot(uvm: Uvm, volume: str, text: str) -> None:
    result = uvm("run", "--verbose", "-v", volume, "--", "true")
    assert result.returncode == 125
    assert text in result.stderr.decode()
    assert b"booting" not in result.stderr


# --- the library ----------------------------------------------------------------------------


@pytest.fixture
async def utility(image: Path) -> AsyncIterator[UtilityVm]:
    machine, vsock = await build_machine(BootOptions(image_dir=str(image)), lambda _: None)
    async with contextlib.AsyncExitStack() as undo:
        directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="uvm-"))
        utility = UtilityVm(machine, Path(directory), vsock=vsock)
        undo.push_async_callback(utility.stop)
        await utility.boot()
        yield utility


async def test_a_server_that_is_gone_does_not_hold_the_agent_up(
    utility: UtilityVm, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("content")
    layer = await layer_image(image / "busybox.tar")
    scratch = await scratch_image(utility.directory / "scratch.ext4", 64)
    container = await utility.prepare_container(RootDisks((layer,), scratch))
    script = "cat /data/f; read line; cat /data/f; echo $?; cat /data/new; echo $?"
    options = ContainerOptions(
        ProcessOptions(("sh", "-c", script)), volumes=(Volume(str(tmp_path), "/data"),)
    )
    await container.create(options)
    process = await container.start(stdin=True)
    stdout = process.stdio.stdout
    assert stdout is not None
    assert await asyncio.get_running_loop().sock_recv(stdout, 7) == b"content"
    # Behind the agent's back.
    await utility.guest.shares.close()
    result = await process.communicate(b"\n")
    assert result.stdout.split() == [b"1", b"1"]
    assert b"/data/f" in result.stderr
    await container.wait_exit()
    await utility.remove_container(container)
    mounts = await utility.guest.execute_in_vm(["cat", "/proc/mounts"])
    assert b" 9p " not in (await mounts.communicate()).stdout
