"""Network namespaces by their ids (spec 3.7, 6.1)."""

from __future__ import annotations

from typing import Any

import pytest

from gcs.protocol.errors import GcsError
from gcs.protocol.settings import NetworkAdapter
from gcs.runtime.namespaces import NamespaceAdapter, Namespaces


def adapter(adapter_id: str = "XY", **settings: Any) -> NamespaceAdapter:
    return NamespaceAdapter(NetworkAdapter(id=adapter_id, **settings))


def test_ids_have_no_case() -> None:
    namespaces = Namespaces()
    assert namespaces.find("AB") is None
    made = namespaces.make("AB")
    assert namespaces.find("ab") is made
    assert namespaces.make("aB") is made


def test_one_container_at_a_time() -> None:
    namespaces = Namespaces()
    namespace = namespaces.make("ab")
    namespaces.enter(namespace, "one")
    with pytest.raises(GcsError, match="network namespace ab is in use by container one"):
        namespaces.enter(namespace, "two")


def test_its_container_takes_it_along() -> None:
    namespaces = Namespaces()
    namespace = namespaces.make("ab")
    namespaces.enter(namespace, "one")
    namespaces.leave(namespace)
    assert namespaces.find("ab") is None
    later = namespaces.make("ab")
    namespaces.leave(namespace)
    assert namespaces.find("ab") is later


def test_with_adapters_it_stays_and_can_be_used_again() -> None:
    namespaces = Namespaces()
    namespace = namespaces.make("ab")
    namespace.adapters.append(adapter())
    namespaces.enter(namespace, "one")
    namespaces.leave(namespace)
    assert namespaces.find("ab") is namespace
    namespaces.enter(namespace, "two")


def test_whoever_uses_it_keeps_it() -> None:
    namespaces = Namespaces()
    namespace = namespaces.make("ab")
    with namespaces.using(namespace):
        with namespaces.using(namespace):
            pass
        assert namespaces.find("ab") is namespace
    assert namespaces.find("ab") is None


def test_adapters_are_found_in_any_case() -> None:
    namespace = Namespaces().make("ab")
    namespace.adapters.append(adapter("XY"))
    assert namespace.find("xy") is namespace.adapters[0]
    assert namespace.find("xz") is None


def test_dns_of_the_host_wins_over_what_was_learned() -> None:
    namespace = Namespaces().make("ab")
    namespace.adapters += [adapter(dns_suffix="a", dns_server_list="1.1.1.1"), adapter("z")]
    for entry in namespace.adapters:
        entry.learned = ("b", "2.2.2.2")
    assert list(namespace.dns_settings) == [("a", "1.1.1.1"), ("b", "2.2.2.2")]
    namespace.adapters[1].forget_connection()
    assert list(namespace.dns_settings) == [("a", "1.1.1.1"), ("", "")]
