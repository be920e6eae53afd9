"""The small wrappers: process attributes, interfaces, pipes, entropy, modules, BPF probe."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from gcs.linux import bpf, entropy, interface, module, pipe, process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def in_child(work: Callable[[], bool]) -> bool:
    """Run `work` in a child process, whose attributes it may change."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def test_process_name_is_cut_at_fifteen_bytes() -> None:
    def work() -> bool:
        process.set_process_name("a-name-that-is-too-long")
        with open("/proc/self/comm") as file:
            return file.read() == "a-name-that-is-\n"

    assert in_child(work)


def test_subreaper_gets_orphans() -> None:
    def work() -> bool:
        process.set_child_subreaper()
        reader, writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            orphan = os.fork()
            if orphan == 0:
                os.read(reader, 1)
                os._exit(42)
            os._exit(0)
        os.waitpid(middle, 0)
        os.write(writer, b"x")
        _, status = os.wait()
        return os.WEXITSTATUS(status) == 42

    assert in_child(work)


def test_parent_death_signal_arrives() -> None:
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        parent = os.getpid()
        if os.fork() == 0:
            signal.signal(signal.SIGUSR1, lambda *_: os._exit(os.write(writer, b"gone") - 4))
            process.set_parent_death_signal(signal.SIGUSR1, parent)
            os.write(writer, b"set ")
            signal.pause()
            os._exit(1)
        os.read(reader, 4)
        os._exit(0)
    os.waitpid(middle, 0)
    os.close(writer)
    assert os.read(reader, 4) == b"gone"
    os.close(reader)


def test_parent_that_is_gone_already_is_an_error() -> None:
    def work() -> bool:
        try:
            process.set_parent_death_signal(signal.SIGKILL, parent=1)
        except ProcessLookupError as error:
            return str(error.filename) == "parent process 1"
        return False

    assert in_child(work)


def test_loopback_has_flags_and_an_unknown_interface_is_named() -> None:
    assert interface.interface_flags("lo") & 0x8  # IFF_LOOPBACK
    with pytest.raises(OSError, match="SIOCGIFFLAGS") as caught:
        interface.interface_flags("nowhere0")
    assert caught.value.filename == "nowhere0"
    with pytest.raises(ValueError, match="longer than 15 bytes"):
        interface.bring_up("a-name-far-too-long")


def test_pipe_size_is_rounded_up() -> None:
    reader, writer = os.pipe()
    try:
        assert pipe.set_pipe_size(writer, 100_000) == 131_072
        assert pipe.pipe_size(reader) == 131_072
        os.write(writer, bytes(100_000))
        with pytest.raises(OSError, match="pipe size 4096"):
            pipe.set_pipe_size(writer, 4096)
    finally:
        os.close(reader)
        os.close(writer)


def test_entropy_is_taken_by_the_random_device_only() -> None:
    device = os.open("/dev/random", os.O_RDWR)
    null = os.open("/dev/null", os.O_RDWR)
    try:
        entropy.add_entropy(device, os.urandom(4096))
        with pytest.raises(OSError, match="RNDADDENTROPY"):
            entropy.add_entropy(null, b"x")
    finally:
        os.close(device)
        os.close(null)


def test_file_that_is_no_module_is_named_and_closed(tmp_path: Path) -> None:
    file = tmp_path / "nonsense.ko"
    file.write_bytes(b"nonsense")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="load module") as caught:
        module.load_module(str(file))
    assert caught.value.filename == str(file)
    assert os.listdir("/proc/self/fd") == before


def test_device_programs_need_bpf_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> Callable[..., int]:
        def system_call(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        return system_call

    for number, works in ((errno.ENOSYS, False), (errno.EINVAL, False), (errno.EPERM, True)):
        monkeypatch.setattr(bpf, "system_call", refuse(number))
        assert bpf.supports_device_programs(0) is works
