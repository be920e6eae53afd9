"""The vsock device as a process, between a driver (no VM) and hosts on unix sockets."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.support.vsock_driver import (
    GUEST_BASE,
    GUEST_CID,
    INDIRECT,
    MEMORY_SIZE,
    NEXT,
    PATIENCE,
    QUEUE_SIZE,
    USER_BASE,
    WRITE,
    Guest,
    Stream,
    pattern,
)
from uvm.vsock import vhost_user as vu
from uvm.vsock.packet import (
    HEADER_SIZE,
    HOST_CID,
    OP_CREDIT_UPDATE,
    OP_REQUEST,
    OP_RESPONSE,
    OP_RST,
    OP_RW,
    OP_SHUTDOWN,
    SHUTDOWN_BOTH,
    SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
    TYPE_STREAM,
    Header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PORT = 7000
LARGE = 3 << 20


class Device:
    """The device process and the host's end of its sockets."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.socket = directory / "vhost-user"
        self.uds = directory / "vsock"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvm.vsock"),
                *("--socket", str(self.socket), "--uds", str(self.uds), *options),
            ],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self.keep = "--keep" in options
        self.sockets: list[socket.socket] = []
        self.guests: list[Guest] = []

    def guest(
        self, *, features: int = 0, one_descriptor: bool = False, start: bool = True
    ) -> Guest:
        guest = Guest(self.socket, features=features, one_descriptor=one_descriptor)
        self.guests.append(guest)
        guest.negotiate()
        if start:
            guest.start()
        return guest

    def listen(self, port: int = PORT, backlog: int = 100) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.settimeout(PATIENCE)
        listener.bind(f"{self.uds}_{port}")
        listener.listen(backlog)
        self.sockets.append(listener)
        return listener

    def accept(self, listener: socket.socket) -> socket.socket:
        sock, _ = listener.accept()
        sock.settimeout(PATIENCE)
        self.sockets.append(sock)
        return sock

    def dial(self, greeting: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE)
        sock.connect(str(self.uds))
        sock.sendall(greeting)
        self.sockets.append(sock)
        return sock

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for guest in self.guests:
            guest.close()
        if self.keep or not self.guests:
            self.process.terminate()
        assert self.process.wait(PATIENCE) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    device.close()


@pytest.fixture
def guest(device: Device) -> Guest:
    return device.guest()


def connected(device: Device, guest: Guest, port: int = PORT) -> tuple[Stream, socket.socket]:
    """A stream opened by the guest: its two ends."""
    listener = device.listen(port)
    stream = guest.connect(port)
    return stream, device.accept(listener)


def receive(sock: socket.socket, size: int) -> bytes:
    """Read exactly ``size`` bytes, or up to the end of file."""
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            break
        data += part
    return bytes(data)


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def assert_serves(device: Device, guest: Guest, port: int) -> None:
    """The device works: a new stream carries data both ways."""
    stream, host = connected(device, guest, port)
    stream.write(b"question")
    assert receive(host, 8) == b"question"
    host.sendall(b"answer")
    assert stream.read(6) == b"answer"


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


# Data and flow control


def test_much_data_from_the_guest(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    result: list[bytes] = []
    reader = in_background(lambda: result.append(receive(host, LARGE)))
    stream.write(pattern(0, LARGE))
    reader.join(PATIENCE)
    assert result == [pattern(0, LARGE)]


def test_much_data_to_the_guest(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    writer = in_background(lambda: host.sendall(pattern(0, LARGE)))
    assert stream.read(LARGE) == pattern(0, LARGE)
    writer.join(PATIENCE)


def test_both_directions_at_once(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    result: list[bytes] = []
    threads = [
        in_background(lambda: host.sendall(pattern(7, LARGE))),
        in_background(lambda: result.append(receive(host, LARGE))),
    ]
    received = bytearray()
    for start in range(0, LARGE, 65536):
        stream.write(pattern(start, 65536))
        received += stream.read(65536)
    for thread in threads:
        thread.join(PATIENCE)
    assert received == pattern(7, LARGE)
    assert result == [pattern(0, LARGE)]


def test_slow_host_reader_stops_its_stream_only(device: Device, guest: Guest) -> None:
    slow, slow_host = connected(device, guest, PORT)
    total = slow.write_all_credit()
    slow.request_credit()
    while slow.credit > 0:  # the host's socket has taken some
        start = total
        total += slow.credit
        slow.sent += total - start
        for offset in range(start, total, 65536):
            slow.packet(OP_RW, pattern(offset, min(65536, total - offset)))
        slow.request_credit()
    other, other_host = connected(device, guest, PORT + 1)
    reader = in_background(lambda: receive(other_host, LARGE))
    other.write(pattern(0, LARGE))
    reader.join(PATIENCE)
    assert receive(slow_host, total) == pattern_of_writes(slow, total)
    slow.request_credit()
    guest.wait_for(lambda: slow.credit == slow.host_buffer)


def pattern_of_writes(stream: Stream, total: int) -> bytes:
    """What `write_all_credit` and its continuation have written: one pattern throughout."""
    assert stream.sent == total
    return pattern(0, total)


def test_guest_without_credit_stops_its_stream_only(device: Device, guest: Guest) -> None:
    stuck, stuck_host = connected(device, guest, PORT)
    writer = in_background(lambda: stuck_host.sendall(pattern(0, LARGE)))
    guest.wait_for(lambda: stuck.received_total == stuck.buffer_size)
    other, other_host = connected(device, guest, PORT + 1)
    other_writer = in_background(lambda: other_host.sendall(pattern(3, LARGE)))
    assert other.read(LARGE) == pattern(3, LARGE)
    other_writer.join(PATIENCE)
    assert stuck.received_total == stuck.buffer_size
    assert stuck.read(LARGE) == pattern(0, LARGE)
    writer.join(PATIENCE)


def test_no_receive_buffers(device: Device, guest: Guest) -> None:
    """Without buffers nothing reaches the guest, and nothing is lost when they come."""
    streams = [connected(device, guest, PORT + index) for index in range(3)]
    guest.withhold = True
    writers = []
    for index, (_, host) in enumerate(streams):
        writers.append(in_background(lambda h=host, i=index: h.sendall(pattern(i, 400000))))  # type: ignore[misc]
    guest.wait_for(lambda: len(guest._held) == QUEUE_SIZE // 2)
    late = guest.request(PORT + 99)
    streams[0][0].write(b"still goes out")
    assert receive(streams[0][1], 14) == b"still goes out"
    assert not late.operations
    guest.release_buffers()
    late.wait_for_operation(OP_RST)
    for index, (stream, _) in enumerate(streams):
        assert stream.read(400000) == pattern(index, 400000)
    for writer in writers:
        writer.join(PATIENCE)


def test_small_credit(device: Device, guest: Guest) -> None:
    listener = device.listen()
    stream = guest.connect(PORT, buffer_size=10)
    host = device.accept(listener)
    host.sendall(pattern(0, 1000))
    assert stream.read(1000) == pattern(0, 1000)
    stream.write(pattern(1, 1000))
    assert receive(host, 1000) == pattern(1, 1000)


def test_guest_that_exceeds_its_credit_is_reset(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    for _ in range(40):
        stream.sent += 65536
        stream.packet(OP_RW, bytes(65536))
    stream.wait_for_operation(OP_RST)
    assert len(receive(host, 40 * 65536)) < 40 * 65536
    assert_serves(device, guest, PORT + 1)


# Closing


def test_guest_ends_writing_and_still_reads(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    stream.write(b"the end")
    stream.packet(OP_SHUTDOWN, flags=SHUTDOWN_SEND)
    assert receive(host, 100) == b"the end"
    writer = in_background(lambda: host.sendall(pattern(0, LARGE)))
    assert stream.read(LARGE) == pattern(0, LARGE)
    writer.join(PATIENCE)
    host.close()
    guest.wait_for(lambda: stream.shutdown_flags == SHUTDOWN_BOTH)
    assert not stream.reset


def test_host_ends_writing_and_still_reads(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)

    def write() -> None:
        host.sendall(pattern(0, LARGE))
        host.shutdown(socket.SHUT_WR)

    writer = in_background(write)
    assert stream.read(LARGE) == pattern(0, LARGE)
    writer.join(PATIENCE)
    guest.wait_for(lambda: stream.shutdown_flags == SHUTDOWN_SEND)
    stream.write(b"reply")
    stream.packet(OP_SHUTDOWN, flags=SHUTDOWN_BOTH)
    assert receive(host, 100) == b"reply"
    stream.wait_for_operation(OP_RST)


def test_host_that_closes_delivers_all_before(device: Device, guest: Guest) -> None:
    """More than the guest's credit: the rest waits in a socket whose other end is gone."""
    listener = device.listen()
    stream = guest.connect(PORT, buffer_size=1000)
    host = device.accept(listener)
    host.sendall(pattern(0, 100000))
    host.close()
    guest.wait_for(lambda: stream.received_total == 1000)
    assert_serves(device, guest, PORT + 1)
    assert stream.shutdown_flags == 0
    stream.buffer_size = 50000
    assert stream.read(100000) == pattern(0, 100000)
    guest.wait_for(lambda: stream.shutdown_flags == SHUTDOWN_BOTH)
    stream.packet(OP_RST)
    stream.packet(OP_CREDIT_UPDATE)
    stream.wait_for_operation(OP_RST)  # unknown by now


def test_host_that_closed_and_guest_that_will_not_read(device: Device, guest: Guest) -> None:
    listener = device.listen()
    stream = guest.connect(PORT, buffer_size=10)
    host = device.accept(listener)
    host.sendall(bytes(1000))
    host.close()
    guest.wait_for(lambda: stream.received_total == 10)
    assert_serves(device, guest, PORT + 1)
    stream.packet(OP_SHUTDOWN, flags=SHUTDOWN_RECEIVE)
    guest.wait_for(lambda: stream.shutdown_flags == SHUTDOWN_BOTH)


def test_host_that_stops_reading(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    host.shutdown(socket.SHUT_RD)
    stream.write(b"for nobody")
    guest.wait_for(lambda: stream.shutdown_flags == SHUTDOWN_RECEIVE)
    host.sendall(b"goes on")
    assert stream.read(7) == b"goes on"
    host.close()
    guest.wait_for(lambda: stream.shutdown_flags == SHUTDOWN_BOTH)


def test_guest_that_stops_reading(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    stream.packet(OP_SHUTDOWN, flags=SHUTDOWN_RECEIVE)
    stream.write(b"last")
    assert receive(host, 4) == b"last"
    with pytest.raises(BrokenPipeError):
        host.sendall(b"nobody")
    stream.packet(OP_SHUTDOWN, flags=SHUTDOWN_SEND)
    stream.wait_for_operation(OP_RST)
    assert receive(host, 1) == b""


def test_guest_closes_in_order(device: Device, guest: Guest) -> None:
    """Also when the host has sent what the guest never read: end of file, no error."""
    listener = device.listen()
    stream = guest.connect(PORT, buffer_size=3)
    host = device.accept(listener)
    host.sendall(b"unread")
    stream.write(b"bye")
    stream.packet(OP_SHUTDOWN, flags=SHUTDOWN_BOTH)
    stream.wait_for_operation(OP_RST)
    assert receive(host, 100) == b"bye"


@pytest.mark.parametrize("operation", [OP_SHUTDOWN, OP_RST])
def test_slow_host_gets_all_after_the_guest_has_left(
    device: Device, guest: Guest, operation: int
) -> None:
    stream, host = connected(device, guest)
    total = stream.write_all_credit()
    stream.packet(operation, flags=SHUTDOWN_BOTH)
    if operation == OP_SHUTDOWN:
        assert_serves(device, guest, PORT + 1)
        assert not stream.reset
    assert receive(host, total + 1) == pattern(0, total)
    if operation == OP_SHUTDOWN:
        stream.wait_for_operation(OP_RST)


def test_unknown_streams(device: Device, guest: Guest) -> None:
    for operation in (OP_RESPONSE, OP_RW, OP_SHUTDOWN, OP_CREDIT_UPDATE, 99):
        stray = Stream(guest, 999, operation)
        guest.streams[999, operation] = stray
        stray.packet(operation)
        stray.wait_for_operation(OP_RST)
    silent = Stream(guest, 999, 1)
    guest.streams[999, 1] = silent
    silent.packet(OP_RST)
    assert_serves(device, guest, PORT)
    assert silent.operations == []


def test_duplicate_request_leaves_the_stream_alone(device: Device, guest: Guest) -> None:
    listener = device.listen()
    stream = guest.connect(PORT)
    host = device.accept(listener)
    stream.write(b"before, ")
    stream.packet(OP_REQUEST)
    stream.write(b"after")
    assert receive(host, 13) == b"before, after"
    assert stream.operations == [OP_RESPONSE]
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_many_streams_come_and_go(device: Device, guest: Guest) -> None:
    """Descriptor numbers are used again and again; no stream sees another's bytes or events."""
    listener = device.listen()
    for start in range(0, 300, 20):
        streams = [guest.connect(PORT) for _ in range(20)]
        for index, stream in enumerate(streams):
            stream.write(b"%d\n" % (start + index))
        hosts = [device.accept(listener) for _ in streams]
        for index, host in enumerate(hosts):
            number = receive(host, len(b"%d\n" % (start + index)))
            assert number == b"%d\n" % (start + index)
            host.sendall(number * 2)
            if index % 2:
                host.close()
        for index, stream in enumerate(streams):
            number = b"%d\n" % (start + index)
            assert stream.read(2 * len(number)) == number * 2
            stream.packet(OP_SHUTDOWN, flags=SHUTDOWN_BOTH)
        for stream in streams:
            stream.wait_for_operation(OP_RST)
        for host in hosts[::2]:
            assert receive(host, 1) == b""
    descriptors = len(os.listdir(f"/proc/{device.process.pid}/fd"))
    assert descriptors < 30


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


# Guests that break the rules


def malformed_chains() -> dict[str, list[tuple[int, int, int, int]]]:
    """Descriptors for slot 0 that no device can follow."""
    data = GUEST_BASE + 0x200000
    return {
        "below memory": [(0, HEADER_SIZE, 0, 0)],
        "behind memory": [(GUEST_BASE + MEMORY_SIZE, HEADER_SIZE, 0, 0)],
        "across the end": [(GUEST_BASE + MEMORY_SIZE - 10, HEADER_SIZE, 0, 0)],
        "wraps around": [(2**64 - 10, HEADER_SIZE, 0, 0)],
        "huge": [(data, 0xFFFFFFFF, 0, 0)],
        "loop": [(data, HEADER_SIZE, NEXT, 0)],
        "next too large": [(data, HEADER_SIZE, NEXT, 60000)],
        "writable": [(data, HEADER_SIZE, WRITE, 0)],
        "short header": [(data, HEADER_SIZE - 1, 0, 0)],
        "empty": [(data, 0, 0, 0)],
        "indirect outside": [(GUEST_BASE + MEMORY_SIZE, 32, INDIRECT, 0)],
        "indirect of odd size": [(data, 17, INDIRECT, 0)],
        "indirect of no size": [(data, 0, INDIRECT, 0)],
        "indirect and next": [(data, 16, INDIRECT | NEXT, 1)],
    }


@pytest.mark.parametrize("kind", malformed_chains())
def test_malformed_chain_is_given_back(device: Device, guest: Guest, kind: str) -> None:
    guest.wait_until_sent()
    guest._free.remove(0)
    guest.send_chain(0, malformed_chains()[kind])
    guest.wait_until_sent()
    assert_serves(device, guest, PORT)


def test_indirect_chain(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    header = Header(GUEST_CID, HOST_CID, stream.guest_port, PORT, 6, TYPE_STREAM, OP_RW, 0, 9, 0)
    table, data = 0x200000, 0x201000
    guest.memory[data : data + 50] = header.pack() + b"pieces"
    # The header in two pieces too: legal, if unheard of.
    cuts = [0, 20, 44, 47, 50]
    for index, (begin, end) in enumerate(pairwise(cuts)):
        flags = NEXT if end != 50 else 0
        struct.pack_into(
            "<QIHH", guest.memory, table + 16 * index,
            GUEST_BASE + data + begin, end - begin, flags, index + 1,
        )  # fmt: skip
    guest.send_chain(guest.free_slot(), [(GUEST_BASE + table, 64, INDIRECT, 0)])
    assert receive(host, 6) == b"pieces"


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"length": 1000}, OP_RST),
        ({"length": 0xFFFFFFFF}, OP_RST),
        ({"source_cid": 77}, None),
        ({"destination_cid": 77}, OP_RST),
        ({"type": 2}, OP_RST),
        ({"operation": 0}, OP_RST),
        ({"operation": 8}, OP_RST),
    ],
)
def test_bad_header(
    device: Device, guest: Guest, change: dict[str, int], answer: int | None
) -> None:
    stream, _ = connected(device, guest)
    header = Header(
        GUEST_CID, HOST_CID, stream.guest_port, PORT, 5, TYPE_STREAM, OP_RW, 0, 65536, 0
    )
    guest.send_packet(header._replace(**change), b"hello")
    if answer is not None:
        guest.wait_for(
            lambda: stream.reset or answer in [header.operation for header in guest.strays]
        )
    guest.wait_until_sent()
    assert_serves(device, guest, PORT + 1)


def test_malformed_receive_buffers_are_passed_over(device: Device, guest: Guest) -> None:
    guest.stop()
    guest._reset_driver = lambda: None  # type: ignore[method-assign]
    guest.receive.reset()
    guest.transmit.reset()
    for slot in range(4):
        bad = [
            (0, 4096, WRITE, 0),
            (GUEST_BASE, 4096, 0, 0),
            (GUEST_BASE + 0x200000, HEADER_SIZE, WRITE, 0),
            (GUEST_BASE + 0x200000, 10, WRITE, 0),
        ][slot]
        guest.receive.write_descriptor(2 * slot, bad)
        guest.receive.offer(2 * slot)
    for slot in range(4, QUEUE_SIZE // 2):
        guest._offer_buffer(slot)
    guest._free = list(range(QUEUE_SIZE // 2))
    guest.start()
    stream = guest.request(PORT)
    elements: list[tuple[int, int]] = []
    while len(elements) < 5:
        element = guest.receive.take()
        if element is None:
            guest.receive.wait()
        else:
            elements.append(element)
    assert [written for _, written in elements] == [0, 0, 0, 0, HEADER_SIZE]
    assert stream.operations == []


@pytest.mark.parametrize("ring", ["receive", "transmit"])
@pytest.mark.parametrize("damage", ["head", "index"])
def test_inconsistent_ring_lasts_until_reset(
    device: Device, guest: Guest, ring: str, damage: str
) -> None:
    _, host = connected(device, guest)
    broken = guest.receive if ring == "receive" else guest.transmit
    if damage == "index":
        broken.set_available_index((broken.next_available + QUEUE_SIZE * 3) & 0xFFFF)
    else:
        broken.offer(QUEUE_SIZE + 5)
    broken.kick()
    if ring == "transmit":
        assert receive(host, 1) == b""
    guest.stop()
    guest.start()
    assert_serves(device, guest, PORT + 1)


def test_questions_without_room_for_answers(device: Device, guest: Guest) -> None:
    """A guest that offers no buffers cannot make the device remember answers without end."""
    guest.withhold = True
    stray = Header(GUEST_CID, HOST_CID, 1, 1, 0, TYPE_STREAM, OP_RW, 0, 0, 0)
    count = 20000
    sent = 0
    while sent < count:
        guest._poll()
        while (element := guest.transmit.take()) is not None:
            guest._free.append(element[0] // 2)
        if guest._free:
            guest.send_packet(stray)
            sent += 1
        elif sent > 16000:
            break
        else:
            guest.transmit.wait()
    assert sent < count
    guest.release_buffers()
    guest.wait_for(lambda: len(guest.strays) == sent)
    assert_serves(device, guest, PORT)


@pytest.mark.parametrize(
    "message",
    [
        vu.MESSAGE_HEADER.pack(77, vu.VERSION, 0),
        vu.MESSAGE_HEADER.pack(vu.SET_VRING_BASE, vu.VERSION, 0),
        vu.MESSAGE_HEADER.pack(vu.SET_FEATURES, 2, 8),
        vu.MESSAGE_HEADER.pack(vu.SET_FEATURES, vu.VERSION, 1 << 30),
        vu.MESSAGE_HEADER.pack(vu.SET_VRING_NUM, vu.VERSION, 8) + vu.VRING_STATE.pack(9, 64),
        vu.MESSAGE_HEADER.pack(vu.SET_MEM_TABLE, vu.VERSION, 8) + vu.VRING_STATE.pack(1, 0),
        vu.MESSAGE_HEADER.pack(vu.SET_VRING_KICK, vu.VERSION, 8) + vu.U64.pack(vu.VRING_NO_FD),
    ],
    ids=["unknown", "empty", "version", "size", "queue", "no-memory-file", "no-kick-file"],
)
def test_bad_vhost_user_message_ends_the_connection(tmp_path: Path, message: bytes) -> None:
    device = Device(tmp_path, "--keep")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(device.socket))
        sock.sendall(message)
        assert receive(sock, 1) == b""
    assert_serves(device, device.guest(), PORT)
    device.close()
