"""The security policy of the VM, as far as it needs no policy engine (spec 9.1, 9.2)."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from gcs.protocol.errors import GcsError
from gcs.protocol.settings import SecurityPolicy
from gcs.storage.driver import ResourceDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gcs.runtime.pods.security_context import SecurityContext

logger = logging.getLogger(__name__)

OPEN_DOOR: Final = "open_door"
#: Devices of processors that attest (AMD SEV-SNP), of older and of newer kernels.
ATTESTATION_DEVICES: Final = ("/dev/sev", "/dev/sev-guest")


class SecurityPolicyDriver(ResourceDriver[SecurityPolicy]):
    """Sets the policy that allows everything, the only one there is, and what comes along with it.

    A host sets a policy once. Whatever type of request it uses, the reference sets it.

    Args:
        context: Gets the references of the VM's image, for its containers.
        open_door: Called when everything is allowed from now on.
        devices: Where a processor that attests shows up.
    """

    def __init__(
        self,
        context: SecurityContext,
        open_door: Callable[[], None],
        devices: Sequence[str] = ATTESTATION_DEVICES,
    ) -> None:
        self._context = context
        self._open_door = open_door
        self._devices = devices
        self._is_set = False

    async def add(self, settings: SecurityPolicy) -> None:
        """Set the policy.

        Raises:
            GcsError: There is one already; it is one that this agent can't enforce; or the
                processor attests to one, which this agent can't compare. Nothing changes then,
                and the host may try again.
        """
        if self._is_set:
            raise GcsError("security policy has already been set")
        kind, policy = settings.enforcer_type, settings.encoded_security_policy
        if kind not in ("", OPEN_DOOR) or (policy and not kind):
            raise GcsError(
                f"this agent can't enforce a security policy ({(kind or 'rego')[:100]!r}): it only "
                f"knows {OPEN_DOOR!r}, which allows everything"
            )
        if policy:
            raise GcsError(f"a security policy of the type {OPEN_DOOR!r} has to be empty")
        attesting = next(filter(os.path.lexists, self._devices), None)
        if attesting is not None:
            raise GcsError(
                f"the processor attests to a security policy ({attesting} exists), and this agent "
                "can't compare it with the host's"
            )
        self._is_set = True
        self._context.reference = settings.encoded_uvm_reference
        self._context.hash_envelope = settings.encoded_uvm_hash_envelope_reference
        self._open_door()
        logger.info("the security policy is set", extra={"enforcer": OPEN_DOOR})

    async def remove(self, settings: SecurityPolicy) -> None:
        """See :meth:`add`."""
        await self.add(settings)

    async def update(self, settings: SecurityPolicy) -> None:
        """See :meth:`add`."""
        await self.add(settings)
