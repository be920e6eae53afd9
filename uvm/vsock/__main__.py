"""Command line of the vsock device: ``python -m uvm.vsock --help``."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import resource
import select
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from typing import Final

from uvm.vsock.backend import Backend
from uvm.vsock.device import VsockDevice
from uvm.vsock.listener import HostListener
from uvm.vsock.loop import EventLoop
from uvm.vsock.packet import HOST_CID

log = logging.getLogger("uvm.vsock")

UNIX_PATH_LIMIT: Final = 107
PORT_SUFFIX_LENGTH: Final = len("_4294967295")
CID_ANY: Final = 0xFFFFFFFF
FILE_LIMIT: Final = 16384
BACKLOG: Final = 1024

# After QEMU is gone, hosts may take as long to read what the guest had sent before.
DRAIN_TIMEOUT: Final = 10.0


def main(argv: list[str] | None = None) -> int:
    """Serve until QEMU disconnects or SIGTERM or SIGINT comes. Returns the exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=arguments.log_level.upper(), format="uvm.vsock: %(levelname)s: %(message)s"
    )
    os.umask(0o077)
    _raise_file_limit()
    try:
        with ExitStack() as stack:
            _serve(arguments, stack)
    except OSError as error:
        log.error("%s", error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m uvm.vsock",
        description="A vsock device in user space, for QEMU's vhost-user-vsock-pci. "
        "Prints 'ready' on standard output once both sockets can be connected to.",
    )
    parser.add_argument("--socket", required=True, help="vhost-user socket, for QEMU's chardev")
    parser.add_argument(
        "--uds",
        required=True,
        help="unix socket for CONNECT <port>; the guest's port P is dialled at UDS_P",
    )
    parser.add_argument("--guest-cid", type=_cid, default=3, help="the guest's CID (default: 3)")
    parser.add_argument(
        "--keep", action="store_true", help="wait for another QEMU when one disconnects"
    )
    parser.add_argument(
        "--log-level", default="warning", choices=["debug", "info", "warning", "error"]
    )
    return parser


def _cid(text: str) -> int:
    cid = int(text)
    if not HOST_CID < cid < CID_ANY:
        raise argparse.ArgumentTypeError(f"{text} is not between {HOST_CID} and {CID_ANY}")
    return cid


def _serve(arguments: argparse.Namespace, stack: ExitStack) -> None:
    loop = EventLoop()
    stack.callback(loop.close_all)
    if len(arguments.uds.encode()) > UNIX_PATH_LIMIT - PORT_SUFFIX_LENGTH:
        raise OSError(f"{arguments.uds}: too long for a unix socket with _<port> behind it")
    _stop_on_signals(loop, stack)
    device = VsockDevice(loop, arguments.guest_cid, arguments.uds)
    stack.callback(device.close)
    HostListener(loop, device, _listen(arguments.uds, stack))
    server = Server(loop, device, _listen(arguments.socket, stack), keep=arguments.keep)
    stack.callback(server.close)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    loop.run()


class Server:
    """Serves one QEMU at a time on a listening socket."""

    def __init__(
        self, loop: EventLoop, device: VsockDevice, sock: socket.socket, *, keep: bool
    ) -> None:
        self._loop = loop
        self._device = device
        self._sock = sock
        self._keep = keep
        self._backend: Backend | None = None
        self._listen()

    def _listen(self) -> None:
        self._loop.register(self._sock.fileno(), select.EPOLLIN, self._accept)

    def _accept(self, _events: int) -> None:
        sock, _ = self._sock.accept()
        # A second QEMU waits in the backlog.
        self._loop.unregister(self._sock.fileno())
        log.info("QEMU has connected")
        self._backend = Backend(self._loop, sock, self._device, self._on_disconnect)

    def _on_disconnect(self) -> None:
        log.info("QEMU has disconnected")
        self._backend = None
        if self._keep:
            self._listen()
        elif self._device.draining:
            self._device.on_drained = self._loop.stop
            self._loop.call_later(DRAIN_TIMEOUT, self._loop.stop)
        else:
            self._loop.stop()

    def close(self) -> None:
        """Leave QEMU."""
        self._keep = False
        if self._backend is not None:
            self._backend.disconnect()


def _listen(path: str, stack: ExitStack) -> socket.socket:
    """A listening socket at ``path``, removed in the end.

    Raises OSError, naming the path, when there is something already or it cannot be bound.
    """
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        sock.bind(path)
        stack.callback(_remove, path)
        sock.listen(BACKLOG)
    except OSError as error:
        hint = "; remove it if no device runs" if error.errno == errno.EADDRINUSE else ""
        reason = f"cannot listen: {error.strerror or error}{hint}"
        raise OSError(error.errno, reason, path) from error
    return sock


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _stop_on_signals(loop: EventLoop, stack: ExitStack) -> None:
    receiver, sender = socket.socketpair()
    stack.enter_context(receiver)
    stack.enter_context(sender)
    sender.setblocking(False)
    stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(sender.fileno()))
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not undone: a second signal must not interrupt the clean-up.
        signal.signal(number, lambda _number, _frame: loop.stop())
    loop.register(receiver.fileno(), select.EPOLLIN, lambda _events: loop.stop())


def _raise_file_limit() -> None:
    """Each stream takes a descriptor: use what the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILE_LIMIT if hard == resource.RLIM_INFINITY else min(hard, FILE_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
