"""`asyncio` with what every program needs, and the rest imported when something of it is used."""

import sys
from asyncio import (
    base_events,
    coroutines,
    events,
    exceptions,
    futures,
    locks,
    protocols,
    runners,
    tasks,
    transports,
    unix_events,
)
from asyncio.base_events import *  # noqa: F403
from asyncio.coroutines import *  # noqa: F403
from asyncio.events import *  # noqa: F403
from asyncio.exceptions import *  # noqa: F403
from asyncio.futures import *  # noqa: F403
from asyncio.locks import *  # noqa: F403
from asyncio.protocols import *  # noqa: F403
from asyncio.runners import *  # noqa: F403
from asyncio.tasks import *  # noqa: F403
from asyncio.transports import *  # noqa: F403
from asyncio.unix_events import *  # noqa: F403

_LATER = {
    "queues": ("Queue", "PriorityQueue", "LifoQueue", "QueueFull", "QueueEmpty"),
    "streams": (
        *("StreamReader", "StreamWriter", "StreamReaderProtocol", "open_connection"),
        *("start_server", "open_unix_connection", "start_unix_server"),
    ),
    "subprocess": ("create_subprocess_exec", "create_subprocess_shell"),
    "taskgroups": ("TaskGroup",),
    "threads": ("to_thread",),
    "timeouts": ("Timeout", "timeout", "timeout_at"),
}
_MODULE_OF = {name: module for module, names in _LATER.items() for name in names}

__all__ = (  # noqa: PLE0604 - all of them are tuples
    *base_events.__all__,
    *coroutines.__all__,
    *events.__all__,
    *exceptions.__all__,
    *futures.__all__,
    *locks.__all__,
    *protocols.__all__,
    *runners.__all__,
    *tasks.__all__,
    *transports.__all__,
    *unix_events.__all__,
    *_MODULE_OF,
)


def __getattr__(name: str) -> object:
    """Import the module that a name is in, or that a name is."""
    module = f"asyncio.{_MODULE_OF.get(name, name)}"
    if name not in _MODULE_OF and name not in _LATER:
        raise AttributeError(f"module 'asyncio' has no attribute {name!r}")
    __import__(module)
    if name in _LATER:
        return sys.modules[module]
    value = getattr(sys.modules[module], name)
    globals()[name] = value
    return value
