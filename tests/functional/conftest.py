"""Fixtures of the functional tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fakehost import HostConnection, Rig, rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def agent() -> AsyncIterator[Rig]:
    """The agent as a process, dialling a fake host; not connected yet."""
    async with rig() as running:
        yield running


@pytest.fixture
async def connection(agent: Rig) -> HostConnection:
    """A negotiated connection of the agent."""
    return await agent.host.negotiated()
