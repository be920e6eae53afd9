"""Requests about the agent itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gcs.bridge.stacks import dump_stacks
from gcs.protocol.responses import DumpStacksResponse, Response

if TYPE_CHECKING:
    from gcs.bridge.request import Request
    from gcs.bridge.services import Services


async def dump(services: Services, request: Request) -> Response:
    """Report the stacks of all tasks and threads; the body of the request does not matter."""
    services.policy.require("dump_stacks")
    # In a thread: ten thousand tasks take a while.
    stacks = await asyncio.to_thread(dump_stacks, asyncio.get_running_loop())
    return DumpStacksResponse(guest_stacks=stacks)
