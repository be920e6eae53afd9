"""The resource SecurityPolicy, without a policy engine (spec 9.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError
from gcs.protocol.settings import SecurityPolicy
from gcs.runtime.pods.security_context import SecurityContext
from gcs.runtime.security_policy import SecurityPolicyDriver

if TYPE_CHECKING:
    from pathlib import Path


class Vm:
    def __init__(self, *devices: str) -> None:
        self.context = SecurityContext()
        self.opened = 0
        self.driver = SecurityPolicyDriver(self.context, self.open, devices)

    def open(self) -> None:
        self.opened += 1


@pytest.mark.parametrize("kind", ["", "open_door"])
async def test_everything_is_allowed_once(kind: str) -> None:
    vm = Vm()
    settings = SecurityPolicy(
        enforcer_type=kind, encoded_uvm_reference="cmVm", encoded_uvm_hash_envelope_reference="ZW52"
    )
    await vm.driver.update(settings)
    assert vm.opened == 1
    assert (vm.context.reference, vm.context.hash_envelope) == ("cmVm", "ZW52")
    with pytest.raises(GcsError, match="security policy has already been set"):
        await vm.driver.add(SecurityPolicy())
    assert vm.context.reference == "cmVm"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (SecurityPolicy(encoded_security_policy="cGFja2FnZQ=="), "'rego'"),
        (SecurityPolicy(enforcer_type="rego"), "'rego'"),
        (SecurityPolicy(enforcer_type="other"), "'other'"),
        (SecurityPolicy(enforcer_type="open_door", encoded_security_policy="eA=="), "to be empty"),
    ],
)
async def test_what_can_not_be_enforced_changes_nothing(
    settings: SecurityPolicy, text: str
) -> None:
    vm = Vm()
    with pytest.raises(GcsError, match=text):
        await vm.driver.add(settings)
    assert vm.opened == 0
    await vm.driver.add(SecurityPolicy())
    assert vm.opened == 1


async def test_a_processor_that_attests(tmp_path: Path) -> None:
    vm = Vm("/nonexistent", str(tmp_path))
    with pytest.raises(GcsError, match=f"{tmp_path} exists"):
        await vm.driver.add(SecurityPolicy())
    assert vm.opened == 0
