"""What all messages have in common, and the first one (spec 1.4, 1.5).

They are apart from the others for a quick start: the agent imports nothing else before it has
answered a host's first request. Annotations are evaluated here on purpose: the decoder reads them.
"""

from typing import Annotated, Final

import msgspec

Uint8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
Uint16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Uint32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
Int32 = Annotated[int, msgspec.Meta(ge=-0x8000_0000, le=0x7FFF_FFFF)]

#: The container id that stands for the utility VM itself.
UVM_ID: Final = "00000000-0000-0000-0000-000000000000"


class Message(msgspec.Struct, rename="pascal", omit_defaults=True, kw_only=True):
    """A JSON object of the bridge: keys in Pascal case, absent keys have the defaults."""


class MessageBase(Message):
    """What every request carries.

    Attributes:
        container_id: The target; ``UVM_ID`` is the VM itself.
        activity_id: A GUID as text, echoed as given; ``None`` when the request has none.
        trace: OpenTelemetry carrier (``traceparent``, ``tracestate``, ``baggage``).
    """

    container_id: str = ""
    activity_id: str | None = None
    trace: dict[str, str] = msgspec.field(name="otsc", default_factory=dict)


class NegotiateProtocol(MessageBase):
    """Opens every connection: the range of protocol versions the host speaks."""

    minimum_version: Uint32 = 0
    maximum_version: Uint32 = 0


class SchemaVersion(Message):
    """A version of the schema of container settings."""

    major: Uint32 = 0
    minor: Uint32 = 0
