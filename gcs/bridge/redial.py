"""Being connected to the host, for as long as the agent lives (spec 1.1)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from gcs.bridge.bridge import Bridge
    from gcs.transport import Transport

logger = logging.getLogger(__name__)

#: Port on which the host waits for the bridge.
BRIDGE_PORT = 0x4000_0000
#: Pause before each new attempt (seconds).
REDIAL_SECONDS = 0.1
#: Failed attempts from one log entry to the next: about a minute.
_ATTEMPTS_PER_ENTRY = 600


async def serve_forever(bridge: Bridge, transport: Transport, port: int = BRIDGE_PORT) -> NoReturn:
    """Dial the host and serve it, again and again, until cancelled."""
    failures = 0
    while True:
        try:
            connected = await transport.dial(port)
        except (OSError, GcsError) as error:
            if failures % _ATTEMPTS_PER_ENTRY == 0:
                fields = {"error": str(error), "attempts": failures + 1}
                logger.warning("failed to dial host, retrying", extra=fields)
            failures += 1
        else:
            failures = 0
            logger.info("bridge connected, serving", extra={"port": port})
            reason = await bridge.serve(connected)
            logger.warning("bridge connection lost, will reconnect", extra={"error": reason})
        await asyncio.sleep(REDIAL_SECONDS)
