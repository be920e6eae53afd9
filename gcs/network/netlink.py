"""pyroute2, as little of it as routes and links need.  For the worker: it is heavy.

Importing anything of pyroute2 runs the ``__init__`` of the package, which imports all of it:
firewall, Wi-Fi, a database.  That would take a quarter more time and memory in each worker and
megabytes more in the image, so the package is entered by the side door.
"""

from __future__ import annotations

import asyncio  # before the stand-in below: it does without ssl by itself
import importlib.machinery
import logging
import sys
import types

try:
    import ssl
except ModuleNotFoundError:
    # The image has none; a probe of ports, which nobody here makes, would want it.
    sys.modules["ssl"] = types.ModuleType("ssl")

try:
    import unittest
except ModuleNotFoundError:
    # Nor this; a class that nobody here uses has a mock in it.
    _unittest = types.ModuleType("unittest")
    _unittest.mock = types.SimpleNamespace(Mock=object)  # type: ignore[attr-defined]
    sys.modules["unittest"] = _unittest

if "pyroute2" not in sys.modules:
    _spec = importlib.machinery.PathFinder.find_spec("pyroute2")
    _package = types.ModuleType("pyroute2")
    # In the image there is no such directory: there modules are found by name alone.
    _package.__path__ = list(_spec.submodule_search_locations or ()) if _spec else []
    sys.modules["pyroute2"] = _package

# Where /proc/net/psched is missing it warns of traffic control, which nobody here uses.
logging.getLogger("pyroute2").setLevel(logging.ERROR)

from pyroute2.iproute.linux import IPRoute  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402

__all__ = ["IPRoute", "NetlinkError", "asyncio", "ssl", "unittest"]
