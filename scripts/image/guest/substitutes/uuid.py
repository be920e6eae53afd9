"""What msgspec asks of the standard library's module when it is imported; the guest makes no UUIDs.

The real one takes 35 ms to import under emulation, for ways to find network cards.
"""


class UUID:
    """A type no value of the guest has."""


class SafeUUID:
    """Belongs to it."""

    unknown = None
