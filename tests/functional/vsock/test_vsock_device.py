"""The vsock device as a process: how streams open, and how it lives with guest and hosts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.vsock_device import PORT, Device, assert_serves, connected, receive
from tests.support.vsock_driver import GUEST_CID, PATIENCE, USER_BASE, Guest, pattern
from uvm.vsock import vhost_user as vu
from uvm.vsock.packet import HEADER_SIZE, HOST_CID, OP_RESPONSE, OP_RST, OP_RW, TYPE_STREAM, Header

if TYPE_CHECKING:
    from pathlib import Path

# Opening


@pytest.mark.parametrize("one_descriptor", [False, True])
@pytest.mark.parametrize("event_index", [False, True])
def test_guest_dials_host(device: Device, one_descriptor: bool, event_index: bool) -> None:
    features = vu.FEATURE_VERSION_1 | vu.FEATURE_PROTOCOL_FEATURES
    if event_index:
        features |= vu.FEATURE_EVENT_INDEX
    guest = device.guest(features=features, one_descriptor=one_descriptor)
    for port in range(PORT, PORT + 3):
        assert_serves(device, guest, port)


def test_port_nobody_listens_on_is_refused(device: Device, guest: Guest) -> None:
    stream = guest.request(PORT)
    stream.wait_for_operation(OP_RST)
    assert stream.operations == [OP_RST]
    listener = device.listen()
    listener.close()
    stream = guest.request(PORT)
    stream.wait_for_operation(OP_RST)
    assert stream.operations == [OP_RST]


def test_full_backlog_delays_the_answer(device: Device, guest: Guest) -> None:
    listener = device.listen(backlog=0)
    streams = [guest.request(PORT) for _ in range(6)]
    guest.wait_until_sent()
    for _ in streams:
        device.accept(listener)
    for stream in streams:
        stream.wait_for_operation(OP_RESPONSE)


def test_host_dials_guest(device: Device, guest: Guest) -> None:
    accepted = guest.listen(5000)
    host = device.dial(b"CONNECT 5000\nearly bird")
    guest.wait_for(lambda: accepted)
    stream = accepted.popleft()
    assert receive(host, 3) == b"OK "
    line = b""
    while not line.endswith(b"\n"):
        line += receive(host, 1)
    assert int(line) == stream.host_port
    assert stream.read(10) == b"early bird"
    stream.write(b"caught")
    assert receive(host, 6) == b"caught"


def test_greeting_may_come_in_pieces(device: Device, guest: Guest) -> None:
    accepted = guest.listen(5000)
    host = device.dial(b"CONN")
    # Another stream in between shows that the device has read the first piece and goes on.
    assert_serves(device, guest, PORT)
    host.sendall(b"ECT 5000\n")
    guest.wait_for(lambda: accepted)
    assert receive(host, 3) == b"OK "


def test_guest_port_nobody_listens_on_closes_the_host(device: Device, guest: Guest) -> None:
    guest.listen(5000)
    host = device.dial(b"CONNECT 5001\n")
    guest.wait_for(lambda: guest.strays)
    assert receive(host, 1) == b""


@pytest.mark.parametrize(
    "greeting", [b"HELLO\n", b"CONNECT\n", b"CONNECT 4294967296\n", b"CONNECT -1\n", b"x" * 200]
)
def test_bad_greeting_is_closed(device: Device, guest: Guest, greeting: bytes) -> None:
    host = device.dial(greeting)
    try:
        answer = host.recv(1)
    except ConnectionResetError:  # the device has not read all of it
        answer = b""
    assert answer == b""
    assert_serves(device, guest, PORT)
    assert not guest.strays


def test_without_a_guest_hosts_are_closed(device: Device) -> None:
    assert receive(device.dial(b"CONNECT 5000\n"), 1) == b""
    device.guest(start=False)
    assert receive(device.dial(b"CONNECT 5000\n"), 1) == b""


def test_host_that_leaves_before_the_answer_resets_the_guest(device: Device, guest: Guest) -> None:
    requests: list[Header] = []

    def remember(header: Header) -> None:
        requests.append(header)

    guest.on_request = remember
    host = device.dial(b"CONNECT 5000\n")
    guest.wait_for(lambda: requests)
    host.close()
    guest.wait_for(lambda: OP_RST in [header.operation for header in guest.strays])


# The life of the guest


def test_pause_keeps_streams(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    stream.write(b"one")
    guest.stop()
    host.sendall(b"meanwhile")
    guest.start(reset=False)
    assert stream.read(9) == b"meanwhile"
    stream.write(b"two")
    assert receive(host, 6) == b"onetwo"


def test_reset_ends_streams(device: Device, guest: Guest) -> None:
    _, host = connected(device, guest)
    accepted = guest.listen(5000)
    dialling = device.dial(b"CONNECT 5000\n")
    guest.wait_for(lambda: accepted)
    receive(dialling, 3)
    guest.stop()
    guest.start()
    assert receive(host, 1) == b""
    assert receive(dialling, 100).endswith(b"\n")
    assert_serves(device, guest, PORT + 1)


def test_new_memory_while_running(device: Device, guest: Guest) -> None:
    """Hot-plugged memory can be used at once, unplugged memory is refused."""
    stream, host = connected(device, guest)
    extra = os.memfd_create("extra")
    os.ftruncate(extra, 1 << 20)
    payload = b"from new memory"
    header = Header(
        GUEST_CID, HOST_CID, stream.guest_port, PORT, len(payload), TYPE_STREAM, OP_RW, 0, 1000, 0
    )
    os.pwrite(extra, header.pack() + payload, 8192)
    descriptor = (0x4000_0000 + 8192, HEADER_SIZE + len(payload), 0, 0)
    region = vu.U64.pack(0) + vu.MEMORY_REGION.pack(0x4000_0000, 1 << 20, USER_BASE * 2 // 3, 0)
    guest.front_end.send(vu.ADD_MEM_REG, region, fds=(extra,))
    guest.send_chain(guest.free_slot(), [descriptor])
    stream.sent += len(payload)
    assert receive(host, len(payload)) == payload
    guest.front_end.send(vu.REM_MEM_REG, region)
    guest.send_chain(guest.free_slot(), [descriptor])
    guest.wait_until_sent()
    stream.write(b"goes on")
    assert receive(host, 7) == b"goes on"
    os.close(extra)


def test_device_ends_with_its_front_end(device: Device, guest: Guest) -> None:
    """Not before hosts have what the guest had sent."""
    stream, host = connected(device, guest)
    total = stream.write_all_credit()
    guest.front_end.sock.shutdown(socket.SHUT_RDWR)
    assert receive(host, total + 1) == pattern(0, total)
    assert device.process.wait(PATIENCE) == 0
    assert not device.uds.exists()
    assert not device.socket.exists()


def test_kept_device_serves_the_next_guest(tmp_path: Path) -> None:
    device = Device(tmp_path, "--keep")
    for port in (PORT, PORT + 1):
        guest = device.guest()
        assert_serves(device, guest, port)
        guest.close()
        device.guests.clear()
    device.close()


def test_sigterm_removes_the_sockets(device: Device, guest: Guest) -> None:
    _, host = connected(device, guest)
    device.process.send_signal(signal.SIGTERM)
    assert device.process.wait(PATIENCE) == 0
    assert receive(host, 1) == b""
    assert not device.uds.exists()
    assert not device.socket.exists()


def test_path_in_use_is_refused(device: Device, tmp_path: Path) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "uvm.vsock"),
            *("--socket", str(tmp_path / "other"), "--uds", str(device.uds)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 1
    assert str(device.uds) in result.stderr
    assert not (tmp_path / "other").exists()
    assert device.uds.exists()
