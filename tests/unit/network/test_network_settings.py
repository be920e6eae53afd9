"""What settings of a host mean for an adapter (spec 3.7, 6.3)."""

from __future__ import annotations

from typing import Any

import pytest

from gcs.network.job import Address, Route
from gcs.network.settings import check_adapter, plan_adapter, read_mac
from gcs.protocol.errors import InvalidArgumentError
from gcs.protocol.settings import IPConfig, NetworkAdapter, Route as RouteSettings

ID = "5c9c1bc3-ce31-45f6-bbbb-1bbbbbbbbbbb"


def adapter(**settings: Any) -> NetworkAdapter:
    return NetworkAdapter(**{"namespace_id": "ns", "id": ID, **settings})


def addresses(*entries: tuple[str, int]) -> list[IPConfig]:
    return [IPConfig(ip_address=ip, prefix_length=prefix) for ip, prefix in entries]


def route(next_hop: str = "", destination: str = "", metric: int = 0) -> RouteSettings:
    return RouteSettings(next_hop=next_hop, destination_prefix=destination, metric=metric)


def planned(*routes: RouteSettings, table: int = 0) -> tuple[Route, ...]:
    return plan_adapter(adapter(routes=list(routes)), "eth0", "", table).routes


def test_everything_of_an_adapter() -> None:
    settings = adapter(
        ip_configs=addresses(("10.0.0.4", 24), ("FE80::1", 64), ("10.0.0.4", 24)),
        routes=[route("10.0.0.1", "0.0.0.0/0")],
        encap_overhead=50,
    )
    check_adapter(settings)
    plan = plan_adapter(settings, "eth0", "00:11:22:33:44:55", 0)
    assert (plan.id, plan.interface, plan.mac) == (ID, "eth0", "00:11:22:33:44:55")
    assert plan.addresses == (Address("10.0.0.4", 24, 4), Address("fe80::1", 64, 6))
    assert plan.routes == (Route("", "10.0.0.1", 0, 4),)
    assert (plan.encapsulation, plan.table) == (50, 0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (route("10.0.0.1", "0.0.0.0/0", 7), Route("", "10.0.0.1", 7, 4)),
        (route("fd00::1", "::/0"), Route("", "fd00::1", 0, 6)),
        (route("10.0.0.1", "192.168.0.0/16"), Route("192.168.0.0/16", "10.0.0.1", 0, 4)),
        (route("", "192.168.0.0/16"), Route("192.168.0.0/16", "", 0, 4)),
        (route("0.0.0.0", "192.168.0.0/16"), Route("192.168.0.0/16", "", 0, 4)),
        (route("", "192.168.1.2/16"), Route("192.168.0.0/16", "", 0, 4)),
        (route("", "fd00:1::/48", 3), Route("fd00:1::/48", "", 3, 6)),
    ],
)
def test_routes(settings: RouteSettings, expected: Route) -> None:
    assert planned(settings) == (expected,)


@pytest.mark.parametrize("settings", [route("0.0.0.0", "0.0.0.0/0"), route("::", "::/0")])
def test_a_default_route_to_nowhere_is_left_out(settings: RouteSettings) -> None:
    assert planned(settings) == ()


def test_the_same_route_twice_is_one() -> None:
    assert len(planned(*[route("10.0.0.1", "0.0.0.0/0")] * 2)) == 1


def test_metrics_in_a_table_of_its_own() -> None:
    first, second = planned(route("10.0.0.1", "0.0.0.0/0"), route("", "10.1.0.0/16", 8), table=101)
    assert (first.metric, second.metric) == (500, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"namespace_id": ""}, "has no NamespaceID"),
        ({"id": ""}, "'' has no GUID as ID"),
        ({"id": "../../../x"}, "has no GUID as ID"),
        ({"mac_address": "00-11-22-33-44"}, "'00-11-22-33-44' is no MAC address"),
        ({"mac_address": "00-11-22-33-44-5g"}, "is no MAC address"),
        ({"mac_address": "01-00-5e-00-00-01"}, "is no MAC address"),
        ({"ip_configs": addresses(("10.0.0.256", 24))}, "'10.0.0.256' is no IP address"),
        ({"ip_configs": addresses(("", 24))}, "'' is no IP address"),
        ({"ip_configs": addresses(("fe80::1%eth0", 64))}, "is no IP address"),
        ({"ip_configs": addresses(("10.0.0.1", 33))}, "prefix length 33 of address 10.0.0.1"),
        ({"ip_configs": addresses(("fd00::1", 129))}, "is more than 128"),
        ({"routes": [route("", "::/0")]}, "gateway and destination cannot both be nil"),
        ({"routes": [route("10.0.0.1")]}, "DestinationPrefix '' is no network"),
        ({"routes": [route("10.0.0.x", "0.0.0.0/0")]}, "'10.0.0.x' is no IP address"),
        ({"routes": [route("10.0.0.1", "10.1.0.0")]}, "'10.1.0.0' is no network"),
        ({"routes": [route("10.0.0.1", "10.1.0.0/255.255.0.0")]}, "is no network"),
        ({"routes": [route("10.0.0.1", "nowhere/8")]}, "'nowhere/8' is no network"),
        ({"routes": [route("fd00::1", "0.0.0.0/0")]}, "one is IPv4, the other IPv6"),
        ({"routes": [route("10.0.0.1", "fd00::/8")]}, "one is IPv4, the other IPv6"),
    ],
)
def test_malformed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_adapter(adapter(**settings))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["00-15-5D-aB-00-01", "00:15:5d:ab:00:01", "00155DAB0001"])
def test_forms_of_mac_addresses(text: str) -> None:
    assert read_mac(adapter(mac_address=text)) == "00:15:5d:ab:00:01"
