"""The seed a guest's random number generator gets at boot (spec 2.1)."""

import asyncio
import os
from typing import Final

from uvm.listen import PortListener

ENTROPY_PORT: Final = 1
#: A real host sends exactly as many.
ENTROPY_BYTES: Final = 512


async def serve_entropy(listener: PortListener) -> None:
    """Accept one connection, send random bytes, close."""
    connected = await listener.accept_once()
    try:
        await asyncio.get_running_loop().sock_sendall(connected, os.urandom(ENTROPY_BYTES))
    finally:
        connected.close()
