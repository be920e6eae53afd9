"""What is allowed before a host has set a security policy (spec 9.1)."""

from __future__ import annotations

from typing import Protocol

from gcs.protocol.errors import GcsError

#: Guarded operation (spec 9.4) → how a refusal names it.
OPERATIONS = {
    "create_container": "running commands",
    "exec_in_container": "starting additional processes in a container",
    "exec_external": "starting additional processes in uvm",
    "shutdown_container": "shutting down containers",
    "signal_container_process": "signalling container processes",
    "get_properties": "getting container properties",
    "dump_stacks": "dumping stacks",
    "mount": "mounting",
    "unmount": "unmounting",
    "load_fragment": "loading fragments",
}


class PolicyDeniedError(GcsError):
    """The policy in force forbids an operation."""

    module = "policy"


class Policy(Protocol):
    """Decides on guarded operations."""

    def require(self, operation: str) -> None:
        """Return when an operation, a key of :data:`OPERATIONS`, is allowed.

        Raises:
            PolicyDeniedError: It is not.
        """
        ...


class OpenDoor:
    """Allows everything: the stance of a VM that isn't confidential."""

    def require(self, operation: str) -> None:
        """See :class:`Policy`."""


class ClosedDoor:
    """Denies everything, until a policy is set."""

    def require(self, operation: str) -> None:
        """See :class:`Policy`."""
        raise PolicyDeniedError(f"{OPERATIONS[operation]} is denied by policy")


#: Values of ``-initial-policy-stance``.
STANCES: dict[str, type[Policy]] = {"allow": OpenDoor, "deny": ClosedDoor}
