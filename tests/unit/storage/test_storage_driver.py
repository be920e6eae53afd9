"""The interface of drivers, and what they share."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gcs.protocol.errors import GcsError
from gcs.protocol.hresult import HResult
from gcs.protocol.settings import CombinedLayers
from gcs.storage.driver import PathLocks, ResourceDriver, in_thread


@pytest.mark.parametrize(
    ("operation", "name"), [("add", "Add"), ("remove", "Remove"), ("update", "Update")]
)
async def test_what_a_driver_does_not_define_is_refused(operation: str, name: str) -> None:
    driver = ResourceDriver[CombinedLayers]()
    with pytest.raises(GcsError, match=f'the RequestType "{name}" is not supported') as caught:
        await getattr(driver, operation)(CombinedLayers())
    assert caught.value.hresult == HResult.FAIL


async def test_one_path_has_one_lock_at_a_time() -> None:
    locks = PathLocks()
    order = []

    async def use(path: str, name: str) -> None:
        async with locks.of(path):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(use("/a", "first"), use("/a", "second"))
    assert order == ["first in", "first out", "second in", "second out"]
    assert locks.of("/a") is not locks.of("/b")


async def test_a_cancelled_call_ends_with_its_thread() -> None:
    entered, leave = threading.Event(), threading.Event()
    ended = []

    def work() -> None:
        entered.set()
        leave.wait()
        ended.append(True)

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(entered.wait)
    task.cancel()
    asyncio.get_running_loop().call_soon(leave.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
