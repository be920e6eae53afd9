"""One stream between a port of the guest and a unix socket of the host.

Host to guest, bytes go from the socket straight into the guest's receive buffers, as many as the
guest's credit allows: nothing is kept here, so a slow guest fills the host's socket and blocks its
writer. Guest to host, bytes go from guest memory straight into the socket; what the socket does
not take is copied and kept, at most `BUFFER_SIZE` bytes, which is the credit the guest is given: a
slow host reader stops the guest's writer and nobody else.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from uvm.vsock.packet import (
    HEADER,
    HOST_CID,
    OP_CREDIT_UPDATE,
    OP_REQUEST,
    OP_RESPONSE,
    OP_RST,
    OP_SHUTDOWN,
    SHUTDOWN_BOTH,
    SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
    TYPE_STREAM,
    Header,
)

if TYPE_CHECKING:
    from uvm.vsock.device import VsockDevice
    from uvm.vsock.loop import Timer

log = logging.getLogger(__name__)

COUNTER_MASK: Final = 0xFFFFFFFF

# Room for bytes of one stream that its host reader has not taken. Linux announces as much itself,
# and its newer kernels use no more of ours than they have.
BUFFER_SIZE: Final = 256 * 1024

# Receive buffers offered to a read at first; doubled while reads fill them all.
FIRST_BURST: Final = 4
LAST_BURST: Final = 64

# Linux waits as long for the answer to its own SHUTDOWN before it sends RST.
CLOSE_TIMEOUT: Final = 8.0

HANGUP: Final = select.EPOLLHUP | select.EPOLLERR
READABLE: Final = select.EPOLLIN | HANGUP
WRITABLE: Final = select.EPOLLOUT | HANGUP
UNREGISTERED: Final = -1


class State(Enum):
    """Where a stream stands."""

    CONNECTING = auto()
    """The host has asked, the guest has not answered."""
    ESTABLISHED = auto()
    CLOSING = auto()
    """The host's socket is closed, SHUTDOWN is sent; the guest has to answer RST."""
    DRAINING = auto()
    """The guest is done with it; the host has yet to take the last bytes."""
    CLOSED = auto()


class Connection:
    """A stream. It reads and writes its socket, and keeps its interest in epoll up to date."""

    __slots__ = (
        "_announced",
        "_burst",
        "_device",
        "_guest_shutdown",
        "_hangup",
        "_host_end_of_file",
        "_host_refuses",
        "_interest",
        "_pending",
        "_sock",
        "_starved",
        "_timer",
        "_waiting",
        "credit_limit",
        "credit_used",
        "fd",
        "forwarded",
        "guest_port",
        "host_port",
        "sent",
        "state",
    )

    def __init__(
        self, device: VsockDevice, sock: socket.socket, host_port: int, guest_port: int
    ) -> None:
        """``sock`` is non-blocking, connected, unknown to epoll, and from now on owned here."""
        self._device: Final = device
        self._sock: Final = sock
        self.fd = sock.fileno()
        self.host_port: Final = host_port
        self.guest_port: Final = guest_port
        self.state = State.CONNECTING
        # Host to guest: bytes sent, and the guest's buffer size and count of bytes taken from it.
        self.sent = 0
        self.credit_limit = 0
        self.credit_used = 0
        # Guest to host: bytes handed to the host, and how many of them the guest knows of.
        self.forwarded = 0
        self._announced = 0
        self._pending = bytearray()
        self._guest_shutdown = 0
        self._host_end_of_file = False
        self._host_refuses = False
        self._hangup = False
        self._waiting = False
        self._starved = False
        self._burst = FIRST_BURST
        self._interest = 0
        self._timer: Timer | None = None
        device.loop.register(self.fd, 0, self.on_event)

    def __str__(self) -> str:
        return f"host {self.host_port} / guest {self.guest_port}"

    # Packets to the guest

    def header(self, operation: int, length: int = 0, flags: int = 0) -> bytes:
        """A packed header of this stream, which also tells the guest its present credit."""
        self._announced = self.forwarded
        return HEADER.pack(
            HOST_CID,
            self._device.guest_cid,
            self.host_port,
            self.guest_port,
            length,
            TYPE_STREAM,
            operation,
            flags,
            BUFFER_SIZE,
            self.forwarded,
        )

    def _send(self, operation: int, flags: int = 0) -> None:
        self._device.sender.control(self.header(operation, flags=flags))

    def announce_credit(self) -> None:
        """Tell the guest how much room there is: the answer to CREDIT_REQUEST."""
        self._send(OP_CREDIT_UPDATE)

    # Opening

    def request(self, timeout: float) -> None:
        """Ask the guest; without an answer in ``timeout`` seconds the host is refused."""
        self._timer = self._device.loop.call_later(timeout, self.abort)
        self._send(OP_REQUEST)

    def accept(self) -> None:
        """The guest has asked and the host is connected."""
        self.state = State.ESTABLISHED
        self._send(OP_RESPONSE)
        self.resume()

    def on_response(self) -> None:
        """The guest has answered the host's request: tell the host, as Firecracker does."""
        if self.state is not State.CONNECTING:
            return
        self._cancel_timer()
        try:
            self._sock.send(f"OK {self.host_port}\n".encode())
        except OSError:
            self.abort()
            return
        self.state = State.ESTABLISHED
        self.resume()

    # Host to guest

    def update_credit(self, packet: Header) -> None:
        """Take over the guest's credit, which every packet of it carries."""
        self.credit_limit = packet.buffer_size
        self.credit_used = packet.forwarded
        if self._starved and self.credit > 0:
            self.resume()

    @property
    def credit(self) -> int:
        """How many bytes the guest has room for. Not positive when it has none."""
        return self.credit_limit - ((self.sent - self.credit_used) & COUNTER_MASK)

    @property
    def _reading(self) -> bool:
        return (
            self.state is State.ESTABLISHED
            and not self._host_end_of_file
            and not self._guest_shutdown & SHUTDOWN_RECEIVE
        )

    def resume(self) -> None:
        """Go on reading from the host, after credit or buffers came."""
        self._waiting = False
        if self._reading:
            self._pump()
        self._settle()

    def _pump(self) -> None:
        """Move one burst from the host to the guest."""
        credit = self.credit
        self._starved = credit <= 0
        if self._starved:
            return
        sender = self._device.sender
        if not sender.ready(self._burst):
            self._waiting = True
            self._device.wait_for_buffers(self)
            return
        try:
            received, offered = sender.relay(self, credit, self._burst)
        except BlockingIOError:
            return
        except ConnectionError:
            # The host has closed without reading all; what it had sent before is taken by now.
            self._hangup = True
            received = offered = 0
        if not received:
            self._on_end_of_file()
            return
        self.sent = (self.sent + received) & COUNTER_MASK
        if received == offered:
            self._burst = min(2 * self._burst, LAST_BURST)
        elif 4 * received < offered and self._burst > FIRST_BURST:
            self._burst //= 2

    def _on_end_of_file(self) -> None:
        self._host_end_of_file = True
        if self._hangup or self._host_refuses:
            self._host_gone()
        else:
            self._send(OP_SHUTDOWN, SHUTDOWN_SEND)

    # Guest to host

    def on_data(self, views: list[memoryview], size: int) -> None:
        """Hand ``size`` bytes of guest memory to the host; what it does not take is copied."""
        if self.state in (State.CLOSING, State.DRAINING):
            return
        if self.state is not State.ESTABLISHED or self._guest_shutdown & SHUTDOWN_SEND:
            self._device.complaints.warn("data on a stream not open for it: %s", self)
            self.abort()
            return
        if len(self._pending) + size > BUFFER_SIZE:
            self._device.complaints.warn("the guest has exceeded its credit: %s", self)
            self.abort()
            return
        written = 0
        if not self._pending and not self._host_refuses:
            try:
                written = os.writev(self.fd, views)
            except BlockingIOError:
                written = 0
            except ConnectionError:
                self._on_host_refuses()
        if self._host_refuses:
            written = size
        elif written < size:
            self._keep(views, written)
        self._count_forwarded(written)

    def _keep(self, views: list[memoryview], skip: int) -> None:
        for view in views:
            if skip < len(view):
                self._pending += view[skip:]
            skip = max(0, skip - len(view))
        self._update_interest()

    def _count_forwarded(self, size: int) -> None:
        self.forwarded = (self.forwarded + size) & COUNTER_MASK
        # Newer Linux kernels send no more at a time than they have room for themselves, so with a
        # small buffer a guest may be waiting long before half of ours is used.
        window = min(BUFFER_SIZE, self.credit_limit)
        unannounced = (self.forwarded - self._announced) & COUNTER_MASK
        if self.state is State.ESTABLISHED and unannounced >= window // 2:
            self.announce_credit()

    def _flush(self) -> None:
        """Hand kept bytes to the host."""
        try:
            written = os.write(self.fd, self._pending)
        except BlockingIOError:
            return
        except ConnectionError:
            written = len(self._pending)
            self._on_host_refuses()
        del self._pending[:written]
        self._count_forwarded(written)
        if not self._pending:
            self._on_flushed()

    def _on_flushed(self) -> None:
        """The host has taken all: pass on that no more will come, where that is so."""
        if self.state is State.DRAINING:
            self._finish()
        elif self.state is State.ESTABLISHED:
            if self._guest_shutdown == SHUTDOWN_BOTH:
                self._finish()
            elif self._guest_shutdown & SHUTDOWN_SEND:
                self._shutdown(socket.SHUT_WR)

    def _on_host_refuses(self) -> None:
        """The host reads no more: the guest need not write any more."""
        if self._host_refuses:
            return
        self._host_refuses = True
        if self._host_end_of_file:
            self._host_gone()
        elif self.state is State.ESTABLISHED:
            self._send(OP_SHUTDOWN, SHUTDOWN_RECEIVE)

    # Closing

    def on_shutdown(self, flags: int) -> None:
        """The guest will not receive, or not send, or neither, any more."""
        self._guest_shutdown |= flags & SHUTDOWN_BOTH
        if self.state is State.CLOSING:
            if self._guest_shutdown == SHUTDOWN_BOTH:
                self._finish()
            return
        if self.state is not State.ESTABLISHED:
            return
        if flags & SHUTDOWN_RECEIVE:
            self._shutdown(socket.SHUT_RD)
        if not self._pending:
            self._on_flushed()
        self._settle()

    def on_reset(self) -> None:
        """The guest has dropped the stream. The host still gets what the guest had sent."""
        if self.state in (State.CLOSED, State.DRAINING):
            return
        self._cancel_timer()
        self._device.forget(self)
        if self.state is State.ESTABLISHED and self._pending and self._device.drain(self):
            self.state = State.DRAINING
            self._shutdown(socket.SHUT_RD)
            self._update_interest()
            return
        self._close_socket()
        self.state = State.CLOSED

    def abort(self) -> None:
        """End the stream at once on both sides."""
        if self.state is State.CLOSED:
            return
        self._cancel_timer()
        if self.state is State.DRAINING:
            self._device.drained(self)
        else:
            self._device.forget(self)
            self._send(OP_RST)
        self._close_socket()
        self.state = State.CLOSED

    def _finish(self) -> None:
        """Both sides have ended in order: answer the guest's SHUTDOWN, close the host's socket.

        Unread input of the host is taken out first; else its reader would get a connection reset
        in place of the end of file.
        """
        if self.fd >= 0:
            self._shutdown(socket.SHUT_RD)
            self._discard_input()
        self.abort()

    def _host_gone(self) -> None:
        """The host neither sends nor receives: say so, and wait for the guest's RST."""
        self._pending.clear()
        if self.state is not State.ESTABLISHED or self._guest_shutdown == SHUTDOWN_BOTH:
            self.abort()
            return
        self._close_socket()
        self.state = State.CLOSING
        self._send(OP_SHUTDOWN, SHUTDOWN_BOTH)
        self._timer = self._device.loop.call_later(CLOSE_TIMEOUT, self.abort)

    def _discard_input(self) -> None:
        try:
            while self._sock.recv(65536):
                pass
        except OSError:
            # Nothing is left, or the host is gone.
            return

    def _shutdown(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError as error:
            # The host has closed already (ENOTCONN), which epoll will say.
            log.debug("%s: shutdown: %s", self, error)

    def _close_socket(self) -> None:
        if self.fd >= 0:
            self._device.loop.close(self._sock)
            self.fd = -1

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Epoll

    def on_event(self, events: int) -> None:
        """The socket can be read or written, or the host is gone."""
        if events & HANGUP:
            self._hangup = True
        if self._pending and events & WRITABLE:
            self._flush()
        if events & READABLE and self._reading and not self._waiting:
            self._pump()
        self._settle()

    def _settle(self) -> None:
        """What follows from the present state, whatever has led to it."""
        if self._hangup and self.fd >= 0 and not self._reading:
            self._host_gone()
        self._update_interest()

    def _update_interest(self) -> None:
        """Wait for exactly what can be dealt with now: epoll is level-triggered."""
        if self.fd < 0:
            return
        wanted = select.EPOLLOUT if self._pending else 0
        if self._reading and not self._waiting and not self._starved:
            wanted |= select.EPOLLIN
        if self._hangup and not wanted:
            # A hang-up is reported without being asked for, and there is nothing to do about it
            # before the guest gives credit or buffers for the bytes the host has left behind.
            wanted = UNREGISTERED
        if wanted == self._interest:
            return
        loop = self._device.loop
        if wanted == UNREGISTERED:
            loop.unregister(self.fd)
        elif self._interest == UNREGISTERED:
            loop.register(self.fd, wanted, self.on_event)
        else:
            loop.modify(self.fd, wanted)
        self._interest = wanted
