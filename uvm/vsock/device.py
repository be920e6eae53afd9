"""The vsock device: the table of streams, and what becomes of each packet of the guest.

Rules, where they are not in `connection`:

* A packet of no known stream is answered by RST, unless it is one.
* REQUEST is answered at once: RESPONSE when somebody listens at ``<path>_<port>``, else RST.
* REQUEST of a stream that is open already changes nothing, as in Linux' own vhost-vsock. Linux
  sends it when a signal interrupts a blocking connect() which is then restarted; mostly its first
  REQUEST has already been answered, and the guest takes that answer.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from uvm.vsock.backend import RECEIVE_QUEUE
from uvm.vsock.complaints import Complaints
from uvm.vsock.connection import Connection, State
from uvm.vsock.packet import (
    HEADER_SIZE,
    HOST_CID,
    OP_CREDIT_REQUEST,
    OP_CREDIT_UPDATE,
    OP_REQUEST,
    OP_RESPONSE,
    OP_RST,
    OP_RW,
    OP_SHUTDOWN,
    TYPE_STREAM,
    Header,
    reset_reply,
)
from uvm.vsock.sender import GuestSender
from uvm.vsock.virtqueue import Chain, ChainError, QueueError, Virtqueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvm.vsock.loop import EventLoop

log = logging.getLogger(__name__)

# Chains taken from the guest before sockets get their turn.
CHAINS_PER_TURN: Final = 32
# One write takes at most this many pieces of guest memory; writev's limit is 1024.
PIECES_PER_WRITE: Final = 512
# A full backlog of the host's listener gives no event when there is room again. The time is less
# than the two seconds after which a Linux guest gives up.
BACKLOG_RETRY_INTERVAL: Final = 0.005
BACKLOG_PATIENCE: Final = 1.5
# How long a guest may take to answer a stream that the host opens.
GUEST_ANSWER_TIMEOUT: Final = 10.0

# Streams that the guest has left and whose hosts have not read all; each holds up to 256 KiB.
DRAINING_LIMIT: Final = 1024

# Host ports of streams that the host opens; far from the ports that guests dial.
FIRST_HOST_PORT: Final = 0x80000000
LAST_HOST_PORT: Final = 0xFFFFFFFE

Key = tuple[int, int]


class Batch:
    """Consecutive data packets of one stream, to be written by one system call."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.views: list[memoryview] = []
        self.size = 0
        self.heads: list[int] = []


class VsockDevice:
    """A virtio-vsock device whose host side are unix sockets.

    ``path`` is the prefix of the sockets on which the host listens: ``<path>_<port>``.
    """

    def __init__(self, loop: EventLoop, guest_cid: int, path: str) -> None:
        self.loop: Final = loop
        self.guest_cid: Final = guest_cid
        self.complaints: Final = Complaints(log)
        self.sender: Final = GuestSender(self.complaints)
        self.draining: set[Connection] = set()
        self.on_drained: Callable[[], None] | None = None
        self._path: Final = path
        self._connections: dict[Key, Connection] = {}
        self._opening: set[Key] = set()
        self._waiting: deque[Connection] = deque()
        self._queue: Virtqueue | None = None
        self._overloaded = False
        self._batch = Batch()
        self._next_host_port = FIRST_HOST_PORT
        self._handlers: dict[int, Callable[[Connection, Header], None]] = {
            OP_REQUEST: self._on_duplicate_request,
            OP_RESPONSE: lambda connection, _: connection.on_response(),
            OP_RST: lambda connection, _: connection.on_reset(),
            OP_SHUTDOWN: lambda connection, packet: connection.on_shutdown(packet.flags),
            OP_CREDIT_UPDATE: lambda _connection, _packet: None,
            OP_CREDIT_REQUEST: lambda connection, _: connection.announce_credit(),
        }
        loop.after_each_batch(self._notify)

    # The side of the back-end

    def configuration(self) -> bytes:
        """The configuration space: the guest's CID."""
        return struct.pack("<Q", self.guest_cid)

    def start_queue(self, index: int, queue: Virtqueue) -> None:
        """See `uvm.vsock.backend.Device`."""
        if index == RECEIVE_QUEUE:
            self.sender.start(queue)
            self._on_buffers()
        else:
            self._queue = queue
            self._drain()

    def stop_queue(self, index: int) -> None:
        """See `uvm.vsock.backend.Device`. What the guest has sent is taken first."""
        if index == RECEIVE_QUEUE:
            self.sender.stop()
        elif self._queue is not None:
            self._drain()
            self._queue.notify()
            self._queue = None

    def kick(self, index: int) -> None:
        """See `uvm.vsock.backend.Device`."""
        if index == RECEIVE_QUEUE:
            self._on_buffers()
        else:
            self._drain()

    def release_buffers(self) -> None:
        """See `uvm.vsock.backend.Device`."""
        self.sender.release_buffers()

    def guest_reset(self) -> None:
        """See `uvm.vsock.backend.Device`. Hosts still get what the guest had sent."""
        for connection in list(self._connections.values()):
            connection.on_reset()
        self._opening.clear()
        self._waiting.clear()
        self.sender.forget_control()

    def close(self) -> None:
        """Drop everything, also what hosts have not read yet."""
        for connection in [*self._connections.values(), *self.draining]:
            connection.abort()

    def _notify(self) -> None:
        self.sender.notify()
        if self._queue is not None:
            self._queue.notify()

    # The side of the connections

    def forget(self, connection: Connection) -> None:
        """Take a stream out of the table: its packets are unknown from now on."""
        key = (connection.host_port, connection.guest_port)
        if self._connections.get(key) is connection:
            del self._connections[key]

    def drain(self, connection: Connection) -> bool:
        """Keep a stream that the guest has left until its host has read the rest.

        False when too many are kept already: a guest could go on opening and leaving streams.
        """
        if len(self.draining) >= DRAINING_LIMIT:
            self.complaints.warn("bytes of a reset stream are dropped, its host does not read")
            return False
        self.draining.add(connection)
        return True

    def drained(self, connection: Connection) -> None:
        """The host has all that the guest had sent on a stream that the guest has left."""
        self.draining.discard(connection)
        if not self.draining and self.on_drained is not None:
            self.on_drained()

    def wait_for_buffers(self, connection: Connection) -> None:
        """`Connection.resume` as soon as the guest has receive buffers, in order of asking."""
        self._waiting.append(connection)

    def connect_guest(self, sock: socket.socket, guest_port: int) -> None:
        """Open a stream to a port of the guest for a host's connected socket, now owned here.

        The socket gets ``OK <host port>`` or is closed.
        """
        if not self.sender.running:
            log.info("refused: connection to port %d, the guest has no driver yet", guest_port)
            self.loop.close(sock)
            return
        connection = Connection(self, sock, self._new_host_port(guest_port), guest_port)
        self._connections[connection.host_port, guest_port] = connection
        connection.request(GUEST_ANSWER_TIMEOUT)

    def _new_host_port(self, guest_port: int) -> int:
        while True:
            port = self._next_host_port
            self._next_host_port = FIRST_HOST_PORT if port == LAST_HOST_PORT else port + 1
            if (port, guest_port) not in self._connections:
                return port

    # Receive queue: to the guest

    def _on_buffers(self) -> None:
        """The guest has offered receive buffers: answers first, then streams in turn."""
        self.sender.flush()
        for _ in range(len(self._waiting)):
            if not self.sender.ready(1):
                break
            self._waiting.popleft().resume()
        if self._overloaded and not self.sender.overloaded:
            self._drain()

    # Transmit queue: from the guest

    def _drain(self) -> None:
        """Take what the guest has sent, at most one turn's worth."""
        queue = self._queue
        if queue is None:
            return
        self._overloaded = False
        queue.disable_kicks()
        try:
            if self._take_chains(queue):
                self.loop.call_soon(self._drain)
        except QueueError as error:
            log.error("transmit queue of the guest is unusable: %s", error)
            self._write_batch()
            self.guest_reset()
        queue.publish()

    def _take_chains(self, queue: Virtqueue) -> bool:
        """Whether the turn has ended with more to take."""
        for _ in range(CHAINS_PER_TURN):
            if self.sender.overloaded:
                # `_on_buffers` goes on.
                self._overloaded = True
                self._write_batch()
                return False
            try:
                chain = queue.pop()
                if chain is not None:
                    self._take(chain)
                    continue
            except ChainError as error:
                self.complaints.warn("packet of the guest: %s", error)
                queue.push(error.head, 0)
                continue
            self._write_batch()
            queue.publish()
            if not queue.enable_kicks():
                return False
            queue.disable_kicks()
        self._write_batch()
        return True

    def _take(self, chain: Chain) -> None:
        """One packet. Raises ChainError when it is too short."""
        front, payload = chain.split(HEADER_SIZE)
        packet = Header.unpack(front if isinstance(front, memoryview) else b"".join(front))
        connection = self._route(packet)
        if connection is not None and packet.operation == OP_RW:
            self._add_to_batch(connection, packet, chain.head, payload)
            return
        self._write_batch()
        if connection is not None:
            connection.update_credit(packet)
            handler = self._handlers.get(packet.operation)
            if handler is None:
                self.complaints.warn("operation unknown: %s", packet)
                connection.abort()
            else:
                handler(connection, packet)
        self._give_back(chain.head)

    def _route(self, packet: Header) -> Connection | None:
        """The stream of a packet; None when there is none, and the packet is dealt with."""
        if packet.source_cid != self.guest_cid:
            self.complaints.warn(
                "dropped, it does not come from CID %d: %s", self.guest_cid, packet
            )
            return None
        if packet.destination_cid == HOST_CID and packet.type == TYPE_STREAM:
            key = (packet.destination_port, packet.source_port)
            connection = self._connections.get(key)
            if connection is not None:
                return connection
            if packet.operation == OP_REQUEST:
                self._on_request(packet)
                return None
            self._opening.discard(key)
        if packet.operation != OP_RST:
            self.sender.control(reset_reply(packet))
        return None

    def _give_back(self, head: int) -> None:
        if self._queue is not None:
            self._queue.push(head, 0)

    def _add_to_batch(
        self, connection: Connection, packet: Header, head: int, payload: list[memoryview]
    ) -> None:
        connection.update_credit(packet)
        if self._batch.connection is not connection or len(self._batch.views) >= PIECES_PER_WRITE:
            self._write_batch()
            self._batch.connection = connection
        views, missing = _cut(payload, packet.length)
        if missing:
            self.complaints.warn("%d bytes are missing: %s", missing, packet)
            self._write_batch()
            connection.abort()
            self._give_back(head)
            return
        self._batch.views += views
        self._batch.size += packet.length
        self._batch.heads.append(head)

    def _write_batch(self) -> None:
        """Hand the collected data to its stream, and only then its memory back to the guest."""
        batch = self._batch
        if batch.connection is None:
            return
        self._batch = Batch()
        if batch.size:
            batch.connection.on_data(batch.views, batch.size)
        for head in batch.heads:
            self._give_back(head)

    # Opening from the guest

    def _on_duplicate_request(self, connection: Connection, packet: Header) -> None:
        if connection.state is State.CLOSING:
            # The host is gone and nothing is left to lose: the guest may use its port again.
            connection.on_reset()
            self._on_request(packet)
            return
        log.info("request for an open stream ignored: %s", packet)

    def _on_request(self, packet: Header) -> None:
        key = (packet.destination_port, packet.source_port)
        if key in self._opening:
            return
        self._opening.add(key)
        self._connect_host(packet, time.monotonic() + BACKLOG_PATIENCE)

    def _connect_host(self, packet: Header, deadline: float) -> None:
        """Connect to whoever listens for the port; try again while the backlog is full."""
        key = (packet.destination_port, packet.source_port)
        if key not in self._opening:
            return
        path = f"{self._path}_{packet.destination_port}"
        try:
            sock = _connect(path)
        except BlockingIOError:
            if time.monotonic() < deadline:
                self.loop.call_later(
                    BACKLOG_RETRY_INTERVAL, lambda: self._connect_host(packet, deadline)
                )
                return
            self.complaints.warn("refused: the backlog of %s stays full", path)
            sock = None
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ECONNREFUSED):
                self.complaints.warn("cannot connect to %s: %s", path, error)
            sock = None
        self._opening.discard(key)
        if sock is None:
            self.sender.control(reset_reply(packet))
            return
        connection = Connection(self, sock, packet.destination_port, packet.source_port)
        self._connections[key] = connection
        connection.update_credit(packet)
        connection.accept()


def _cut(views: list[memoryview], size: int) -> tuple[list[memoryview], int]:
    """The views' first ``size`` bytes, and how many there are too few."""
    front: list[memoryview] = []
    for view in views:
        if size <= 0:
            break
        front.append(view[:size])
        size -= len(front[-1])
    return front, size


def _connect(path: str) -> socket.socket:
    """A non-blocking socket connected to ``path``. BlockingIOError when the backlog is full."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
