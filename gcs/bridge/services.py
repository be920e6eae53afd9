"""What request handlers work with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.policy.stance import Policy
    from gcs.runtime.host import Host


class Services:
    """The objects behind the handlers.

    Attributes:
        host: Containers, processes and resources.
        policy: Consulted before every guarded operation.
        shut_down: Ends the agent, and with it the VM, soon after it was called.
    """

    __slots__ = ("host", "policy", "shut_down")

    def __init__(self, host: Host, policy: Policy, shut_down: Callable[[], None]) -> None:
        self.host = host
        self.policy = policy
        self.shut_down = shut_down
