"""What runs in a VM that stays."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.vm.conftest import KeptVm


def listing(vm: KeptVm) -> dict[str, Any]:
    """What `uvm ps` knows about it."""
    (entry,) = json.loads(vm.uvm("ps", "--json", vm.name, check=True).stdout)
    return dict(entry)


def await_no_containers(vm: KeptVm) -> None:
    """Wait until the keeper has removed what ended: its log says so last."""
    follower = vm.uvm.spawn("logs", "-f", "--json", vm.name, stdout=subprocess.PIPE)
    assert follower.stdout is not None
    while listing(vm)["containers"]:
        assert follower.stdout.readline()
    follower.kill()
    follower.wait()
    follower.stdout.close()
