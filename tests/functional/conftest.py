"""Fixtures for several areas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fakehost import HostConnection, Rig, rig
from tests.support.rootfs import build_rootfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system for containers, which tests share."""
    return build_rootfs(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture
async def agent() -> AsyncIterator[Rig]:
    """The agent as a process, dialling a fake host; not connected yet."""
    async with rig() as running:
        yield running


@pytest.fixture
async def connection(agent: Rig) -> HostConnection:
    """A negotiated connection of the agent."""
    return await agent.host.negotiated()
