"""Fixtures for several areas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fakehost import AgentProcess, HostConnection, Launcher, Rig, rig, start_agent
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
async def launch() -> AsyncIterator[Launcher]:
    """Starts agents with other arguments; none of them outlives the test."""
    started: list[AgentProcess] = []

    async def start(*arguments: str, **options: Any) -> AgentProcess:
        started.append(await start_agent(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        await process.kill()


@pytest.fixture
async def connection(agent: Rig) -> HostConnection:
    """A negotiated connection of the agent."""
    return await agent.host.negotiated()
