"""Network namespaces by their ids (spec 3.7)."""

from __future__ import annotations

import pytest

from gcs.protocol.errors import GcsError
from gcs.protocol.settings import NetworkAdapter
from gcs.runtime.namespaces import Namespaces, NetworkDriver


def test_ids_have_no_case() -> None:
    namespaces = Namespaces()
    assert namespaces.find("AB") is None
    made = namespaces.make("AB")
    assert namespaces.find("ab") is made
    assert namespaces.make("aB") is made


def test_the_last_container_takes_it_along() -> None:
    namespaces = Namespaces()
    namespace = namespaces.make("ab")
    namespace.containers |= {"one", "two"}
    namespaces.leave(namespace, "one", forget=True)
    assert namespaces.find("ab") is namespace
    namespaces.leave(namespace, "two", forget=True)
    assert namespaces.find("ab") is None
    later = namespaces.make("ab")
    namespaces.leave(namespace, "two", forget=True)
    assert namespaces.find("ab") is later


def test_that_of_a_virtual_pod_stays() -> None:
    namespaces = Namespaces()
    namespace = namespaces.make("ab")
    namespaces.leave(namespace, "one", forget=False)
    assert namespaces.find("ab") is namespace


async def test_adapters_are_refused_and_removed() -> None:
    namespaces = Namespaces()
    driver = NetworkDriver(namespaces)
    adapter = NetworkAdapter(namespace_id="AB", id="XY", dns_suffix="a", dns_server_list="1.1.1.1")
    with pytest.raises(GcsError, match="not supported by this agent yet"):
        await driver.add(adapter)
    await driver.remove(adapter)
    namespace = namespaces.make("ab")
    namespace.adapters.append(adapter)
    assert list(namespace.dns_settings) == [("a", "1.1.1.1")]
    await driver.remove(NetworkAdapter(namespace_id="ab", id="xy"))
    assert namespace.adapters == []
