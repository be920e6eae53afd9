"""The last things before the machine is off."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from gcs.linux.power import write_out_file_systems

if TYPE_CHECKING:
    import pytest


def test_file_systems_are_written_out() -> None:
    assert write_out_file_systems(60.0)


def test_a_disk_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(os, "sync", answers.wait)
    assert not write_out_file_systems(0.01)
    answers.set()
