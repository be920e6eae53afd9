"""Messages between commands and keepers, and the directories of running VMs."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from uvm.boot import BootOptions
from uvm.errors import UvmError, VmNotFoundError
from uvm.keeper.channel import Channel, ChannelClosedError, accepted, connect, listen
from uvm.keeper.client import the_vm
from uvm.keeper.config import KeeperConfig
from uvm.keeper.messages import (
    Answer,
    Done,
    Execute,
    Kill,
    List,
    Logs,
    Measure,
    Request,
    Resize,
    Run,
    SetState,
    Signal,
    Stacks,
    Started,
    Stop,
    Text,
)
from uvm.network.adapter import Adapter, user_adapter
from uvm.spec import ContainerOptions, ProcessOptions, User
from uvm.vm.directory import RunDirectory, running
from uvm.vm.nic import TapNetwork

if TYPE_CHECKING:
    from pathlib import Path

PROCESS = ProcessOptions(("sh", "-c", "x"), ("A=1",), "/tmp", User(1, 2, (3,)), (24, 80))


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "uvm"


def channels() -> tuple[Channel[Answer], Channel[Request]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(one, msgspec.json.Decoder(Answer)), accepted(other)


@pytest.mark.parametrize(
    "request_",
    [
        Run(["top", "lower"], "scratch", ContainerOptions(PROCESS, "name", 1 << 30), stdin=True),
        Run(["x"], "y", ContainerOptions(PROCESS), [user_adapter(), Adapter(TapNetwork("t"))]),
        Execute("abc", PROCESS, "web:www", stdin=True),
        Execute(None, PROCESS),
        Signal(9),
        Resize(24, 80),
        List(),
        Kill("12", 15),
        SetState(None, paused=True),
        Measure("abc"),
        Stacks(),
        Logs(follow=True),
        Stop(force=True),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_a_request_arrives_as_it_was_sent(request_: Request) -> None:
    command, keeper = channels()
    await command.send(request_)
    assert await keeper.receive() == (request_, [])
    command.close()
    keeper.close()


async def test_descriptors_arrive_with_their_message() -> None:
    command, keeper = channels()
    read, write = os.pipe()
    await keeper.send(Started("id", 7, ["stdout"]), [write])
    os.close(write)
    answer, (received,) = await command.receive()
    assert answer == Started("id", 7, ["stdout"])
    os.write(received, b"through")
    os.close(received)
    assert os.read(read, 100) == b"through"
    os.close(read)
    command.close()
    keeper.close()


async def test_a_slow_reader_gets_every_message() -> None:
    command, keeper = channels()
    texts = [f"{number} " + "x" * 60_000 for number in range(40)]

    async def send() -> None:
        for text in texts:
            await keeper.send(Text(text))

    sending = asyncio.create_task(send())
    await asyncio.sleep(0)
    received = []
    for _ in texts:
        answer, _ = await command.receive()
        assert isinstance(answer, Text)
        received.append(answer.text)
    await sending
    assert received == texts
    command.close()
    keeper.close()


async def test_the_end_of_the_other_side_is_an_error() -> None:
    command, keeper = channels()
    keeper.close()
    with pytest.raises(ChannelClosedError):
        await command.receive()
    with pytest.raises(ChannelClosedError):
        await command.send(List())
    command.close()


async def test_a_command_finds_its_keeper_by_name(tmp_path: Path) -> None:
    listener = listen(tmp_path / "control")
    command = connect(tmp_path / "control", "x")
    connected, _ = await asyncio.get_running_loop().sock_accept(listener)
    keeper = accepted(connected)
    await command.send(List())
    await keeper.receive()
    await keeper.send(Done())
    assert (await command.receive())[0] == Done()
    for end in (command, keeper, listener):
        end.close()
    with pytest.raises(VmNotFoundError, match="no VM named x is running"):
        connect(tmp_path / "control", "x")


def test_a_keepers_configuration_survives_its_command_line() -> None:
    options = BootOptions(memory_mib=256, kernel_options=("a=b",), accelerator="tcg")
    config = KeeperConfig("name", options, 5)
    text = msgspec.json.encode(config).decode()
    assert msgspec.json.decode(text, type=KeeperConfig) == config


def test_a_name_is_taken_while_its_vm_runs(runtime: Path) -> None:
    directory = RunDirectory.create("dev")
    with pytest.raises(UvmError, match="a VM named dev is running; `uvm stop dev` ends it"):
        RunDirectory.create("dev")
    assert running() == [runtime / "dev"]
    directory.remove()
    assert running() == []
    RunDirectory.create("dev").remove()
    assert list(runtime.iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".", "a b", "x" * 120])
def test_names_that_can_not_be(name: str) -> None:
    if name == "":
        directory = RunDirectory.create(name)
        assert directory.name.startswith("run-")
        directory.remove()
        return
    with pytest.raises(UvmError):
        RunDirectory.create(name)


def test_what_a_killed_owner_left_is_removed(runtime: Path) -> None:
    program = (
        "import os, signal; from uvm.vm.directory import RunDirectory\n"
        "d = RunDirectory.create('gone'); (d.path / 'socket').touch()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (runtime / "gone" / "socket").exists()
    RunDirectory.create("new").remove()
    assert list(runtime.iterdir()) == []


def test_without_a_name_the_only_vm_is_meant(runtime: Path) -> None:
    with pytest.raises(VmNotFoundError, match="no VM is running"):
        the_vm(None)
    first = RunDirectory.create("one")
    (first.path / "control").touch()
    assert the_vm(None) == "one"
    second = RunDirectory.create("two")
    (second.path / "control").touch()
    with pytest.raises(VmNotFoundError, match="one, two"):
        the_vm(None)
    assert the_vm("two") == "two"
    first.remove()
    second.remove()
