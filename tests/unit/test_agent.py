"""What the agent may do to the machine it runs on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gcs.agent import may_power_off
from gcs.transport import NullTransport, UnixTransport, VsockTransport

if TYPE_CHECKING:
    import pytest


def test_only_our_own_machine_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """By vsock and under our PID 1, both; this machine has another PID 1."""
    assert not may_power_off(VsockTransport())
    assert not may_power_off(UnixTransport("/tmp/x"))
    monkeypatch.setattr(os, "readlink", lambda path: "/usr/lib/gcs/bin/init")
    assert may_power_off(VsockTransport())
    assert not may_power_off(UnixTransport("/tmp/x"))
    assert not may_power_off(NullTransport())
    monkeypatch.setattr(os, "readlink", lambda path: "/usr/lib/systemd/systemd")
    assert not may_power_off(VsockTransport())
