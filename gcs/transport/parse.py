"""The agent's `-transport` flag."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.transport.unix import UnixTransport
from gcs.transport.vsock import VsockTransport

if TYPE_CHECKING:
    from gcs.transport.base import Transport


def parse_transport(text: str) -> Transport:
    """Return the transport named by `vsock` or `unix:<prefix>`.

    Raises ValueError for anything else.
    """
    kind, separator, prefix = text.partition(":")
    if kind == "vsock" and not separator:
        return VsockTransport()
    if kind == "unix" and prefix:
        return UnixTransport(prefix)
    raise ValueError(f"unknown transport {text!r}: use vsock or unix:<path prefix>")
