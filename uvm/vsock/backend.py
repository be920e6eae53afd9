"""What the device does on each vhost-user message: memory, queues, features, configuration."""

from __future__ import annotations

import logging
import os
import select
from typing import TYPE_CHECKING, Final, Protocol

from uvm.vsock import vhost_user as vu
from uvm.vsock.memory import GuestMemory, Region, RegionLayout
from uvm.vsock.virtqueue import QueueError, RingAddresses, Virtqueue

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from uvm.vsock.loop import EventLoop

log = logging.getLogger(__name__)

RECEIVE_QUEUE: Final = 0
TRANSMIT_QUEUE: Final = 1
QUEUE_COUNT: Final = 2

FEATURES: Final = (
    vu.FEATURE_VERSION_1
    | vu.FEATURE_INDIRECT_DESCRIPTORS
    | vu.FEATURE_EVENT_INDEX
    | vu.FEATURE_PROTOCOL_FEATURES
)
PROTOCOL_FEATURES: Final = (
    vu.PROTOCOL_REPLY_ACK | vu.PROTOCOL_CONFIG | vu.PROTOCOL_CONFIGURE_MEM_SLOTS
)
# Without slots of their own QEMU would refuse the eighth hot-plugged memory device. As vhost's.
MEMORY_SLOTS: Final = 509


class Device(Protocol):
    """The device behind the queues."""

    def configuration(self) -> bytes:
        """The device's configuration space."""

    def start_queue(self, index: int, queue: Virtqueue) -> None:
        """A queue begins, or goes on after a pause."""

    def stop_queue(self, index: int) -> None:
        """The queue must not be touched any more once this returns."""

    def kick(self, index: int) -> None:
        """The driver has made buffers available."""

    def release_buffers(self) -> None:
        """Hold no view of guest memory any more: the memory table is about to change."""

    def guest_reset(self) -> None:
        """The driver starts from nothing: whatever it was connected to is gone."""


class Vring:
    """What is known of one queue; it runs when everything is known and it is enabled."""

    def __init__(self) -> None:
        self.size = 0
        self.base = 0
        self.addresses: RingAddresses | None = None
        self.kick_fd = -1
        self.call_fd = -1
        self.enabled = False
        self.queue: Virtqueue | None = None

    def call(self) -> None:
        """Interrupt the driver."""
        if self.call_fd >= 0:
            try:
                os.eventfd_write(self.call_fd, 1)
            except BlockingIOError:
                # The counter is full of interrupts the driver has not taken: one more is nothing.
                log.debug("interrupt counter is full")

    def close_call(self) -> None:
        """Interrupt nobody any more."""
        if self.call_fd >= 0:
            os.close(self.call_fd)
            self.call_fd = -1


class Backend:
    """One vhost-user connection. ``on_disconnect`` is called once, when it has ended."""

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        device: Device,
        on_disconnect: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._stream = vu.MessageStream(sock)
        self._device = device
        self._on_disconnect = on_disconnect
        self._memory = GuestMemory([])
        self._features = 0
        self._vrings = [Vring() for _ in range(QUEUE_COUNT)]
        self._stopped_at: dict[int, int] = {}
        self._connected = True
        self._handlers: dict[int, Callable[[vu.Message], bytes | None]] = {
            vu.GET_FEATURES: lambda _: vu.U64.pack(FEATURES),
            vu.SET_FEATURES: self._set_features,
            vu.SET_OWNER: lambda _: None,
            vu.RESET_OWNER: lambda _: None,
            vu.SET_MEM_TABLE: self._set_memory_table,
            vu.SET_VRING_NUM: self._set_vring_size,
            vu.SET_VRING_ADDR: self._set_vring_addresses,
            vu.SET_VRING_BASE: self._set_vring_base,
            vu.GET_VRING_BASE: self._get_vring_base,
            vu.SET_VRING_KICK: self._set_vring_kick,
            vu.SET_VRING_CALL: self._set_vring_call,
            vu.SET_VRING_ERR: lambda _: None,
            vu.GET_PROTOCOL_FEATURES: lambda _: vu.U64.pack(PROTOCOL_FEATURES),
            vu.SET_PROTOCOL_FEATURES: lambda _: None,
            vu.GET_QUEUE_NUM: lambda _: vu.U64.pack(QUEUE_COUNT),
            vu.SET_VRING_ENABLE: self._set_vring_enable,
            vu.GET_CONFIG: self._get_config,
            # Nothing of the configuration can be written by the driver.
            vu.SET_CONFIG: lambda _: None,
            vu.GET_MAX_MEM_SLOTS: lambda _: vu.U64.pack(MEMORY_SLOTS),
            vu.ADD_MEM_REG: self._add_memory_region,
            vu.REM_MEM_REG: self._remove_memory_region,
        }
        loop.register(sock.fileno(), select.EPOLLIN, self._on_event)

    def _on_event(self, _events: int) -> None:
        try:
            while self._connected and (message := self._stream.receive()) is not None:
                try:
                    self._handle(message)
                finally:
                    message.close_fds()
        except EOFError:
            self.disconnect()
        except (vu.ProtocolError, OSError, ValueError) as error:
            log.error("vhost-user connection ended: %s", error)
            self.disconnect()

    def _handle(self, message: vu.Message) -> None:
        handler = self._handlers.get(message.request)
        if handler is None:
            raise vu.ProtocolError(f"request {message.request} is not supported")
        reply = handler(message)
        if reply is not None:
            self._stream.reply(message.request, reply)
        elif message.flags & vu.FLAG_NEED_REPLY:
            self._stream.reply(message.request, vu.U64.pack(0))

    def disconnect(self) -> None:
        """Stop the queues and end the connection. Any number of times."""
        if not self._connected:
            return
        self._connected = False
        for index, vring in enumerate(self._vrings):
            self._stop(index)
            self._close_kick(vring)
            vring.close_call()
        self._stream.close()
        self._loop.close(self._sock)
        self._device.guest_reset()
        self._on_disconnect()

    # Features and configuration

    def _set_features(self, message: vu.Message) -> None:
        (features,) = message.unpack(vu.U64)
        if features & ~FEATURES or not features & vu.FEATURE_VERSION_1:
            raise vu.ProtocolError(f"features {features:#x} of {FEATURES:#x}: need VERSION_1")
        self._features = features
        if not features & vu.FEATURE_PROTOCOL_FEATURES:
            for vring in self._vrings:
                vring.enabled = True

    def _get_config(self, message: vu.Message) -> bytes:
        offset, size, flags = message.unpack(vu.CONFIG_HEADER)
        content = self._device.configuration()
        if offset + size > len(content):
            raise vu.ProtocolError(f"configuration read of {size} bytes at {offset}")
        header = vu.CONFIG_HEADER.pack(offset, size, flags)
        return header + content[offset : offset + size]

    # Memory

    def _set_memory_table(self, message: vu.Message) -> None:
        count, _ = message.unpack(vu.VRING_STATE)
        offset = vu.VRING_STATE.size
        size = vu.MEMORY_REGION.size
        if count != len(message.fds) or len(message.payload) < offset + count * size:
            raise vu.ProtocolError(f"memory table of {count} regions, {len(message.fds)} files")
        regions = []
        for index, fd in enumerate(message.fds):
            fields = vu.MEMORY_REGION.unpack_from(message.payload, offset + index * size)
            guest_address, length, user_address, file_offset = fields
            layout = RegionLayout(guest_address, length, user_address, file_offset)
            regions.append(Region(layout, fd))
        self._use_memory(regions)

    def _region_layout(self, message: vu.Message) -> RegionLayout:
        offset = vu.U64.size
        if len(message.payload) < offset + vu.MEMORY_REGION.size:
            raise vu.ProtocolError(f"memory region of {len(message.payload)} bytes")
        guest_address, length, user_address, file_offset = vu.MEMORY_REGION.unpack_from(
            message.payload, offset
        )
        return RegionLayout(guest_address, length, user_address, file_offset)

    def _add_memory_region(self, message: vu.Message) -> None:
        layout = self._region_layout(message)
        fd = message.take_fd()
        try:
            region = Region(layout, fd)
        finally:
            os.close(fd)
        self._use_memory([*self._memory.regions, region])

    def _remove_memory_region(self, message: vu.Message) -> None:
        # The offset in the file is not part of a region's identity.
        gone = self._region_layout(message)[:3]
        self._use_memory([r for r in self._memory.regions if r.layout[:3] != gone])

    def _use_memory(self, regions: list[Region]) -> None:
        self._device.release_buffers()
        self._memory = GuestMemory(regions)
        for index, vring in enumerate(self._vrings):
            if vring.queue is not None:
                try:
                    vring.queue.attach(self._memory)
                except QueueError as error:
                    log.error("queue %d stops: %s", index, error)
                    self._stop(index)

    # Queues

    def _vring(self, index: int) -> Vring:
        if index >= len(self._vrings):
            raise vu.ProtocolError(f"queue {index} of {len(self._vrings)}")
        return self._vrings[index]

    def _set_vring_size(self, message: vu.Message) -> None:
        index, size = message.unpack(vu.VRING_STATE)
        self._vring(index).size = size

    def _set_vring_addresses(self, message: vu.Message) -> None:
        index, _, descriptors, used, available, _ = message.unpack(vu.VRING_ADDRESSES)
        vring = self._vring(index)
        vring.addresses = RingAddresses(descriptors, used, available)
        self._start_when_complete(index)

    def _set_vring_base(self, message: vu.Message) -> None:
        index, base = message.unpack(vu.VRING_STATE)
        vring = self._vring(index)
        vring.base = base & 0xFFFF
        # A paused VM goes on where it stopped and keeps its connections; after a reset (reboot,
        # driver reloaded) the rings begin at 0, and the guest knows nothing of them.
        if self._stopped_at.pop(index, vring.base) != vring.base:
            self._device.guest_reset()

    def _get_vring_base(self, message: vu.Message) -> bytes:
        index, _ = message.unpack(vu.VRING_STATE)
        vring = self._vring(index)
        self._stop(index)
        self._close_kick(vring)
        vring.addresses = None
        vring.enabled = not self._features & vu.FEATURE_PROTOCOL_FEATURES
        self._stopped_at[index] = vring.base
        return vu.VRING_STATE.pack(index, vring.base)

    def _set_vring_kick(self, message: vu.Message) -> None:
        (value,) = message.unpack(vu.U64)
        if value & vu.VRING_NO_FD:
            raise vu.ProtocolError("a queue without kick descriptor would have to be polled")
        index = value & vu.VRING_INDEX_MASK
        vring = self._vring(index)
        self._close_kick(vring)
        vring.kick_fd = message.take_fd()
        os.set_blocking(vring.kick_fd, False)
        if vring.queue is not None:
            self._watch_kicks(index, vring)
        self._start_when_complete(index)

    def _set_vring_call(self, message: vu.Message) -> None:
        (value,) = message.unpack(vu.U64)
        vring = self._vring(value & vu.VRING_INDEX_MASK)
        fd = -1 if value & vu.VRING_NO_FD else message.take_fd()
        vring.close_call()
        vring.call_fd = fd
        if fd >= 0:
            os.set_blocking(fd, False)

    def _set_vring_enable(self, message: vu.Message) -> None:
        index, enabled = message.unpack(vu.VRING_STATE)
        self._vring(index).enabled = bool(enabled)
        if enabled:
            self._start_when_complete(index)
        else:
            self._stop(index)

    def _start_when_complete(self, index: int) -> None:
        vring = self._vrings[index]
        if (
            vring.queue is not None
            or vring.addresses is None
            or vring.kick_fd < 0
            or not vring.enabled
        ):
            return
        try:
            queue = Virtqueue(
                self._memory,
                vring.size,
                vring.addresses,
                vring.base,
                event_index=bool(self._features & vu.FEATURE_EVENT_INDEX),
                device_writes=index == RECEIVE_QUEUE,
            )
        except QueueError as error:
            log.error("queue %d cannot start: %s", index, error)
            return
        queue.call = vring.call
        vring.queue = queue
        self._watch_kicks(index, vring)
        self._device.start_queue(index, queue)

    def _watch_kicks(self, index: int, vring: Vring) -> None:
        fd = vring.kick_fd

        def kicked(_events: int) -> None:
            try:
                os.eventfd_read(fd)
            except BlockingIOError:
                return
            self._device.kick(index)

        self._loop.register(fd, select.EPOLLIN, kicked)

    def _stop(self, index: int) -> None:
        vring = self._vrings[index]
        if vring.queue is None:
            return
        self._loop.unregister(vring.kick_fd)
        self._device.stop_queue(index)
        vring.base = vring.queue.next_available
        vring.queue = None

    def _close_kick(self, vring: Vring) -> None:
        if vring.kick_fd >= 0:
            self._loop.close_fd(vring.kick_fd)
            vring.kick_fd = -1
