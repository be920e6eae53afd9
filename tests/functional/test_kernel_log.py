"""Forwarding the log of this machine's kernel."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from logging.handlers import QueueHandler
from typing import TYPE_CHECKING

import pytest

from gcs.kernel_log import KernelLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def entries() -> AsyncIterator[asyncio.Queue[logging.LogRecord]]:
    """What is forwarded; on the loop of the log, so that nobody has to wake it."""
    queue: asyncio.Queue[logging.LogRecord] = asyncio.Queue()
    handler = QueueHandler(queue)
    logger = logging.getLogger("gcs.kernel_log")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield queue
    logger.setLevel(level)
    logger.removeHandler(handler)


async def test_what_is_said_to_the_kernel_comes_back(
    entries: asyncio.Queue[logging.LogRecord],
) -> None:
    mark = uuid.uuid4().hex
    log = KernelLog(4)
    log.start(asyncio.get_running_loop(), 2)
    descriptor = os.open("/dev/kmsg", os.O_WRONLY)
    os.write(descriptor, f"<6>{mark} information\n".encode())
    os.write(descriptor, f"<4>{mark} warning\n".encode())
    os.close(descriptor)
    async with asyncio.timeout(30):
        entry = vars(await entries.get())["fields"]
        while mark not in entry["message"]:
            entry = vars(await entries.get())["fields"]
    log.close()
    assert entry["message"] == f"{mark} warning"
    assert entry["priority"] == "Warning"
    assert entry["facility"] == 1  # of a program, not the kernel
