"""The first request of each connection (spec 1.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.bridge.tracing import handler_span
from gcs.protocol.errors import UnsupportedProtocolVersionError
from gcs.protocol.message import NegotiateProtocol
from gcs.protocol.responses import PROTOCOL_VERSION, NegotiateProtocolResponse

if TYPE_CHECKING:
    from gcs.bridge.request import Request


def negotiate(request: Request) -> NegotiateProtocolResponse:
    """Return the protocol version both sides speak, and what the agent can do.

    Raises:
        InvalidJsonError: The body is malformed.
        UnsupportedProtocolVersionError: The host speaks no version of ours.
    """
    with handler_span(request):
        offer = request.read(NegotiateProtocol)
        if not offer.minimum_version <= PROTOCOL_VERSION <= offer.maximum_version:
            raise UnsupportedProtocolVersionError(
                f"the host speaks protocol versions {offer.minimum_version} to "
                f"{offer.maximum_version}, the agent speaks {PROTOCOL_VERSION}"
            )
        return NegotiateProtocolResponse(version=PROTOCOL_VERSION)
