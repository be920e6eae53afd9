"""`uvm run`: a container in a VM of its own, from the prompt to the exit status."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.conftest import Uvm

READY = b"ready\n"


def await_output(stream: int, wanted: bytes) -> bytes:
    """Read a descriptor until it has said something."""
    output = b""
    while wanted not in output:
        data = os.read(stream, 65536)
        assert data, output
        output += data
    return output


def test_output_errors_exit_code_and_timings(uvm: Uvm) -> None:
    result = uvm("run", "--timings", "--json", "--", "sh", "-c", "echo hi; echo oops >&2; exit 3")
    assert result.returncode == 3, result.stderr.decode()
    assert result.stdout == b"hi\n"
    *others, last = result.stderr.decode().splitlines()
    # With a kernel that it does not know yet, uvm says first whether it can use KVM.
    assert others[-1] == "oops"
    timings = json.loads(last)
    assert list(timings) == [
        "disks prepared",
        "spawned",
        "entropy served",
        "log connected",
        "bridge connected",
        "negotiated",
        "network attached",
        "disks attached",
        "disks mounted",
        "container created",
        "container started",
        "container exited",
        "VM ended",
    ]
    assert list(timings.values()) == sorted(timings.values())
    assert uvm.leftovers() == []


def test_megabytes_through_stdin_and_stdout(uvm: Uvm) -> None:
    data = os.urandom(4 << 20)
    result = uvm("run", "-i", "--", "sh", "-c", "cat; echo end >&2", stdin=data)
    assert result.returncode == 0, result.stderr.decode()
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()
    assert result.stderr == b"end\n"


def test_the_container_that_was_asked_for(uvm: Uvm, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("shared\n")
    script = (
        "hostname; pwd; echo $GREETING; id -u; grep -c ^processor /proc/cpuinfo;"
        "cat /host/dir/file; touch /new && echo writable"
    )
    options = ("--hostname", "box", "-w", "/tmp", "-e", "GREETING=hello world", "-u", "7:8")
    volume = f"{tmp_path}:/host/dir:ro"
    # Whoever runs the tests may have closed the way to the directory: not so this user.
    tmp_path.chmod(0o755)
    result = uvm("run", *options, "-v", volume, "--memory", "384", "--", "sh", "-c", script)
    expected = ["box", "/tmp", "hello world", "7", "1", "shared"]
    assert result.stdout.decode().splitlines() == expected
    assert b"/new: Permission denied" in result.stderr


def test_ctrl_c_reaches_the_container_and_the_second_one_ends_it(uvm: Uvm) -> None:
    script = "trap 'echo caught' INT; echo ready; while :; do sleep 0.1; done"
    command = uvm.spawn("run", "--", "sh", "-c", script, stdout=subprocess.PIPE)
    assert command.stdout is not None
    output = command.stdout.fileno()
    await_output(output, READY)
    command.send_signal(signal.SIGINT)
    await_output(output, b"caught\n")
    command.send_signal(signal.SIGINT)
    assert command.wait(60) == 128 + signal.SIGKILL
    command.stdout.close()
    assert uvm.leftovers() == []


def test_a_terminal(uvm: Uvm) -> None:
    controller, terminal = pty.openpty()
    before = os.get_terminal_size(terminal)
    os.system(f"stty -F {os.ttyname(terminal)} rows 33 cols 111")
    assert before != os.get_terminal_size(terminal)
    modes = subprocess.check_output(["stty", "-a", "-F", os.ttyname(terminal)])
    command = uvm.spawn("run", "-it", stdin=terminal, stdout=terminal, stderr=terminal)
    await_output(controller, b"# ")
    os.write(controller, b"stty size; tty\r")
    text = await_output(controller, b"/dev/pts/")
    assert b"33 111" in text
    os.system(f"stty -F {os.ttyname(terminal)} rows 22 cols 77")
    command.send_signal(signal.SIGWINCH)
    deadline = time.monotonic() + 60
    while b"22 77" not in text and time.monotonic() < deadline:
        os.write(controller, b"stty size; echo done$((1))\r")
        text = await_output(controller, b"done1")
    assert b"22 77" in text
    # A key, not a signal: it ends what runs inside, and the shell goes on.
    os.write(controller, b"sh -c 'echo go$((1)); exec sleep 1000'\r")
    await_output(controller, b"go1")
    os.write(controller, b"\x03")
    await_output(controller, b"# ")
    os.write(controller, b"exit 5\r")
    assert command.wait(60) == 5
    assert subprocess.check_output(["stty", "-a", "-F", os.ttyname(terminal)]) == modes.replace(
        b"rows 33; columns 111", b"rows 22; columns 77"
    )
    os.close(controller)
    os.close(terminal)


def test_nothing_outlives_a_command_that_is_killed(uvm: Uvm) -> None:
    command = uvm.spawn("run", "--", "sh", "-c", "echo ready; sleep 1000", stdout=subprocess.PIPE)
    assert command.stdout is not None
    await_output(command.stdout.fileno(), READY)
    children = uvm.processes()
    assert len(children) == 2
    # The kernel kills them; a process of another parent can only be watched, by a pidfd.
    watched = [os.pidfd_open(pid) for pid, _ in children]
    command.kill()
    assert command.wait(60) == -signal.SIGKILL
    for descriptor in watched:
        await_end(descriptor)
    command.stdout.close()
    # Files of a killed command are removed by the next one.
    assert uvm("boot", "--name", "../bad").returncode == 125
    assert uvm("run", "--kernel", "/nonexistent").returncode == 125
    result = uvm("run", "--", "true")
    assert result.returncode == 0, result.stderr.decode()
    assert uvm.leftovers() == []


def await_end(pidfd: int) -> None:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(60_000)
    os.close(pidfd)


def test_an_interrupted_boot_leaves_nothing(uvm: Uvm) -> None:
    command = uvm.spawn("run", "--verbose", "--", "true", stderr=subprocess.PIPE)
    assert command.stderr is not None
    await_output(command.stderr.fileno(), b"booting a VM")
    command.send_signal(signal.SIGTERM)
    assert command.wait(60) == 128 + signal.SIGTERM
    command.stderr.close()
    assert uvm.leftovers() == []


def test_a_guest_without_an_agent_shows_its_console(uvm: Uvm) -> None:
    result = uvm("run", "--kernel-option", "rdinit=/nonexistent", "--", "true")
    assert result.returncode == 125
    text = result.stderr.decode()
    assert re.search(r"^uvm: the VM ended while waiting for the agent", text)
    assert "Kernel panic" in text
    assert uvm.leftovers() == []


@pytest.mark.parametrize("kind", ["file", "empty archive of images"])
def test_what_is_no_root_file_system(uvm: Uvm, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "rootfs.tar"
    if kind == "file":
        source.write_bytes(b"nonsense" * 1000)
        text = "rootfs.tar is no tar archive, or is damaged: entry at byte 0: no tar header"
    else:
        (tmp_path / "manifest.json").write_text("[]")
        subprocess.run(["tar", "-cf", source, "-C", tmp_path, "manifest.json"], check=True)
        text = "holds no image"
    result = uvm("run", source, "--", "true")
    assert result.returncode == 125
    assert text in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1
