"""A client that goes on with another connection, against a guest that does as it is told."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from gcs.protocol.frame import MessageType, response_type
from gcs.protocol.hresult import HResult
from tests.support.fakeguest import Call, FakeGuest
from uvm.bridge import GuestClient
from uvm.bridge.client import PROBE_MS
from uvm.errors import BridgeClosedError

ID = "c" * 64
WAIT = MessageType.WAIT_FOR_PROCESS


async def still_running(call: Call) -> dict[str, Any] | None:
    """Answer a probe; leave a wait without limit open."""
    if call.body["TimeoutInMs"] == PROBE_MS:
        return {"Result": HResult.TIMEOUT - (1 << 32), "ErrorMessage": "running"}
    return None


async def ended(call: Call) -> dict[str, Any] | None:
    """Answer a probe with an exit code."""
    return {"ExitCode": 7} if call.body["TimeoutInMs"] == PROBE_MS else None


async def connect(guest: FakeGuest) -> socket.socket:
    ours, theirs = socket.socketpair()
    await guest.serve(*await asyncio.open_connection(sock=theirs))
    return ours


async def suspended(guest: FakeGuest) -> tuple[GuestClient, asyncio.Task[int]]:
    """Return a client between two connections, and its wait for a process."""
    guest.handlers[WAIT] = still_running
    client = GuestClient()
    await client.open(await connect(guest))
    await client.negotiate()
    waiting = asyncio.create_task(client.wait_for_process(ID, 11))
    await asyncio.sleep(0)
    await client.start_container(ID)
    suspending = asyncio.create_task(client.suspend())
    await guest.ended()
    await guest.close()
    await suspending
    return client, waiting


async def test_a_wait_is_answered_by_its_old_id() -> None:
    client, waiting = await suspended(FakeGuest())
    guest = FakeGuest({WAIT: still_running})
    await client.resume(await connect(guest))
    assert [(call.type, call.id) for call in guest.calls] == [
        (MessageType.NEGOTIATE_PROTOCOL, 0),
        (WAIT, 3),
    ]
    guest.send(response_type(WAIT), 1, {"Result": 0, "ExitCode": 5})
    assert await waiting == 5
    await client.close()
    await guest.close()


async def test_a_probe_that_finds_the_process_ended() -> None:
    client, waiting = await suspended(FakeGuest())
    guest = FakeGuest({WAIT: ended})
    await client.resume(await connect(guest))
    assert await waiting == 7
    # The old id may be answered nevertheless.
    guest.send(response_type(WAIT), 1, {"Result": 0, "ExitCode": 7})
    await client.start_container(ID)
    await client.close()
    await guest.close()


async def test_a_rollback_counts_on_and_probes_nothing() -> None:
    client, waiting = await suspended(FakeGuest())
    guest = FakeGuest()
    await client.resume(await connect(guest), rollback=True)
    assert [(call.type, call.id) for call in guest.calls] == [(MessageType.NEGOTIATE_PROTOCOL, 3)]
    guest.send(response_type(WAIT), 1, {"Result": 0, "ExitCode": 5})
    assert await waiting == 5
    await client.close()
    await guest.close()


async def test_calls_are_delayed_until_there_is_a_connection() -> None:
    client, waiting = await suspended(FakeGuest())
    delayed = asyncio.create_task(client.start_container(ID))
    guest = FakeGuest({WAIT: ended})
    await client.resume(await connect(guest))
    await delayed
    assert guest.calls[-1].type == MessageType.START
    assert await waiting == 7
    await client.close()
    await guest.close()


async def test_a_client_that_is_closed_instead() -> None:
    client, waiting = await suspended(FakeGuest())
    delayed = asyncio.create_task(client.start_container(ID))
    await asyncio.sleep(0)
    await client.close()
    for task in (waiting, delayed):
        with pytest.raises(BridgeClosedError):
            await task
