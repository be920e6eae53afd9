"""Host half of the bridge: calls to the agent, and its notifications (spec chapter 1)."""

from uvm.bridge.client import GuestClient
from uvm.bridge.connection import RPC_TIMEOUT, BridgeConnection

__all__ = ["RPC_TIMEOUT", "BridgeConnection", "GuestClient"]
