"""Forwarding the log of this machine's kernel."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from typing import TYPE_CHECKING

from gcs.kernel_log import KernelLog

if TYPE_CHECKING:
    import pytest


async def test_what_is_said_to_the_kernel_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gcs.kernel_log")
    mark = uuid.uuid4().hex
    log = KernelLog(4)
    log.start(asyncio.get_running_loop(), 2)
    descriptor = os.open("/dev/kmsg", os.O_WRONLY)
    os.write(descriptor, f"<6>{mark} information\n".encode())
    os.write(descriptor, f"<4>{mark} warning\n".encode())
    os.close(descriptor)
    found: list[dict[str, object]] = []
    async with asyncio.timeout(30):
        while not found:
            await asyncio.sleep(0.01)
            fields = [record.__dict__.get("fields", {}) for record in caplog.records]
            found = [each for each in fields if mark in each.get("message", "")]
    log.close()
    (entry,) = found
    assert entry["message"] == f"{mark} warning"
    assert entry["priority"] == "Warning"
    assert entry["facility"] == 1  # of a program, not the kernel
