"""Which properties a query gets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gcs.cgroup.v2 import V2Manager
from gcs.protocol.requests import PropertyQuery
from gcs.runtime.properties import read_properties

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_only_what_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/cgroup.procs").write_text("7\n")
    group = V2Manager(os.fspath(tmp_path)).group("/c")
    nothing = await read_properties(group, PropertyQuery())
    assert (nothing.process_list, nothing.metrics) == ([], None)
    processes = await read_properties(group, PropertyQuery(property_types=["ProcessList"]))
    assert [process.process_id for process in processes.process_list] == [7]
    assert processes.metrics is None


async def test_type_that_is_not_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    group = V2Manager(os.fspath(tmp_path)).group("/none")
    query = PropertyQuery(property_types=["Memory"])
    properties = await read_properties(group, query)
    assert (properties.process_list, properties.metrics) == ([], None)
    assert "'Memory' is not supported" in caplog.text
