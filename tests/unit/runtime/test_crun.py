"""What crun is told differently from runc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gcs.protocol.errors import GcsError
from gcs.runtime.crun import adapt_bundle, adapt_resources, adapt_specification

if TYPE_CHECKING:
    from pathlib import Path

DENY = {"allow": False, "access": "rwm"}
DISK = {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"}


@pytest.mark.parametrize(
    ("given", "taken"),
    [(None, "1.0.2"), ("1.3.0", "1.0.2"), ("1.0.2-dev", "1.0.2-dev"), ("1.0.0", "1.0.0")],
)
def test_versions(given: str | None, taken: str) -> None:
    document: dict[str, Any] = {"ociVersion": given}
    adapt_specification(document)
    assert document["ociVersion"] == taken


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (None, [DENY]),
        ([], [DENY]),
        ([DISK], [DENY, DISK]),
        ([DENY, DISK], [DENY, DISK]),
        ([{"allow": True, "access": "rwm"}], [{"allow": True, "access": "rwm"}]),
        ([{"allow": False, "type": "a"}], [{"allow": False, "type": "a"}]),
    ],
)
def test_devices_are_forbidden_unless_they_are_allowed(given: Any, taken: list[Any]) -> None:
    document = {"linux": {"resources": {"devices": given}}}
    adapt_specification(document)
    assert document["linux"]["resources"]["devices"] == taken


@pytest.mark.parametrize(("quota", "stays"), [(-1, False), (50_000, True)])
def test_quotas_of_new_containers(quota: int, stays: bool) -> None:
    document = {"linux": {"resources": {"cpu": {"quota": quota, "shares": 2}}}}
    adapt_specification(document)
    cpu = document["linux"]["resources"]["cpu"]
    assert ("quota" in cpu) is stays
    assert cpu["shares"] == 2


def test_quotas_of_running_containers() -> None:
    assert adapt_resources({"cpu": {"quota": -1}}) == {"cpu": {"quota": -1, "period": 100_000}}
    for same in ({}, {"cpu": None}, {"cpu": {"quota": 5}}, {"cpu": {"quota": -1, "period": 7}}):
        assert adapt_resources(same) == same


def test_the_file_of_a_bundle(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"ociVersion": "1.3.0", "process": {"args": ["x"]}}')
    adapt_bundle(str(tmp_path))
    assert msgspec.json.decode(path.read_bytes())["process"] == {"args": ["x"]}
    path.write_bytes(b"{")
    with pytest.raises(GcsError, match=f"for crun: {path}: "):
        adapt_bundle(str(tmp_path))
    path.unlink()
    with pytest.raises(GcsError, match="No such file"):
        adapt_bundle(str(tmp_path))
