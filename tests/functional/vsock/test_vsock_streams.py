"""Streams through the vsock device: data, flow control and the ways to close."""

from __future__ import annotations

import os
import socket

import pytest

from tests.support.vsock_device import (
    LARGE,
    PORT,
    Device,
    assert_serves,
    connected,
    in_background,
    receive,
)
from tests.support.vsock_driver import PATIENCE, QUEUE_SIZE, Guest, Stream, pattern
from uvm.vsock.packet import (
    OP_CREDIT_UPDATE,
    OP_REQUEST,
    OP_RESPONSE,
    OP_RST,
    OP_RW,
    OP_SHUTDOWN,
    SHUTDOWN_BOTH,
    SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
)

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
