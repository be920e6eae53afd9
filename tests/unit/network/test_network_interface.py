"""Finding interfaces in a made-up sysfs (spec 6.2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gcs.network.interface import find_by_instance, find_by_mac, find_in, has_vmbus, read_mac_of
from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from pathlib import Path

ID = "5C9C1BC3-CE31-45F6-BBBB-1BBBBBBBBBBB"


def vmbus(root: Path) -> Path:
    return root / "sys/bus/vmbus/devices" / ID.lower() / "net"


def add_interface(root: Path, name: str, mac: str) -> None:
    directory = root / "sys/class/net" / name
    directory.mkdir(parents=True)
    (directory / "address").write_text(f"{mac}\n")


def test_by_the_id_of_a_vmbus_device(tmp_path: Path) -> None:
    root = os.fspath(tmp_path)
    assert not has_vmbus(root)
    assert find_by_instance(ID, root) is None
    vmbus(tmp_path).mkdir(parents=True)
    assert has_vmbus(root)
    assert find_by_instance(ID, root) is None
    (vmbus(tmp_path) / "eth3").mkdir()
    assert find_by_instance(ID, root) == "eth3"


def test_a_device_with_two_interfaces(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(GcsError, match="has 2 interfaces, not one: a, b"):
        find_in(os.fspath(tmp_path))


def test_by_mac_address(tmp_path: Path) -> None:
    root = os.fspath(tmp_path)
    assert find_by_mac("00:15:5d:00:00:01", root) is None
    add_interface(tmp_path, "eth0", "00:15:5d:00:00:01")
    add_interface(tmp_path, "eth1", "00:15:5d:00:00:02")
    (tmp_path / "sys/class/net/bonding_masters").write_text("")
    assert find_by_mac("00:15:5d:00:00:02", root) == "eth1"
    assert read_mac_of("eth1", root) == "00:15:5d:00:00:02"
    assert read_mac_of("eth9", root) == ""


def test_a_mac_address_of_two(tmp_path: Path) -> None:
    add_interface(tmp_path, "eth0", "00:15:5d:00:00:01")
    add_interface(tmp_path, "eth1", "00:15:5d:00:00:01")
    with pytest.raises(GcsError, match="belongs to several interfaces: eth0, eth1"):
        find_by_mac("00:15:5d:00:00:01", os.fspath(tmp_path))
