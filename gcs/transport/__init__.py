"""Connections from the guest to ports of the host: vsock, unix sockets, or nowhere (floor 2)."""

from gcs.transport.base import DialError, Transport
from gcs.transport.null import NullTransport
from gcs.transport.parse import parse_transport
from gcs.transport.unix import UnixTransport
from gcs.transport.vsock import VsockTransport

__all__ = [
    "DialError",
    "NullTransport",
    "Transport",
    "UnixTransport",
    "VsockTransport",
    "parse_transport",
]
