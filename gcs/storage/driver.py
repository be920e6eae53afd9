"""The interface of a storage resource: one driver for each resource type, registered in a table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakValueDictionary

from gcs.protocol import settings as resource
from gcs.protocol.errors import GcsError
from gcs.protocol.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import ParamSpec

    P = ParamSpec("P")

SettingsT = TypeVar("SettingsT", bound=Message)
T = TypeVar("T")


class ResourceDriver(Generic[SettingsT]):
    """Adds, removes and updates resources of one type.

    What a driver does not define is answered as the reference does (spec 3.1).  Each method leaves
    nothing behind when it fails, and raises `GcsError` naming the resource and the cause.
    """

    async def add(self, settings: SettingsT) -> None:
        """Make the resource usable in the guest."""
        raise unsupported_request(resource.ADD)

    async def remove(self, settings: SettingsT) -> None:
        """Undo `add`.  A resource that is not there (any more) is removed successfully."""
        raise unsupported_request(resource.REMOVE)

    async def update(self, settings: SettingsT) -> None:
        """Change the resource."""
        raise unsupported_request(resource.UPDATE)


def unsupported_request(request_type: str) -> GcsError:
    """The error for a request type that a resource does not know (spec 3.1)."""
    return GcsError(f'the RequestType "{request_type}" is not supported')


class PathLocks:
    """One lock for each path, so that requests for the same place run one after the other."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, path: str) -> asyncio.Lock:
        """The lock of `path`; it lives while somebody holds it."""
        return self._locks.setdefault(path, asyncio.Lock())


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Do something to its end, also when the task is cancelled meanwhile: cleaning up."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function that blocks in the thread pool.

    Unlike `asyncio.to_thread`, it ends only when the thread does, also when it is cancelled: system
    calls cannot be called off, and whoever cleans up next must not race with them.
    """
    return await finish(asyncio.to_thread(function, *args, **kwargs))
